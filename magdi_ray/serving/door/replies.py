"""From a checked request to replies: what both completion routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from magdi_ray.agents.streaming import Decoding, Piece, Prompt
from magdi_ray.serving.access import Visit
from magdi_ray.serving.door.entrance import Meter, check_bounds, reserve, resolve
from magdi_ray.serving.door.errors import too_late
from magdi_ray.serving.door.settings import Door, visit_of
from magdi_ray.serving.door.sse import Chunks, EventStream, Tally
from magdi_ray.serving.door.waiting import Late, Merged, all_of, attended
from magdi_ray.serving.limits import Account
from magdi_ray.serving.wire.fields import Drawing, choice_decoding

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be asked of the backend for one request, and who pays."""

    prompts: tuple[Prompt, ...]
    per_prompt: int
    decoding: Decoding
    """Of the first choice of each prompt."""
    meter: Meter
    question: bool
    """Whether it is asked as the teachers' debate is, so that tokens can be told as saved."""

    def work(self) -> list[tuple[Prompt, Decoding]]:
        """One prompt and decoding a choice, in the order of the choices."""
        return [(prompt, choice_decoding(self.decoding, index)) for prompt in self.prompts for index in range(self.per_prompt)]


def characters(prompts: Sequence[Prompt]) -> int:
    """Of all prompts; a token id counts as much as a token's characters."""
    total = 0
    for prompt in prompts:
        total += len(prompt.text or "") + 4 * len(prompt.ids or ()) + sum(len(one.content) for one in prompt.messages or ())
    return total


def take_order(
    request: Request,
    door: Door,
    account: Account,
    body: Drawing,
    prompts: tuple[Prompt, ...],
    *,
    top_logprobs: int | None,
    samples: int | None = None,
    temperature: float = 1.0,
) -> Order:
    """Check a request against what is served and what its key may use.

    Raises:
        ApiError: 400, 404, 429.
        BusyError: the door is full.
    """
    visit, settings = visit_of(request), door.settings
    adapter = resolve(settings, body.model, visit)
    check_bounds(settings, choices=body.choices, longest=body.longest)
    default = settings.default_max_tokens
    meter = reserve(
        account,
        visit,
        door.draws,
        characters=characters(prompts),
        longest=body.longest,
        default=default,
        replies=samples or body.choices * len(prompts),
    )
    decoding = body.decoding(default_max_tokens=default, adapter=adapter, top_logprobs=top_logprobs, temperature=temperature)
    visit.stream = bool(body.stream)
    if settings.endpoint.log_prompts:
        visit.texts["prompt"] = [shown(prompt) for prompt in prompts]
    return Order(prompts, body.choices, decoding, meter, question=prompts[0].messages is not None)


def shown(prompt: Prompt) -> Any:
    """A prompt for the log, where that is asked for."""
    if prompt.messages is not None:
        return [{"role": message.role, "content": message.content} for message in prompt.messages]
    return prompt.text if prompt.text is not None else list(prompt.ids or ())


async def in_time(work: Coroutine[Any, Any, T], request: Request, door: Door) -> T:
    """The result of some work, while the client waits and there is time.

    Raises:
        ApiError: 504.
        ClientGone: the client left.
    """
    try:
        return await attended(work, request.receive, visit_of(request).deadline)
    except Late:
        raise too_late(door.settings.endpoint.request_timeout_s) from None


async def whole(request: Request, door: Door, order: Order) -> list[Piece]:
    """Every choice's reply.

    Raises:
        ApiError: 504.
        ClientGone: the client left; nothing is generated any more.
        EngineError: one of them could not be had.
    """
    with order.meter.asking(order.meter.reserved):
        work = (door.backend.complete(prompt, decoding) for prompt, decoding in order.work())
        pieces = await in_time(all_of(work), request, door)
        note(door, visit_of(request), order, tally_of(door, order.per_prompt, pieces), complete=True)
    order.meter.settle()
    return pieces


def tally_of(door: Door, per_prompt: int, pieces: Sequence[Piece] = ()) -> Tally:
    """A tally that keeps texts only where they are to be logged."""
    return Tally(per_prompt, pieces, texts=door.settings.endpoint.log_prompts)


async def streamed(request: Request, door: Door, order: Order, chunks: Chunks, *, counts: bool) -> EventStream:
    """The response that sends every choice's reply as it is written. The first piece is waited for: what fails before it is an
    error with a status of its own.

    Raises:
        ApiError: 504.
        ClientGone: the client left; nothing is generated any more.
        EngineError: there was no first piece.
    """
    visit = visit_of(request)
    merged = Merged([door.backend.stream(prompt, decoding) for prompt, decoding in order.work()], request.receive)

    def done(tally: Tally, complete: bool, failed: bool) -> None:
        note(door, visit, order, tally, complete=complete)
        if failed:
            order.meter.used = 0.0
        order.meter.settle()

    timeout_s = door.settings.endpoint.request_timeout_s
    first: list[tuple[int, Piece]] | None = None
    with order.meter.asking(order.meter.prompt):  # before the first piece nothing is written
        try:
            async with asyncio.timeout_at(visit.deadline) as limit:
                first = await merged.batch()
        except TimeoutError:
            if not limit.expired():
                raise  # the backend's own
            raise too_late(timeout_s) from None
        finally:
            if first is None:
                await merged.close()
    visit.first_s = visit.elapsed()
    door.recorder.first_piece(model=visit.model or "", seconds=visit.first_s)
    tally = tally_of(door, order.per_prompt)
    return EventStream(merged, first, chunks, tally=tally, visit=visit, timeout_s=timeout_s, counts=counts, done=done)


def note(door: Door, visit: Visit, order: Order, tally: Tally, *, complete: bool) -> None:
    """Write down what a request used."""
    visit.tokens_in, visit.tokens_out = tally.tokens_in, tally.tokens_out
    order.meter.used = visit.tokens_in + visit.tokens_out
    model = visit.model or ""
    door.recorder.queued(model=model, seconds=tally.queued_s)
    door.recorder.replied(model=model, tokens_in=visit.tokens_in, tokens_out=visit.tokens_out, seconds=visit.elapsed())
    if complete and order.question and door.settings.debate_tokens is not None:
        door.recorder.saved(model=model, tokens=max(0.0, door.settings.debate_tokens - visit.tokens_out))
    if door.settings.endpoint.log_prompts:
        visit.texts["reply"] = tally.replies()

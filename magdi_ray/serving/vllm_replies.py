"""What vLLM is asked for a reply, and what its answers mean: fields of its completion requests, and pieces of a reply.

    data: {"choices": [{"token_ids": [504, 11], "logprobs": {"token_logprobs": [-0.1, -2.3], ...}, "finish_reason": null}]}

Tokens travel as ids, and are spelled out by the code that does it for our own engine. Knows neither vLLM's classes nor HTTP.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from ray.exceptions import RayTaskError, WorkerCrashedError

from magdi_ray.agents.base import BusyError, PromptError
from magdi_ray.agents.choosing import Row, Top
from magdi_ray.agents.streaming import Decoding, Piece
from magdi_ray.agents.vllm import completion_request
from magdi_ray.agents.written import Scribe
from magdi_ray.errors import EngineError

SEEDS = 2**63
"""vLLM's seeds are below this."""

DEAD = "EngineDeadError", "EngineCore encountered an issue"
"""What vLLM's errors are called, and how they begin, when the process that decodes has died."""

TOKEN = "token_id:"  # noqa: S105 - no secret
"""How vLLM writes tokens that are asked for by id."""


def reply_request(model: str, ids: list[int], decoding: Decoding) -> dict[str, Any]:
    """The fields of a completion request: those of a teacher's, and what only serving asks for."""
    return completion_request(model, ids, decoding) | {
        "seed": None if decoding.seed is None else decoding.seed % SEEDS,
        "frequency_penalty": decoding.frequency_penalty,
        "presence_penalty": decoding.presence_penalty,
        "logprobs": decoding.top_logprobs or 0,
        "return_tokens_as_token_ids": True,
    }


def write(row: Row, response: Mapping[str, Any]) -> None:
    """Write down the tokens of a response, or of one event of a stream.

    Raises:
        EngineError: the reply ended in another way than by `stop` or `length`.
    """
    for choice in response["choices"]:
        ids, told = choice.get("token_ids") or [], choice.get("logprobs") or {}
        row.tokens += ids
        row.logprobs += told["token_logprobs"] if ids else []
        if row.decoding.top_logprobs and ids:
            row.tops += [likeliest(top, row.decoding.top_logprobs) for top in told["top_logprobs"]]
        end = choice.get("finish_reason")
        if end not in (None, "stop", "length"):
            raise EngineError(f"vLLM broke off a reply: its finish_reason is {end!r}.")
        row.end = end
    waited = (response.get("metrics") or {}).get("queue_time_ms")
    if waited is not None:
        row.started_s = row.entered_s + waited / 1000


def likeliest(top: Mapping[str, float], count: int) -> Top:
    """The likeliest tokens of a place. vLLM counts the chosen one among them, wherever it stands."""
    ranked = sorted(top.items(), key=lambda entry: -entry[1])
    return tuple((int(token.removeprefix(TOKEN)), logprob) for token, logprob in ranked[:count])


def read_logprobs(places: Sequence[Mapping[Any, Any] | None], tokens: Sequence[int]) -> list[float]:
    """Log-probabilities of the last tokens of a prompt, from vLLM's account of all of them."""
    found = []
    for token, place in zip(tokens, places[-len(tokens) :], strict=True):
        assert place is not None
        told = {int(id): entry["logprob"] for id, entry in place.items()}
        found.append(float(told[token]))
    return found


class Reading:
    """The pieces of one reply, read from vLLM's stream as it arrives."""

    def __init__(self, responses: Any, row: Row, scribe: Scribe) -> None:
        self._responses = responses
        self._events = _flat(outlived(responses))
        self._row = row
        self._scribe = scribe

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> Piece:
        async for event in self._events:
            write(self._row, event)
            # The last piece waits for vLLM's account of the request, which comes at once behind the last token.
            if (self._row.end is None or not event["choices"]) and (piece := self._scribe.read()):
                return piece
        if not self._scribe.finished and self._row.end is not None and (piece := self._scribe.read()):
            return piece
        raise StopAsyncIteration

    def cancel(self) -> None:
        """End the generation, if it has not ended."""
        self._responses.cancel()


async def _flat(responses: AsyncIterator[Any]) -> AsyncIterator[dict[str, Any]]:
    async for item in responses:
        for event in events(item):
            yield event


async def outlived(responses: Any) -> AsyncIterator[Any]:
    """What a copy answers; a copy whose engine has died counts as dead itself, which it soon will be."""
    try:
        async for item in responses:
            yield item
    except Exception as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if DEAD[0] in (kind.__name__ for kind in type(cause).__mro__):
            raise WorkerCrashedError from error
        raise


def events(item: Any) -> Iterator[dict[str, Any]]:
    """The responses in one item of a stream. Ray hands over several at a time: objects, or texts of server-sent events.

    Raises:
        PromptError: vLLM refuses the request.
        BusyError: it has no room for it now.
        EngineError: vLLM could not answer it; `WorkerCrashedError` where its engine has died.
    """
    for part in item if isinstance(item, list) else [item]:
        if not isinstance(part, str):
            yield _accepted(part.model_dump())
            continue
        for line in part.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield _accepted(json.loads(line.removeprefix("data: ")))


def _accepted(response: dict[str, Any]) -> dict[str, Any]:
    if (error := response.get("error")) is None:
        return response
    if str(error["message"]).startswith(DEAD[1]):
        raise WorkerCrashedError
    if error.get("code") in (400, 422):
        raise PromptError(f"vLLM refuses the request: {error['message']}")
    if error.get("code") in (429, 503):
        raise BusyError(f"vLLM takes no request just now: {error['message']}")
    raise EngineError(f"vLLM could not answer: {error['message']}")

"""What a key is charged: what was used, also by those who leave or take too long; nothing for our own failures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from magdi_ray.agents.streaming import Piece, Prompt, Scores
from magdi_ray.config.serving import KeyLimits
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.door import create_api
from magdi_ray.serving.door.sse import Tally
from magdi_ray.serving.limits import Limits
from tests.serving.doors import HI, Scripted, Voting, call, chat, say, settings
from tests.serving.test_door_streams import Client, Deaf

LIMITS = KeyLimits(tpm=1000)


class Thinking(Scripted):
    """Its judgements take their time."""

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        await asyncio.sleep(60)
        raise AssertionError


def metered(backend: Any = None, *, ensemble: Any = None, **endpoint: Any) -> FastAPI:
    """A door at which no time passes: what was taken stays taken."""
    limits = Limits(clock=lambda: 0.0)
    return create_api(backend or Scripted(), settings(limits=LIMITS, **endpoint), ensemble=ensemble, limits=limits)


def charged(api: FastAPI) -> int:
    account = api.state.door.limits.account("", LIMITS)
    return 1000 - int(account.headers()["x-ratelimit-remaining-tokens"])


def asking(word: str, **changes: Any) -> dict[str, Any]:
    return HI | {"messages": [{"role": "user", "content": word}]} | changes


async def leaves(api: FastAPI, body: Any, path: str = "/v1/chat/completions", *, cancelled: bool = False) -> None:
    client = Client(body)
    task = client.ask(api, path)
    await asyncio.sleep(0.05)
    client.leave.set() if not cancelled else task.cancel()
    await asyncio.wait([task], timeout=2)


@pytest.mark.parametrize("cancelled", [False, True])
def test_who_leaves_before_a_whole_reply_is_there_pays_what_was_reserved(cancelled: bool) -> None:
    api = metered()
    asyncio.run(leaves(api, asking("halt", max_tokens=600), cancelled=cancelled))
    assert charged(api) == 601
    assert say(api, "hi", max_tokens=600).status_code == 429


def test_a_reply_that_takes_too_long_is_paid_for() -> None:
    api = metered(request_timeout_s=0.05)
    assert say(api, "halt", max_tokens=600).status_code == 504
    assert charged(api) == 601


def test_who_leaves_a_stream_pays_what_was_written() -> None:
    backend = Scripted()
    api = metered(backend)
    asyncio.run(leaves(api, asking("forever", stream=True, max_tokens=900)))
    assert 0 < backend.written < 100
    assert charged(api) == 2 + backend.written


def test_who_does_not_read_a_stream_pays_what_was_written_all_the_same() -> None:
    backend = Scripted()
    api = metered(backend, request_timeout_s=0.1)

    async def run() -> None:
        await asyncio.wait_for(Deaf(asking("forever", stream=True, max_tokens=900)).ask(api), 5)

    asyncio.run(run())
    assert backend.written > 10
    assert charged(api) == pytest.approx(2 + backend.written, abs=3)


def test_who_leaves_a_stream_before_its_first_piece_pays_the_prompt() -> None:
    api = metered()
    body = HI | {"messages": [{"role": "system", "content": "x" * 400}, {"role": "user", "content": "halt"}]}
    asyncio.run(leaves(api, body | {"stream": True, "max_tokens": 600}))
    assert charged(api) == 101


@pytest.mark.parametrize("word", ["fail", "bug", "busy", "so midway"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_failed_through_no_fault_of_the_client_is_free(word: str, stream: bool) -> None:
    api = metered()
    say(api, word, stream=stream, max_tokens=900)
    assert charged(api) == 0


def test_who_leaves_before_a_judgement_is_there_pays_what_was_reserved() -> None:
    api = metered(Thinking())
    asyncio.run(leaves(api, {"model": "student", "messages": HI["messages"], "reply": "y" * 400}, "/v1/score"))
    assert charged(api) == 102


@pytest.mark.parametrize(("stored", "error", "tokens"), [(False, None, 318), (False, "No answer.", 318), (True, None, 18)])
def test_the_teachers_tokens_are_paid_by_the_key_that_caused_them(stored: bool, error: str | None, tokens: int) -> None:
    found = Escalated("q", "It is 4.", "4", 1.0, 1, ("ada",), 200, 100, stored=stored, error=error)
    api = metered(ensemble=Voting(found))
    assert chat(api, magdi={"samples": 2, "escalate_below": 0.9}, max_tokens=20).status_code == 200
    assert charged(api) == tokens


def test_texts_are_kept_only_where_they_are_logged() -> None:
    pieces = [Piece("a", 1, 1, finish_reason="stop"), Piece("b", 1, 1, finish_reason="stop")]
    assert Tally(1, pieces, texts=False).replies() == []
    assert Tally(1, pieces, texts=True).replies() == ["a", "b"]


def test_a_request_that_is_met_pays_what_it_used() -> None:
    api = metered()
    call(api, "POST", "/v1/completions", {"model": "student", "prompt": "a b c", "max_tokens": 300})
    assert charged(api) == 2 + 3

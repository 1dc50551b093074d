"""A backend that says what a test's words ask for, and front doors before it; no Ray and no model."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from magdi_ray.agents.base import BusyError, ContextLengthError, PromptError
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores, TokenLogprob, joined
from magdi_ray.config.serving import Endpoint
from magdi_ray.errors import EngineError
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.door import DoorSettings, create_api
from magdi_ray.serving.ensemble import Ensembled, Vote, Wish

CONTEXT = 4096

HI: dict[str, Any] = {"model": "student", "messages": [{"role": "user", "content": "hi there"}]}

WORDS: dict[str, Exception] = {
    "long": ContextLengthError("9 tokens and max_tokens=8 exceed the 16"),
    "refuse": PromptError("the template refuses this"),
    "busy": BusyError("no room in /srv/queue"),
    "fail": EngineError("cannot open /srv/secret/weights"),
    "bug": ZeroDivisionError("a bug in /srv/secret"),
}


def last_word(prompt: Prompt) -> str:
    """What a prompt ends in."""
    if prompt.messages:
        return prompt.messages[-1].content
    return prompt.text if prompt.text is not None else " ".join(map(str, prompt.ids or ()))


class Scripted:
    """Says each word of the prompt back, a piece a word; some words fail, wait, or fail midway."""

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, Decoding]] = []
        self.running = 0
        self.written = 0

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        self.asked.append((prompt, decoding))
        text = last_word(prompt)
        if text in WORDS:
            raise WORDS[text]
        if not decoding.clip_to_context and decoding.max_tokens > CONTEXT:
            raise ContextLengthError(f"2 tokens and max_tokens={decoding.max_tokens} exceed the {CONTEXT}")
        self.running += 1
        try:
            words = [f"{word} " for word in text.split()] or ["empty "]
            limit = decoding.max_tokens
            for number, word in enumerate(words[:limit], 1):
                if word == "midway ":
                    raise EngineError("the copy at /srv/secret died")
                if word == "halt ":
                    await asyncio.sleep(60)
                while word == "forever ":
                    await asyncio.sleep(0.002)
                    self.written += 1
                    yield Piece("more ", 2, self.written)
                log = TokenLogprob(word, word.encode(), -0.5, ((word, word.encode(), -0.5), ("x", b"x", -1.5)))
                logprobs = () if decoding.top_logprobs is None else (log,)
                last = number == len(words[:limit])
                reason = None if not last else ("length" if len(words) > limit else "stop")
                yield Piece(word, 2, number, logprobs, reason, 0.5 if last else None, 0.01)
        finally:
            self.running -= 1

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        return joined([piece async for piece in self.stream(prompt, decoding)])

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        if reply in WORDS:
            raise WORDS[reply]
        return Scores(logprob=-3.0, tokens=4, contrast=0.25, correct=None)


class Voting:
    """An ensemble that notes what it was asked."""

    def __init__(self, teachers: Escalated | None = None) -> None:
        self.asked: list[tuple[Decoding, Wish]] = []
        self.teachers = teachers

    async def ask(self, prompt: Prompt, decoding: Decoding, wish: Wish, *, drawn: Callable[[], None] = lambda: None) -> Ensembled:
        self.asked.append((decoding, wish))
        piece = Piece("It is 4.", 2, 16, finish_reason="stop")
        drawn()
        return Ensembled(piece, "4", 0.75, (Vote("4", 3, 3.0), Vote("5", 1, 1.0)), 0, 0, wish, self.teachers)


def settings(**endpoint: Any) -> DoorSettings:
    """A door's settings, with bounds of the test's own."""
    return DoorSettings("student", Endpoint(**endpoint), adapters=("terse",), created=1_700_000_000, debate_tokens=100.0)


def make(backend: Any = None, **endpoint: Any) -> FastAPI:
    """A door that asks for no key."""
    return create_api(backend or Scripted(), settings(**endpoint))


async def call_async(api: FastAPI, method: str, path: str, body: Any = None, **request: Any) -> httpx.Response:
    """One request, without a network."""
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **({"json": body} if body is not None else {}), **request)


def call(api: FastAPI, method: str, path: str, body: Any = None, **request: Any) -> httpx.Response:
    """One request, without a network."""
    return asyncio.run(call_async(api, method, path, body, **request))


def chat(api: FastAPI, **changes: Any) -> httpx.Response:
    """A chat request."""
    return call(api, "POST", "/v1/chat/completions", HI | changes)


def say(api: FastAPI, text: str, **changes: Any) -> httpx.Response:
    """A chat request with a text of its own."""
    return chat(api, messages=[{"role": "user", "content": text}], **changes)


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events; `[DONE]` as it is."""
    lines = [part.removeprefix("data: ") for part in response.text.split("\n\n") if part]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextmanager
def listening(api: FastAPI) -> Iterator[str]:
    """A real server on a free port of this machine; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)

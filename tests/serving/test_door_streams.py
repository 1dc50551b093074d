"""Streams: what is sent, in which order, and what ends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from magdi_ray.agents.streaming import Decoding, Piece, Prompt
from magdi_ray.serving.wire.chat import ChatChunk
from magdi_ray.serving.wire.completions import CompletionChunk
from tests.serving.doors import HI, Scripted, call, chat, events, make, say


def test_a_stream_begins_with_the_role_and_ends_with_done() -> None:
    answer = chat(make(), stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    *chunks, done = events(answer)
    assert done == "[DONE]"
    read = [ChatChunk.model_validate(chunk).choices[0] for chunk in chunks]
    assert (read[0].delta.role, read[0].delta.content) == ("assistant", "")
    assert "".join(one.delta.content or "" for one in read) == "hi there "
    assert [one.finish_reason for one in read] == [None] * (len(read) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_token_counts_come_last_where_they_are_asked_for() -> None:
    *chunks, done = events(chat(make(), stream=True, n=2, stream_options={"include_usage": True}))
    assert (chunks[-1]["choices"], done) == ([], "[DONE]")
    assert chunks[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert all("usage" not in chunk for chunk in events(chat(make(), stream=True))[:-1])


def test_each_choice_of_a_stream_is_whole() -> None:
    chunks = events(chat(make(), stream=True, n=3, logprobs=True))[:-1]
    for index in range(3):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(one["delta"].get("content", "") for one in own) == "hi there "
        assert own[-1]["finish_reason"] == "stop"
        assert sum(len(one["logprobs"]["content"]) for one in own if one["logprobs"]) == 2


def test_a_completion_streams_text() -> None:
    body = {"model": "student", "prompt": ["a b", "c"], "stream": True, "max_tokens": 1}
    *chunks, done = events(call(make(), "POST", "/v1/completions", body))
    read = [CompletionChunk.model_validate(chunk).choices[0] for chunk in chunks]
    assert {(one.index, one.text, one.finish_reason) for one in read} == {(0, "a ", "length"), (1, "c ", "stop")}
    assert done == "[DONE]"


def test_an_error_in_the_midst_of_a_stream_is_its_last_event() -> None:
    *chunks, last = events(say(make(), "so midway", stream=True))
    assert chunks[-1]["choices"][0]["delta"]["content"] == "so "
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "engine_error")
    assert "/srv" not in json.dumps(last)


def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    backend = Scripted()
    *chunks, last = events(say(make(backend, request_timeout_s=0.2), "forever", stream=True))
    assert chunks
    assert last["error"]["code"] == "timeout"
    assert backend.running == 0


class Client:
    """Speaks ASGI by itself, and leaves when it likes."""

    def __init__(self, body: Any) -> None:
        self._body = json.dumps(body).encode()
        self._asked = False
        self.leave = asyncio.Event()
        self.got: list[Any] = []
        self.first = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.got.append(message)
        if message["type"] == "http.response.body":
            self.first.set()

    def ask(self, api: FastAPI, path: str = "/v1/chat/completions") -> asyncio.Task[None]:
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http"}
        return asyncio.ensure_future(api(scope, self.receive, self.send))


@pytest.mark.parametrize("changes", [{"stream": True}, {"stream": True, "n": 3}])
def test_a_client_that_leaves_midway_ends_the_generation_at_once(changes: Any) -> None:
    async def run() -> None:
        backend = Scripted()
        client = Client(HI | {"messages": [{"role": "user", "content": "forever"}]} | changes)
        task = client.ask(make(backend))
        await asyncio.wait_for(client.first.wait(), 5)
        assert backend.running == changes.get("n", 1)
        client.leave.set()
        await asyncio.wait_for(task, 1)
        written = backend.written
        await asyncio.sleep(0.05)
        assert (backend.running, backend.written) == (0, written)

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_piece_ends_the_generation(stream: bool) -> None:
    async def run() -> None:
        backend = Scripted()
        client = Client(HI | {"messages": [{"role": "user", "content": "halt"}], "stream": stream})
        task = client.ask(make(backend))
        await asyncio.sleep(0.05)
        assert backend.running == 1
        client.leave.set()
        await asyncio.wait_for(task, 1)
        assert backend.running == 0

    asyncio.run(run())


def test_a_server_that_cancels_a_request_ends_the_generation() -> None:
    async def run() -> None:
        backend = Scripted()
        client = Client(HI | {"messages": [{"role": "user", "content": "forever"}], "stream": True})
        task = client.ask(make(backend))
        await client.first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.running == 0

    asyncio.run(run())


def test_a_thousand_clients_that_leave_leave_nothing_behind() -> None:
    async def run() -> None:
        backend = Scripted()
        api = make(backend)
        for _ in range(20):
            clients = [Client(HI | {"messages": [{"role": "user", "content": "forever"}], "stream": True}) for _ in range(50)]
            tasks = [client.ask(api) for client in clients]
            for client in clients:
                await client.first.wait()
                client.leave.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert backend.running == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


class Deaf(Client):
    """Reads nothing."""

    async def send(self, message: Any) -> None:
        self.got.append(message)
        await asyncio.sleep(60)


class Broken(Client):
    """Its connection breaks while it is written to."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        raise BrokenPipeError


@pytest.mark.parametrize("kind", [Deaf, Broken])
def test_a_client_that_cannot_be_written_to_is_given_up(kind: Any) -> None:
    async def run() -> None:
        backend = Scripted()
        client = kind(HI | {"messages": [{"role": "user", "content": "forever"}], "stream": True})
        await asyncio.wait_for(client.ask(make(backend, request_timeout_s=0.2)), 5)
        assert backend.running == 0

    asyncio.run(run())


class Short(Scripted):
    """Its streams end before their replies do."""

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        yield Piece("so", 1, 1)


def test_a_stream_that_breaks_off_is_an_error_and_not_an_end() -> None:
    *chunks, last = events(chat(make(Short()), stream=True))
    assert chunks[-1]["choices"][0]["delta"]["content"] == "so"
    assert last["error"]["code"] == "engine_error"


def test_a_body_that_comes_too_slowly_is_not_waited_for() -> None:
    async def run() -> None:
        client = Client(HI)
        client._asked = True  # nothing comes, and nobody leaves
        await asyncio.wait_for(client.ask(make(request_timeout_s=0.1)), 5)
        assert client.got[0]["status"] == 408

    asyncio.run(run())

"""How much a door takes on at once: all of a request or nothing, and everything is given back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI

from magdi_ray.agents.base import BusyError
from magdi_ray.serving.door import create_api
from magdi_ray.serving.door.gate import Gate
from tests.serving.doors import HI, Scripted, Voting, call, call_async, chat, settings
from tests.serving.test_door_streams import Client

CHAT = "/v1/chat/completions"


def door(capacity: int | None, **endpoint: Any) -> FastAPI:
    return create_api(Scripted(), replace(settings(**endpoint), capacity=capacity))


def asking(word: str, **changes: Any) -> dict[str, Any]:
    return HI | {"messages": [{"role": "user", "content": word}]} | changes


def test_what_fits_is_let_in_and_what_does_not_is_refused_as_a_whole() -> None:
    gate = Gate(10)
    gate.enter(6)
    with pytest.raises(BusyError, match=r"6 replies are under way, 5 more are asked for, 10 may be at once"):
        gate.enter(5)
    gate.enter(4)
    assert gate.taken == 10
    gate.leave(6)
    gate.enter(6)


def test_one_that_is_alone_is_let_in_however_much_it_brings() -> None:
    gate = Gate(10)
    gate.enter(64)
    with pytest.raises(BusyError):
        gate.enter(1)
    gate.enter(1, held=64)  # it is still alone
    gate.leave(65)
    gate.enter(64)


def test_without_a_capacity_everything_is_let_in() -> None:
    gate = Gate(None)
    for _ in range(3):
        gate.enter(10**6)


def test_a_request_is_asked_for_in_all_its_draws_or_told_to_come_again() -> None:
    async def run() -> None:
        api = door(24)
        backend = api.state.door.backend
        client = Client(asking("halt", n=16))
        first = client.ask(api)
        await asyncio.sleep(0.02)
        refused = await call_async(api, "POST", CHAT, asking("hi", n=9))
        assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert len(backend.asked) == 16
        assert (await call_async(api, "POST", CHAT, asking("hi", n=8))).status_code == 200
        client.leave.set()
        await first
        assert (await call_async(api, "POST", CHAT, asking("hi", n=9))).status_code == 200

    asyncio.run(run())


def test_many_draws_at_once_on_an_idle_door_all_find_room() -> None:
    api = door(8)
    assert chat(api, n=16).status_code == 200
    voting = create_api(Scripted(), replace(settings(), capacity=8), ensemble=Voting())
    assert chat(voting, magdi={"samples": 64}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("word", ["hi", "fail", "bug", "busy", "so midway", "halt", "so halt"])
def test_a_place_is_given_back_however_a_request_ends(word: str, stream: bool) -> None:
    api = door(4, request_timeout_s=0.1)
    call(api, "POST", CHAT, asking(word, stream=stream, n=2))
    assert api.state.door.draws.taken == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["leaves", "cancelled"])
def test_a_place_is_given_back_when_the_client_leaves_or_the_server_stops(how: str, stream: bool) -> None:
    async def run() -> None:
        api = door(4)
        client = Client(asking("halt", stream=stream))
        task = client.ask(api)
        await asyncio.sleep(0.02)
        assert api.state.door.draws.taken == 1
        client.leave.set() if how == "leaves" else task.cancel()
        await asyncio.wait([task], timeout=2)
        assert api.state.door.draws.taken == 0

    asyncio.run(run())


def test_a_refusal_for_tokens_or_room_holds_no_place_and_no_tokens() -> None:
    async def run() -> None:
        api = door(2, limits={"tpm": 1000})
        client = Client(asking("halt", max_tokens=500))
        first = client.ask(api)
        await asyncio.sleep(0.02)
        assert (await call_async(api, "POST", CHAT, asking("hi", n=2, max_tokens=200))).status_code == 503
        assert (await call_async(api, "POST", CHAT, asking("hi", max_tokens=600))).status_code == 429
        assert (await call_async(api, "POST", CHAT, asking("hi", max_tokens=450))).status_code == 200
        assert api.state.door.draws.taken == 1
        client.leave.set()
        await first

    asyncio.run(run())


def test_a_judgement_takes_a_place_as_a_reply_does() -> None:
    async def run() -> None:
        api = door(1)
        client = Client(asking("halt"))
        first = client.ask(api)
        await asyncio.sleep(0.02)
        body = {"model": "student", "messages": HI["messages"], "reply": "yes"}
        assert (await call_async(api, "POST", "/v1/score", body)).status_code == 503
        client.leave.set()
        await first
        assert (await call_async(api, "POST", "/v1/score", body)).status_code == 200

    asyncio.run(run())


def test_who_waits_for_the_teachers_takes_up_no_room() -> None:
    seen = []

    class Looking(Voting):
        async def ask(self, *args: Any, **kwargs: Any) -> Any:
            gate = api.state.door.draws
            seen.append(gate.taken)
            result = await super().ask(*args, **kwargs)
            seen.append(gate.taken)
            return result

    api = create_api(Scripted(), replace(settings(), capacity=8), ensemble=Looking())
    chat(api, magdi={"samples": 6})
    assert seen == [6, 0]


class Slow(Client):
    """Sends its body in two parts, the second one when it likes."""

    def __init__(self, body: Any) -> None:
        super().__init__(body)
        self.go_on = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body[:-1], "more_body": True}
        await self.go_on.wait()
        self.go_on = self.leave
        return {"type": "http.request", "body": self._body[-1:], "more_body": False}


def test_bodies_that_are_read_together_have_a_bound_and_one_alone_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.serving.door.api.BUFFERED_BYTES", 50)

    async def run() -> None:
        api = door(None)
        slow = Slow(HI)
        task = slow.ask(api)
        await asyncio.sleep(0.02)
        assert (await call_async(api, "POST", CHAT, HI)).status_code == 503
        slow.go_on.set()
        await task
        assert slow.got[0]["status"] == 200
        assert api.state.door.bodies.taken == 0
        assert (await call_async(api, "POST", CHAT, HI)).status_code == 200

    asyncio.run(run())


def test_a_body_has_a_deadline_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.serving.door.body.READ_S", 0.05)

    async def run() -> None:
        api = door(None)
        slow = Slow(HI)
        await asyncio.wait_for(slow.ask(api), 2)
        assert slow.got[0]["status"] == 408
        assert api.state.door.bodies.taken == 0

    asyncio.run(run())

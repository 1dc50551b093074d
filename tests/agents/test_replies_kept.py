"""A reply that is paid for outlasts a disk that is full for a moment."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from magdi_ray.agents import store
from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.store import ReplyStore, StoredEngine
from magdi_ray.errors import EngineError

ASKED = [Message("user", "2 + 2?")]


class Paid:
    """Every call costs."""

    def __init__(self) -> None:
        self.calls = 0

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        self.calls += 1
        return Reply("4", 5, 2, None, "stop", "far")


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow, as on a disk that is full: the kernel refuses every write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_reply_waits_for_room_and_is_asked_for_once(tmp_path: Path) -> None:
    engine, place = Paid(), str(tmp_path)

    async def asked_while_full() -> str:
        asking = StoredEngine(engine, ReplyStore(place), agent="far", provider="lab", model="far")
        with no_room():
            reply = asyncio.ensure_future(asking.generate(ASKED, Sampling()))
            await asyncio.sleep(0.5)
            assert not reply.done()
        return (await reply).text

    assert asyncio.run(asked_while_full()) == "4"
    again = StoredEngine(engine, ReplyStore(place), agent="far", provider="lab", model="far")
    assert asyncio.run(again.generate(ASKED, Sampling())).text == "4"
    assert engine.calls == 1


def test_storage_that_stays_full_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEEPING_S", 0.3)
    asking = StoredEngine(Paid(), ReplyStore(str(tmp_path)), agent="far", provider="lab", model="far")
    with no_room(), pytest.raises(EngineError, match=r"could not be written to .*Free space there"):
        asyncio.run(asking.generate(ASKED, Sampling()))

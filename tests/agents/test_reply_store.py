"""The reply store: what was answered once is read ever after, whatever happened to the process that asked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.budget import Spend
from magdi_ray.agents.segments import COMMIT_LINES
from magdi_ray.agents.store import ReplyStore, StoredEngine, decode_record, encode_record, reply_key
from magdi_ray.config.engines import Price
from magdi_ray.errors import ConfigError, EngineError

ASKED = [Message("system", "Be brief."), Message("user", "2 + 2?")]
FOUR = Reply(text="4", tokens_in=5, tokens_out=2, confidence=0.1 + 0.2, finish_reason="stop", model="ada-7b")
FIVE = Reply(text="five\n", tokens_in=5, tokens_out=7, confidence=None, finish_reason="length", model="bob")


def key_of(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


def keep(store: ReplyStore, *names: object, reply: Reply = FOUR, agent: str = "ada", usd: float = 0.5) -> None:
    async def puts() -> None:
        await asyncio.gather(*(store.put(key_of(name), reply, agent=agent, usd=usd) for name in names))

    asyncio.run(puts())


def line(name: object, reply: Reply = FOUR) -> bytes:
    return encode_record(key_of(name), reply, agent="ada", run="", usd=0.5)


def found(store: ReplyStore, *names: object) -> list[object]:
    return [name for name in names if store.get(key_of(name)) is not None]


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "replies") if request.param == "file" else f"memory://{uuid.uuid4().hex}/replies"


class Counting:
    """Answers with the number of the call; fails while told to."""

    def __init__(self, failing: bool = False) -> None:
        self.calls = 0
        self.failing = failing

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0.01)
        if self.failing:
            raise EngineError("out of order")
        return replace(FOUR, text=str(number))


def stored(engine: Counting, store: ReplyStore, agent: str = "ada") -> StoredEngine:
    return StoredEngine(engine, store, agent=agent, provider="lab", model="ada-7b", price=Price(input=1e6, output=2e6))


def ask_key(**changed: object) -> str:
    asked = {"provider": "lab", "model": "ada-7b", "messages": ASKED, "sampling": Sampling(seed=3), "sample": 0} | changed
    return reply_key(**asked)  # type: ignore[arg-type]  # one ingredient at a time is changed


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    assert ask_key() == "0fa137389b6f81f5ac7d9643b9cff696"


def test_a_key_differs_by_each_ingredient() -> None:
    others = [
        *(ask_key(**{name: "other"}) for name in ("provider", "model")),
        ask_key(messages=ASKED[1:]),
        ask_key(messages=[Message("user", "Be brief."), ASKED[1]]),
        ask_key(messages=[ASKED[0], Message("user", "2 + 3?")]),
        ask_key(sample=1),
        *(ask_key(sampling=Sampling(**changed)) for changed in ({}, {"seed": 4}, {"seed": 3, "temperature": 0.5})),
        *(ask_key(sampling=Sampling(seed=3, **changed)) for changed in ({"top_p": 0.5}, {"max_tokens": 9}, {"stop": ("A",)})),
    ]
    assert len({ask_key(), *others}) == len(others) + 1


def test_every_field_of_sampling_is_in_the_key() -> None:
    assert list(Sampling().__dict__) == list(Sampling.model_fields)


def test_a_second_ask_is_read_in_the_same_process_and_in_a_new_store(url: str) -> None:
    engine = Counting()

    async def twice() -> list[Reply]:
        asking = stored(engine, ReplyStore(url))
        replies = [await asking.generate(ASKED, Sampling()), await asking.generate(ASKED, Sampling())]
        assert (asking.hits, asking.misses) == (1, 1)
        return [*replies, await stored(engine, ReplyStore(url)).generate(ASKED, Sampling())]

    assert [reply.text for reply in asyncio.run(twice())] == ["1", "1", "1"]
    assert engine.calls == 1


def test_another_sample_is_another_reply(url: str) -> None:
    engine = Counting()

    async def samples() -> list[str]:
        asking = stored(engine, ReplyStore(url))
        return [(await asking.generate(ASKED, Sampling(), sample=sample)).text for sample in (0, 1, 0)]

    assert asyncio.run(samples()) == ["1", "2", "1"]


def test_concurrent_asks_make_one_call_and_outlive_the_one_who_gave_up(url: str) -> None:
    engine = Counting()

    async def many() -> list[str]:
        store = ReplyStore(url)
        ada, bob = stored(engine, store), stored(engine, store, agent="bob")
        first = asyncio.create_task(ada.generate(ASKED, Sampling()))
        await asyncio.sleep(0)
        others = asyncio.gather(*(bob.generate(ASKED, Sampling()) for _ in range(9)))
        await asyncio.sleep(0)
        first.cancel()
        texts = [reply.text for reply in await others]
        assert (ada.misses, bob.misses, bob.hits) == (1, 0, 9)
        return texts

    assert asyncio.run(many()) == ["1"] * 9
    assert engine.calls == 1


def test_an_error_is_not_kept(url: str) -> None:
    engine = Counting(failing=True)

    async def again() -> str:
        asking = stored(engine, ReplyStore(url))
        with pytest.raises(EngineError, match="out of order"):
            await asking.generate(ASKED, Sampling())
        engine.failing = False
        return (await asking.generate(ASKED, Sampling())).text

    assert asyncio.run(again()) == "2"
    assert len(ReplyStore(url)) == 1


def test_writers_see_each_other_after_refresh(url: str) -> None:
    ada, bob = ReplyStore(url), ReplyStore(url)
    keep(ada, 1, 2)
    keep(bob, 3)
    assert found(ada, 1, 2, 3) == [1, 2]
    ada.refresh()
    bob.refresh()
    keep(ada, 4)
    bob.refresh()
    bob.refresh()
    assert found(ada, 1, 2, 3, 4) == found(bob, 1, 2, 3, 4) == [1, 2, 3, 4]
    assert len(bob) == 4


def test_each_writer_has_a_file_of_its_own_and_a_reader_has_none(tmp_path: Path) -> None:
    ReplyStore(str(tmp_path))
    for name in (1, 2):
        keep(ReplyStore(str(tmp_path)), name)
    assert sorted(len(path.read_bytes().splitlines()) for path in tmp_path.iterdir()) == [1, 1]


def test_the_first_record_of_a_key_wins(url: str) -> None:
    store = ReplyStore(url)
    keep(store, 1)
    keep(store, 1, reply=FIVE)
    assert store.get(key_of(1)) == FOUR


def test_a_torn_last_record_is_ignored_wherever_it_was_cut(tmp_path: Path) -> None:
    whole, last = line(1) + line(2, FIVE), line(3)
    for cut in range(len(last)):
        (tmp_path / "a.jsonl").write_bytes(whole + last[:cut])
        store = ReplyStore(str(tmp_path))
        assert found(store, 1, 2, 3) == [1, 2]
        assert store.spent() == {"ada": Spend(2, 10, 9, 1.0)}
        store.close()


def test_a_last_record_torn_at_first_is_read_once_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(line(1) + line(2)[:50])
    store = ReplyStore(str(tmp_path))
    assert found(store, 1, 2) == [1]
    with (tmp_path / "a.jsonl").open("ab") as stream:
        stream.write(line(2)[50:])
    store.refresh()
    assert found(store, 1, 2) == [1, 2]


TORN = {
    "cut short": line("torn")[:60] + b"\n",
    "glued to the next": line("torn")[:60],
    "a lost block": line("torn")[:60] + b"\0" * 40 + line("torn")[100:],
    "a lost block without a line break": line("torn")[:60] + b"\0" * 4096,
    "not a record": b"[1, 2]\n{}\n\n",
    "no key": line("torn").replace(key_of("torn").encode(), b"Z" * 32),
    "unreadable later on": line("torn").replace(b'"tokens_in": 5', b'"tokens_in": ?'),
    "without a field": line("torn").replace(b'"text": ', b'"txet": '),
    "bytes that are no text": line("torn").replace(b'"4"', b'"\xff"'),
}


@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
def test_a_torn_record_in_the_middle_is_skipped_and_counted(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(line(1) + torn + line(2) + line(3, FIVE))
    store = ReplyStore(str(tmp_path))
    assert found(store, 1, 2, 3, "torn") == [1, 2, 3]
    assert store.damaged >= 1
    keep(store, "torn", reply=FIVE)
    assert store.get(key_of("torn")) == FIVE == ReplyStore(str(tmp_path)).get(key_of("torn"))


def test_two_keys_with_one_first_half_are_told_apart(tmp_path: Path) -> None:
    store = ReplyStore(str(tmp_path))
    same = "0123456789abcdef"
    asyncio.run(store.put(same + "0" * 16, FOUR, agent="ada", usd=0.0))
    assert store.get(same + "0" * 16) == FOUR
    assert store.get(same + "1" * 16) is None


WRITER = """
import asyncio, sys
from magdi_ray.agents.base import Reply
from magdi_ray.agents.store import ReplyStore

async def main():
    store = ReplyStore(sys.argv[1], run="killed")
    for number in range(10**6):
        key = f"{number:032x}"
        await store.put(key, Reply(str(number), 1, 1, None, "stop", "m"), agent="ada", usd=0.0)
        print(key, flush=True)

asyncio.run(main())
"""


def test_a_killed_writer_loses_nothing_that_was_put(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    put = [writer.stdout.readline().strip() for _ in range(500)]
    writer.send_signal(signal.SIGKILL)
    put += [key for key in writer.stdout.read().splitlines() if len(key) == 32]
    writer.wait()
    store = ReplyStore(str(tmp_path))
    assert all(store.get(key) is not None for key in put)


def test_commits_on_object_storage_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = ReplyStore(url)
    keep(store, *range(2 * COMMIT_LINES + 5))
    objects = store._segments._filesystem.ls(store._segments._root, detail=False)  # type: ignore[attr-defined]  # what lies there
    assert len(objects) == 3
    assert len(ReplyStore(url)) == 2 * COMMIT_LINES + 5


def test_closing_writes_what_waits_on_object_storage() -> None:
    async def put_and_close() -> bool:
        store = ReplyStore(f"memory://{uuid.uuid4().hex}")
        waiting = asyncio.create_task(store.put(key_of(1), FOUR, agent="ada", usd=0.0))
        await asyncio.sleep(0)
        await store.aclose()
        return waiting.done() or found(store, 1) == [1]

    assert asyncio.run(put_and_close())


def test_an_object_that_cannot_be_written_fails_every_put_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReplyStore(f"memory://{uuid.uuid4().hex}")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only bucket")

    monkeypatch.setattr(store._segments._filesystem, "pipe_file", refuse)  # type: ignore[attr-defined]  # storage that refuses
    with pytest.raises(EngineError, match=r"could not be written to .*read-only bucket\. Check your rights"):
        keep(store, 1, 2)
    assert found(store, 1, 2) == []


def test_a_segment_that_is_gone_is_asked_for_again(url: str) -> None:
    writer = ReplyStore(url)
    keep(writer, 1)
    reader = ReplyStore(url)
    if url.startswith("memory"):
        writer._segments._filesystem.rm(writer._segments._root, recursive=True)  # type: ignore[attr-defined]  # someone cleans up
    else:
        next(Path(url).iterdir()).unlink()
    assert reader.get(key_of(1)) is None
    keep(reader, 1, reply=FIVE)
    assert reader.get(key_of(1)) == FIVE


def test_storage_that_cannot_be_read_is_an_error_and_not_a_missing_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReplyStore(f"memory://{uuid.uuid4().hex}")
    keep(store, 1)

    def refuse(path: str, *_: object, **__: object) -> bytes:
        raise PermissionError("no right to read")

    monkeypatch.setattr(store._segments._filesystem, "cat_file", refuse)  # type: ignore[attr-defined]  # storage that refuses
    with pytest.raises(EngineError, match=r"cannot be read: no right to read\. Check"):
        store.get(key_of(1))


def test_after_a_failed_write_another_segment_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReplyStore(str(tmp_path))
    keep(store, 1)
    write = os.write

    def failing(file: int, data: bytes) -> int:
        write(file, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("magdi_ray.agents.segments.os.write", failing)
    with pytest.raises(EngineError, match=r"No space left on device\. Free space there"):
        keep(store, 2)
    monkeypatch.undo()
    keep(store, 2, 3)
    assert found(store, 1, 2, 3) == found(ReplyStore(str(tmp_path)), 1, 2, 3) == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_spending_is_told_by_agent_and_run(url: str) -> None:
    first, second = ReplyStore(url, run="one"), ReplyStore(url, run='t"w\\o')
    keep(first, 1, 2)
    keep(first, 3, agent='b"ob, {', reply=FIVE)
    keep(second, 4, usd=0.25)
    ada = Spend(1, 5, 2, 0.25)
    assert first.spent('t"w\\o') == {"ada": ada}
    assert first.spent("one") == {"ada": Spend(2, 10, 4, 1.0), 'b"ob, {': Spend(1, 5, 7, 0.5)}
    assert second.spent()["ada"] == Spend(3, 15, 6, 1.25)
    keep(second, 5, usd=0.25)
    assert first.spent('t"w\\o') == {"ada": Spend(2, 10, 4, 0.5)}
    assert first.spent("nobody") == {}


def test_a_call_costs_what_the_price_says_and_a_reply_that_is_read_costs_nothing(tmp_path: Path) -> None:
    store = ReplyStore(str(tmp_path), run="r")

    async def twice() -> None:
        for agent in ("ada", "bob"):
            await stored(Counting(), store, agent=agent).generate(ASKED, Sampling())

    asyncio.run(twice())
    assert store.spent("r") == {"ada": Spend(1, 5, 2, 9.0)}


replies = st.builds(
    Reply,
    text=st.text() | st.sampled_from(["\n", '"}\n{"key": "', "\\", "\u2028\x85\0", "é漢🎈", "\ud800"]),
    tokens_in=st.integers(0, 2**40),
    tokens_out=st.integers(0, 2**40),
    confidence=st.none() | st.floats(0, 1),
    finish_reason=st.sampled_from(["stop", "length"]),
    model=st.text(),
)


@settings(deadline=None)
@given(reply=replies, agent=st.text(), run=st.text(), usd=st.floats(0, 1e6))
def test_any_reply_comes_back_as_it_was(reply: Reply, agent: str, run: str, usd: float) -> None:
    written = encode_record(key_of(1), reply, agent=agent, run=run, usd=usd)
    assert written.count(b"\n") == 1
    assert decode_record(written) == (key_of(1), reply)


@settings(deadline=None)
@given(st.lists(replies, max_size=5))
def test_any_replies_come_back_from_a_store(kept: list[Reply]) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = ReplyStore(url, run="{")
    for number, reply in enumerate(kept):
        # written as one object each, without the wait of a commit
        data = encode_record(key_of(number), reply, agent=reply.text, run="{", usd=0.1)
        store._segments._filesystem.pipe_file(f"{store._segments._root}/{number:06d}.jsonl", data)  # type: ignore[attr-defined]
    store.refresh()
    assert [store.get(key_of(number)) for number in range(len(kept))] == kept
    assert sum(spent.calls for spent in store.spent("{").values()) == len(kept)


def test_many_records_are_indexed_in_little_memory(tmp_path: Path) -> None:
    tail = line(1)[41:]
    names = range(100_000)
    for segment in range(4):
        lines = (b'{"key": "' + key_of(name).encode() + tail for name in names if name % 4 == segment)
        (tmp_path / f"{segment}.jsonl").write_bytes(b"".join(lines))
    store = ReplyStore(str(tmp_path))
    assert len(store) == len(names)
    assert sum(column.nbytes for column in store._index._table) == 24 * len(names)
    assert found(store, *names[::997]) == list(names[::997])
    assert found(store, "other", "another") == []


def test_what_comes_after_the_table_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.agents.index.PENDING", 16)
    store, other = ReplyStore(str(tmp_path)), ReplyStore(str(tmp_path))
    for start in range(0, 300, 10):
        keep(store, *range(start, start + 10))
        keep(other, *range(start + 1000, start + 1010), reply=FIVE)
        store.refresh()
        assert found(store, *range(start + 10)) == list(range(start + 10))
        assert store.get(key_of(start + 1003)) == FIVE
    assert len(store) == 600


def test_a_record_longer_than_a_chunk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.agents.segments.CHUNK", 64)
    long = replace(FOUR, text="x" * 10_000)
    (tmp_path / "a.jsonl").write_bytes(line(1) + line(2, long) + line(3))
    assert [ReplyStore(str(tmp_path)).get(key_of(name)) for name in (1, 2, 3)] == [FOUR, long, FOUR]


def test_a_store_is_sent_by_its_address(tmp_path: Path) -> None:
    store = ReplyStore(str(tmp_path), run="r")
    keep(store, 1)
    sent = pickle.loads(pickle.dumps(store))
    keep(sent, 2)
    assert (sent.run, found(sent, 1, 2), len(list(tmp_path.iterdir()))) == ("r", [1, 2], 2)


def test_a_store_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/replies cannot be written: .*Choose a directory"):
        ReplyStore(str(tmp_path / "file" / "replies"))


def test_a_missing_driver_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(ConfigError, match="pip install adlfs"):
        ReplyStore("abfs://container/replies")
    with pytest.raises(ConfigError, match=r"The reply store: .*URL of a file system fsspec knows"):
        ReplyStore("nowhere://bucket/replies")

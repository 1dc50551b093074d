"""The reply store under any damage: no whole reply is lost, no half reply is ever read, and writing goes on."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.agents.base import Reply
from magdi_ray.agents.store import ReplyStore, encode_record
from tests.properties.rules import rule

replies = st.builds(
    Reply,
    text=st.text(max_size=40) | st.sampled_from(["", "}", '"}\n{"key": "', "\\", "\ud800", "\x00"]),
    tokens_in=st.integers(0, 2**40),
    tokens_out=st.integers(0, 2**40),
    confidence=st.none() | st.floats(0, 1),
    finish_reason=st.sampled_from(["stop", "length"]),
    model=st.text(max_size=5),
)
garbage = st.binary(max_size=60) | st.sampled_from(
    [
        b"",
        b"\n",
        b"}\n",
        b"\0" * 40,
        b'{"key": "',
        b'{"key": "0123456789abcdef0123456789abcdef", "agent": "a"}\n',
        b"[" * 3000 + b"\n",
    ]
)


# As a share: a line holds the time, so that its length is not the same in every try.
anywhere = st.integers(0, 10**6).map(lambda share: lambda length: share * length // 10**6)


@dataclass
class Kept:
    """What several writers put into their files, and what is left of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    ends: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """File -> each key with where its line ends."""
    replies: dict[str, Reply] = field(default_factory=dict)

    def put(self, writer: str, reply: Reply) -> None:
        """One more line; every key once."""
        key = f"{len(self.replies) * 7919:032x}"
        self.replies[key] = reply
        self.files[writer] = self.files.get(writer, b"") + encode_record(key, reply, agent=writer, run="r", usd=0.5)
        self.ends.setdefault(writer, []).append((key, len(self.files[writer])))

    def whole(self, cuts: dict[str, int]) -> set[str]:
        """Keys whose lines are whole when each file was cut at a byte."""
        return {key for name, ends in self.ends.items() for key, end in ends if end <= cuts.get(name, end)}


@st.composite
def stores(draw: st.DrawFn) -> Kept:
    """Lines of one to three writers, taking turns as they please."""
    kept = Kept()
    for writer, reply in draw(st.lists(st.tuples(st.sampled_from(("a", "b", "c")), replies), min_size=1, max_size=8)):
        kept.put(writer, reply)
    return kept


def opened(place: str, files: dict[str, bytes]) -> ReplyStore:
    for name, data in files.items():
        (Path(place) / f"{name}.jsonl").write_bytes(data)
    return ReplyStore(place, run="r")


def check(store: ReplyStore, kept: Kept, whole: set[str]) -> None:
    for key, reply in kept.replies.items():
        found = store.get(key)
        assert found == reply or (found is None and key not in whole)
    assert sum(spent.calls for spent in store.spent("r").values()) >= len(whole)


@rule(120)
@given(stores(), st.data())
def test_files_cut_at_any_byte_lose_no_whole_reply_and_give_no_half_one(kept: Kept, data: st.DataObject) -> None:
    cuts = {name: data.draw(anywhere, label=f"cut of {name}")(len(text)) for name, text in kept.files.items()}
    tails = {name: data.draw(garbage, label=f"tail of {name}") for name in kept.files}
    with tempfile.TemporaryDirectory() as place:
        store = opened(place, {name: text[: cuts[name]] + tails[name] for name, text in kept.files.items()})
        check(store, kept, kept.whole(cuts))
        late = Reply("late", 1, 1, None, "stop", "m")
        asyncio.run(store.put("f" * 32, late, agent="d", usd=0.0))
        for again in (store, ReplyStore(place)):
            assert again.get("f" * 32) == late
        check(ReplyStore(place), kept, kept.whole(cuts))


@rule(80)
@given(stores(), st.data())
def test_whatever_stands_between_lines_the_lines_are_found(kept: Kept, data: st.DataObject) -> None:
    files = {}
    for name, text in kept.files.items():
        lines = text.splitlines(keepends=True)
        files[name] = b"".join(data.draw(garbage.map(lambda held: held and held + b"\n")) + line for line in lines)
    with tempfile.TemporaryDirectory() as place:
        check(opened(place, files), kept, set(kept.replies))


@rule(60)
@given(stores(), st.data())
def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(kept: Kept, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        reader = ReplyStore(place, run="r")
        cuts = dict.fromkeys(kept.files, 0)
        for _ in range(3):
            cuts = {name: cut + data.draw(anywhere)(len(kept.files[name]) - cut) for name, cut in cuts.items()}
            for name, cut in cuts.items():
                (Path(place) / f"{name}.jsonl").write_bytes(kept.files[name][:cut])
            reader.refresh()
            check(reader, kept, kept.whole(cuts))

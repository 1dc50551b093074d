"""The books of a debate stage: what its debates came to, counted while they end and audited when all have ended.

It knows no Ray and no engine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from magdi_ray.debate.transcript import Debate
from magdi_ray.errors import EngineError


class NotHeld(EngineError):
    """A debate that was not begun, because so many before it had failed that the stage could not succeed."""


EXAMPLE = 300
"""Characters kept of an example's message."""


@dataclass
class Books:
    """Counts over debates that have ended."""

    debates: int = 0
    consensus: int = 0
    failed: int = 0
    replies: int = 0
    saved: int = 0
    """Calls that were not needed because debates stopped early."""
    unparsed: int = 0
    reused: int = 0
    """Replies that were in the store already. Only whoever holds debates knows; an audit does not."""
    tokens_in: int = 0
    tokens_out: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Error class -> debates it ended."""
    examples: dict[str, str] = field(default_factory=dict)
    """Error class -> one message."""

    def add(self, debate: Debate, *, most_calls: int) -> None:
        """Count one ended debate; `most_calls` is the length it could have had."""
        self.debates += 1
        self.consensus += debate.stopped == "consensus"
        self.replies += len(debate.turns)
        self.unparsed += sum(turn.status == "unparsed" for turn in debate.turns)
        self.tokens_in += sum(turn.tokens_in for turn in debate.turns)
        self.tokens_out += sum(turn.tokens_out for turn in debate.turns)
        if debate.error is None:
            self.saved += max(0, most_calls - len(debate.turns))
        else:
            self._add_error(debate.question.id, debate.error)

    def merge(self, other: Books) -> None:
        """Add another's counts."""
        for name in ("debates", "consensus", "failed", "replies", "saved", "unparsed", "reused", "tokens_in", "tokens_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.examples = {**other.examples, **self.examples}

    def hopeless(self, total: int, allowed: float) -> bool:
        """Whether more debates have failed than `allowed` of `total` permits, whatever the others come to."""
        return self.failed > allowed * total

    def _add_error(self, question: str, error: str) -> None:
        kind = error.partition(":")[0]
        self.failed += 1
        self.errors[kind] += 1
        self.examples.setdefault(kind, f"{question}: {error[:EXAMPLE]}")


class Ledger:
    """The books of a running stage, one for all workers. It becomes an actor, a process that imports no more than this module."""

    def __init__(self, rows: int, allowed: float) -> None:
        self.rows, self.allowed = rows, allowed
        self.books = Books()

    def add(self, books: Books) -> bool:
        """Count what a worker's batch came to; whether so much has failed that the stage cannot succeed any more."""
        self.books.merge(books)
        return self.books.hopeless(self.rows, self.allowed)

    def read(self) -> Books:
        """The books so far."""
        return self.books


def check_failures(books: Books, allowed: float) -> None:
    """Refuse a stage of which too much failed; says which errors, how often, with one example each.

    Raises:
        EngineError: more than `allowed` of the debates failed.
    """
    if not books.hopeless(books.debates, allowed):
        return
    idle = books.errors[NotHeld.__name__]
    causes = [(kind, count) for kind, count in books.errors.most_common(8) if kind != NotHeld.__name__]
    kinds = "\n".join(f"  - {count} x {kind}, such as {books.examples[kind]}" for kind, count in causes)
    stopped = f"The other {idle} debates were not held any more.\n" if idle else ""
    raise EngineError(
        f"{books.failed - idle} of {books.debates} debates failed, more than debate.max_failed_share = {allowed:.0%} allows:\n"
        f"{kinds}\n{stopped}"
        "Mend the cause and run again: replies that were given are not asked for again. "
        "Raising debate.max_failed_share accepts more failures."
    )


def audit(questions: Path, debates: Path, *, most_calls: int) -> Books:
    """Count what was written, and check that every question was debated exactly once.

    Both are directories of parquet files; a batch and 8 bytes a question are in memory at a time.

    Raises:
        EngineError: a question is missing or doubled.
    """
    books = Books()
    asked, held = [_empty()], [_empty()]
    for batch in _batches(questions, ["id"]):
        asked.append(_digests(batch.column("id").to_pylist()))
    for batch in _batches(debates, ["question_id", "stopped", "error", "turns"]):
        held.append(_digests(batch.column("question_id").to_pylist()))
        _count(books, batch, most_calls)
    _compare(np.concatenate(asked), np.concatenate(held), questions)
    return books


def _count(books: Books, batch: pa.RecordBatch, most_calls: int) -> None:
    turns, error = batch.column("turns"), batch.column("error")
    flat, lengths = turns.flatten(), turns.value_lengths()
    sound = pc.is_null(error)
    books.debates += batch.num_rows
    books.consensus += pc.sum(pc.equal(batch.column("stopped"), "consensus")).as_py() or 0
    books.replies += len(flat)
    books.unparsed += pc.sum(pc.equal(flat.field("status"), "unparsed")).as_py() or 0
    books.tokens_in += pc.sum(flat.field("tokens_in")).as_py() or 0
    books.tokens_out += pc.sum(flat.field("tokens_out")).as_py() or 0
    books.saved += sum(max(0, most_calls - length) for length in lengths.filter(sound).to_pylist())
    failed = batch.filter(pc.invert(sound))
    for question, message in zip(failed.column("question_id").to_pylist(), failed.column("error").to_pylist(), strict=True):
        books._add_error(question, message)


def _batches(directory: Path, columns: list[str]) -> Iterable[pa.RecordBatch]:
    for path in sorted(directory.glob("*.parquet")):
        yield from pq.ParquetFile(path).iter_batches(batch_size=2048, columns=columns)


def _empty() -> np.ndarray:
    return np.empty(0, dtype=np.uint64)


def _digests(identities: list[str]) -> np.ndarray:
    raw = b"".join(hashlib.blake2b(identity.encode(), digest_size=8).digest() for identity in identities)
    return np.frombuffer(raw, dtype=np.uint64)


def _compare(asked: np.ndarray, held: np.ndarray, questions: Path) -> None:
    ids, counts = np.unique(held, return_counts=True)
    twice, lost = ids[counts > 1], np.setdiff1d(asked, ids)
    wrong = np.union1d(twice, lost)
    if not len(wrong):
        return
    names = (name for batch in _batches(questions, ["id"]) for name in batch.column("id").to_pylist())
    first = next((name for name in names if _digests([name])[0] in wrong), "one that is no question of this run")
    raise EngineError(
        f"{len(lost)} questions were lost and {len(twice)} debated twice, the first is {first!r}. "
        "Run again: replies that were given are not asked for again."
    )

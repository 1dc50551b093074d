"""An index says where in which segment the record of a key lies. It knows nothing of a record but its first field.

    {"key": "0f343b0931126a20f133d67c2b018a3b", "agent": "ada", ...}

It keeps the first half of a key, 24 bytes a record in all: the record, once read, holds the whole key and settles the rest.
Of several records of one key the first indexed comes first: segments in order of name, and what was indexed before stays before.

A line is a record when it begins with `{"key": "` and 32 hex digits and ends in `}`. Since a quote within a JSON string is
escaped, these bytes stand nowhere else: a line that holds them twice is two lines, the first of which was torn.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PREFIX = b'{"key": "'
KEY_END = len(PREFIX) + 32
SHORTEST = KEY_END + 2
PENDING = 1 << 16
"""Records held in a dictionary before they are sorted into the table; a sixteenth of the table where that is more."""

_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_SHIFTS = np.arange(60, -1, -4, dtype=np.uint64)


class Place(NamedTuple):
    """Where a record lies."""

    segment: int
    offset: int
    length: int
    """Bytes, the line break not among them."""


class Rows(NamedTuple):
    """Many places, as columns."""

    keys: npt.NDArray[np.uint64]
    """First 64 bits of each key."""
    segments: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.uint32]


class Lines(NamedTuple):
    """The records among some lines."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    damaged: int
    """Lines, or parts of lines, that are no record."""


def find_records(data: bytes) -> Lines:
    """The records in whole lines (`data` ends in a line break), damaged ones left out."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
    total = len(ends)
    opened = data.count(b"\n" + PREFIX) + data.startswith(PREFIX)
    if opened != data.count(PREFIX) or b"\0" in data:
        starts, ends, glued = _salvage(data, starts, ends)
    else:
        glued = 0
    long_enough = ends - starts >= SHORTEST
    starts, ends = starts[long_enough], ends[long_enough]
    heads = raw[starts[:, None] + np.arange(KEY_END)]
    digits = _NIBBLE[heads[:, len(PREFIX) :]]
    good = (heads[:, : len(PREFIX)] == np.frombuffer(PREFIX, np.uint8)).all(1) & (digits < 16).all(1)
    good &= raw[ends - 1] == ord("}")
    keys = np.bitwise_or.reduce(digits[good, :16].astype(np.uint64) << _SHIFTS, axis=1)
    return Lines(starts[good], ends[good], keys, total - int(good.sum()) + glued)


def _salvage(
    data: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """The slow way, for lines among which some are damaged: the record at the end of each, and how many were glued to one."""
    kept, glued = [], 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        begin = data.rfind(PREFIX, start, end)
        if begin >= 0 and _is_json(data[begin:end]):
            kept.append((begin, end))
            glued += begin > start
    both = np.array(kept, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1], glued


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class Index:
    """Places by key: a sorted table, and a dictionary of what came since it was sorted."""

    def __init__(self) -> None:
        self._table = _concatenate([])
        self._pending: dict[int, tuple[Place, ...]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Records, those of one key counted each."""
        pending = self._pending
        return len(self._table.keys) + sum(map(len, list(pending.values())))

    def places(self, key: str) -> list[Place]:
        """Where records of a key may lie, best first. Another key with the same first half is rare, but possible."""
        half = int(key[:16], 16)
        # in this order: `_sort_in` replaces the table first, so that no record is in neither
        pending, (keys, segments, offsets, lengths) = self._pending, self._table
        found = []
        at = int(keys.searchsorted(np.uint64(half)))
        while at < len(keys) and keys[at] == half:
            found.append(Place(int(segments[at]), int(offsets[at]), int(lengths[at])))
            at += 1
        return [*found, *pending.get(half, ())]

    def add(self, key: str, place: Place) -> None:
        """One more record."""
        with self._lock:
            self._append(int(key[:16], 16), place)
            if self._is_full(0):
                self._sort_in([])

    def extend(self, batches: Sequence[Rows]) -> None:
        """Many more records."""
        with self._lock:
            if self._is_full(sum(len(rows.keys) for rows in batches)):
                self._sort_in(batches)
                return
            for keys, segments, offsets, lengths in batches:
                columns = (segments.tolist(), offsets.tolist(), lengths.tolist())
                for half, *place in zip(keys.tolist(), *columns, strict=True):
                    self._append(half, Place(*place))

    def _append(self, half: int, place: Place) -> None:
        self._pending[half] = (*self._pending.get(half, ()), place)

    def _is_full(self, more: int) -> bool:
        return len(self._pending) + more > max(PENDING, len(self._table.keys) >> 4)

    def _sort_in(self, batches: Sequence[Rows]) -> None:
        merged = _concatenate([self._table, _as_rows(self._pending), *batches])
        order = merged.keys.argsort(kind="stable")
        self._table = Rows(merged.keys[order], merged.segments[order], merged.offsets[order], merged.lengths[order])
        self._pending = {}


def _as_rows(pending: dict[int, tuple[Place, ...]]) -> Rows:
    columns = np.array([place for places in pending.values() for place in places], np.int64).reshape(-1, 3)
    keys = np.array([half for half, places in pending.items() for _ in places], np.uint64)
    return Rows(keys, columns[:, 0].astype(np.uint32), columns[:, 1], columns[:, 2].astype(np.uint32))


def _concatenate(batches: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([np.empty(0, np.uint64), *(rows.keys for rows in batches)]),
        np.concatenate([np.empty(0, np.uint32), *(rows.segments for rows in batches)]),
        np.concatenate([np.empty(0, np.int64), *(rows.offsets for rows in batches)]),
        np.concatenate([np.empty(0, np.uint32), *(rows.lengths for rows in batches)]),
    )

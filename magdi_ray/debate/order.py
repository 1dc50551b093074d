"""Debates in the order of their questions. Where they are stored they lie as they ended, which is another order in every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.debate.store import from_row
from magdi_ray.debate.transcript import Debate
from magdi_ray.tasks.checks import digest_of

GROUPS_HELD, CHUNKS_HELD = 16, 64
"""Row groups as Arrow, and chunks of rows as Python objects, that are kept: neighbours ended at about the same time."""
CHUNK = 32
"""Rows that are decoded together."""


def read_debates_of(questions: Iterable[str], directory: Path) -> Iterator[Debate]:
    """The debates of some questions, in the questions' order; a question without one is passed over.

    In memory are a few row groups and, for every debate, 16 bytes: the digest of its question's id and its place.
    """
    files = sorted(directory.glob("*.parquet"))
    groups = [(path, group) for path in files for group in range(pq.read_metadata(path).num_row_groups)]
    digests_b, places_b, starts = _places(groups)

    @lru_cache(GROUPS_HELD)
    def table(number: int) -> pa.Table:
        path, group = groups[number]
        with pq.ParquetFile(path) as parquet:
            return parquet.read_row_group(group)

    @lru_cache(CHUNKS_HELD)
    def chunk(number: int, which: int) -> list[dict[str, Any]]:
        return table(number).slice(which * CHUNK, CHUNK).to_pylist()  # type: ignore[no-any-return, unused-ignore]

    for question in questions:
        digest = np.uint64(digest_of(question))
        begin, end = (int(np.searchsorted(digests_b, digest, side=side)) for side in ("left", "right"))
        for place in places_b[begin:end]:  # more than one only where two ids have one digest
            number = int(np.searchsorted(starts, place, side="right")) - 1
            row = int(place - starts[number])
            found = chunk(number, row // CHUNK)[row % CHUNK]
            if found["question_id"] == question:
                yield from_row(found)


def _places(groups: list[tuple[Path, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digests of all ids in rising order [B], the place of each among all rows [B], and the first place of each group."""
    parts = []
    for path, group in groups:
        with pq.ParquetFile(path) as parquet:
            ids = parquet.read_row_group(group, columns=["question_id"])["question_id"].to_pylist()
        parts.append(np.fromiter(map(digest_of, ids), np.uint64, len(ids)))
    digests_b = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    order_b = np.argsort(digests_b, kind="stable")
    starts = np.cumsum([0, *map(len, parts[:-1])]) if parts else np.zeros(1, np.int64)
    return digests_b[order_b], order_b, starts

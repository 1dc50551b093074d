"""Questions as parquet: what every later stage reads instead of the published files, a row group in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.tasks.base import Question, Split

QUESTION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("solution", pa.string()),
    ]
)
"""Files without `solution`, which were written before there was one, are read too."""
ROWS_PER_GROUP = 4096


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write one file; returns the number of rows."""
    source, count = iter(questions), 0
    with pq.ParquetWriter(path, QUESTION_SCHEMA, compression="zstd") as writer:
        while rows := list(islice(source, ROWS_PER_GROUP)):
            writer.write_table(_table(rows))
            count += len(rows)
    return count


def write_splits(directory: Path, questions: Iterable[Question]) -> Counter[Split]:
    """Write one file a split, `<split>.parquet`, as the questions come; returns the rows of each."""
    counts: Counter[Split] = Counter()
    waiting: dict[Split, list[Question]] = {}
    with ExitStack() as files:
        writers: dict[Split, pq.ParquetWriter] = {}
        for question in questions:
            split = question.split
            if split not in writers:
                path = directory / f"{split}.parquet"
                writers[split] = files.enter_context(pq.ParquetWriter(path, QUESTION_SCHEMA, compression="zstd"))
                waiting[split] = []
            waiting[split].append(question)
            counts[split] += 1
            if len(waiting[split]) == ROWS_PER_GROUP:
                writers[split].write_table(_table(waiting[split]))
                waiting[split] = []
        for split, rows in waiting.items():
            if rows:
                writers[split].write_table(_table(rows))
    return counts


def iter_stored(directory: Path) -> Iterator[Question]:
    """The questions of a stage directory, in file order."""
    for path in _files(directory):
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                for row in parquet.read_row_group(group, columns=QUESTION_SCHEMA.names).to_pylist():
                    yield Question(**row)


def count_stored(directory: Path) -> int:
    """How many questions a stage directory holds; reads only the files' metadata."""
    return sum(pq.read_metadata(path).num_rows for path in _files(directory))


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.parquet"))


def _table(questions: list[Question]) -> pa.Table:
    return pa.Table.from_pylist([asdict(question) for question in questions], schema=QUESTION_SCHEMA)

"""Questions as parquet: what every later stage reads instead of the published files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.tasks.base import Question

QUESTION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("split", pa.string(), nullable=False),
    ]
)


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write one file; returns the number of rows."""
    rows = [{"id": q.id, "text": q.text, "gold": q.gold, "split": q.split} for q in questions]
    pq.write_table(pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA), path, compression="zstd")
    return len(rows)


def read_questions(directory: Path) -> list[Question]:
    """All questions of a stage directory, in file order."""
    return [
        Question(**row)
        for path in sorted(directory.glob("*.parquet"))
        for row in pq.read_table(path, schema=QUESTION_SCHEMA).to_pylist()
    ]

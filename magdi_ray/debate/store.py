"""Debates as parquet rows and back. One row a debate, its turns a nested list; the schema is explicit and never inferred."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.tasks.base import Question

TURN = pa.struct(
    [
        pa.field("agent", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("shown", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("confidence", pa.float64()),
        pa.field("confidence_source", pa.string(), nullable=False),
        pa.field("tokens_in", pa.int64(), nullable=False),
        pa.field("tokens_out", pa.int64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
    ]
)

TURN_FIELDS = tuple(field.name for field in fields(Turn))

DEBATE_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("agents", pa.list_(pa.string()), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("turns", pa.list_(TURN), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("agreement", pa.float64(), nullable=False),
        pa.field("stopped", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("solution", pa.string()),
    ]
)
"""Files without `solution`, the question's, which were written before there was one, are read too."""


def to_row(debate: Debate) -> dict[str, Any]:
    """A debate as plain data in the shape of `DEBATE_SCHEMA`."""
    question = debate.question
    return {
        "question_id": question.id,
        "question": question.text,
        "gold": question.gold,
        "split": question.split,
        "agents": list(debate.agents),
        "protocol": debate.protocol,
        "turns": [{name: getattr(turn, name) for name in TURN_FIELDS} for turn in debate.turns],
        "answer": debate.answer,
        "agreement": debate.agreement,
        "stopped": debate.stopped,
        "error": debate.error,
        "solution": question.solution,
    }


def from_row(row: dict[str, Any]) -> Debate:
    """The debate a row holds."""
    return Debate(
        question=Question(row["question_id"], row["question"], row["gold"], row["split"], row.get("solution")),
        agents=tuple(row["agents"]),
        protocol=row["protocol"],
        turns=tuple(Turn(**{**turn, "shown": tuple(turn["shown"])}) for turn in row["turns"]),
        answer=row["answer"],
        agreement=row["agreement"],
        stopped=row["stopped"],
        error=row["error"],
    )


def to_table(debates: Iterable[Debate]) -> pa.Table:
    """Debates as an Arrow table."""
    return pa.Table.from_pylist([to_row(debate) for debate in debates], schema=DEBATE_SCHEMA)


def write_debates(path: Path, debates: Iterable[Debate]) -> None:
    """Write one file."""
    pq.write_table(to_table(debates), path, compression="zstd")


def failed_ids(directory: Path) -> set[str]:
    """The questions of a stage directory whose debate failed."""
    tables = (pq.read_table(path, columns=["question_id", "error"]) for path in sorted(directory.glob("*.parquet")))
    return {row["question_id"] for table in tables for row in table.to_pylist() if row["error"] is not None}


def read_debates(directory: Path) -> Iterator[Debate]:
    """The debates of a stage directory, one row group in memory at a time."""
    for path in sorted(directory.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches():
            yield from map(from_row, batch.to_pylist())

"""One answer of one system to one held-out question: the row every figure is computed from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reading import split_confidence
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.base import Question, Task

VOTE = "vote"
"""Name of the system that is the whole debate."""

BASE = "base"
"""Name of the student before it was taught."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A system's answer, judged."""

    question_id: str
    split: str
    system: str
    text: str
    answer: str | None
    correct: bool
    """False where no answer could be read and where the system failed."""
    tokens_in: int
    tokens_out: int
    """Tokens generated for this question; for the vote, by all agents in all rounds."""
    error: str | None = None


ANSWER_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("system", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("tokens_in", pa.int64(), nullable=False),
        pa.field("tokens_out", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
    ]
)


def judge(task: Task, question: Question, *, system: str, reply: Reply) -> Answer:
    """What a reply is worth."""
    answer = task.extract(question, split_confidence(reply.text).text)
    return Answer(
        question_id=question.id,
        split=question.split,
        system=system,
        text=reply.text,
        answer=answer,
        correct=task.same(answer, question.gold),
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )


def failed(question: Question, *, system: str, error: str) -> Answer:
    """The row of a system that gave no reply. `error` is "ErrorClass: message"."""
    return Answer(question.id, question.split, system, "", None, correct=False, tokens_in=0, tokens_out=0, error=error)


def debate_answers(questions: Sequence[Question], mags: Iterable[Mag], task: Task) -> Iterator[Answer]:
    """Every teacher alone (its first reply of round 0) and the debate's vote, read off the graphs of held-out questions.

    Critics and judges, who never answer alone, are no systems of their own.

    A question whose debate failed is wrong for all of them, as a question without a reply is for a student; questions of a
    split that was never debated are left out.
    """
    missing = {question.id: question for question in questions}
    alone: dict[str, dict[str, None]] = {}
    for mag in mags:
        question = mag.question
        if missing.pop(question.id, None) is None:
            continue
        first = {node.agent: node for node in reversed(mag.nodes) if node.round == 0}
        alone.setdefault(question.split, {}).update(dict.fromkeys(first))
        for agent, node in sorted(first.items(), key=lambda item: mag.agents.index(item[0])):
            right = task.same(node.answer, question.gold)
            yield Answer(question.id, question.split, agent, node.text, node.answer, right, node.tokens_in, node.tokens_out)
        yield Answer(
            question_id=question.id,
            split=question.split,
            system=VOTE,
            text="",
            answer=mag.answer,
            correct=task.same(mag.answer, question.gold),
            tokens_in=sum(node.tokens_in for node in mag.nodes),
            tokens_out=sum(node.tokens_out for node in mag.nodes),
        )
    for question in missing.values():
        systems = (*alone[question.split], VOTE) if question.split in alone else ()
        yield from (failed(question, system=system, error="DebateError: the debate failed") for system in systems)


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write one file."""
    table = pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)
    pq.write_table(table, path, compression="zstd")


def read_answers(directory: Path) -> list[Answer]:
    """All rows of an evaluation directory."""
    return [Answer(**row) for path in sorted(directory.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]

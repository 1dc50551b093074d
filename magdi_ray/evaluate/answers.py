"""One answer of one system to one held-out question: the row every figure is computed from. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reading import read_reply
from magdi_ray.graph.schema import Mag, Node
from magdi_ray.tasks.base import Question, Task

if TYPE_CHECKING:
    from magdi_ray.config.engines import Price

VOTE = "vote"
"""Name of the system that is the whole debate."""

BASE = "base"
"""Name of the student before it was taught."""

Method = Literal["single", "revised", "majority", "confidence", "verifier", "best", "sample"]
"""single: one reply, as `evaluate.sampling` says. revised: what the system made of it when it was shown to it again. majority,
confidence, verifier: several drawn replies, and the answer most of them give, by count or by the sum of their confidences or of
the ratings of the student's own head; best: the answer of the reply rated highest. sample: one of those replies, which no figure
is computed from alone."""
METHODS: tuple[Method, ...] = get_args(Method)
VOTES: tuple[Method, ...] = ("majority", "confidence", "verifier", "best")
"""Those taken over several drawn replies; the last two need replies that were rated."""


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
    """Tokens read."""
    tokens_out: int
    """Tokens generated for this question; for the vote, by all agents in all rounds; for several replies, by all of them."""
    error: str | None = None
    task: str = ""
    seed: int = 0
    """Which training of a recipe answered, counted from 0; 0 for every other system."""
    method: Method = "single"
    sample: int = 0
    """Which of the drawn replies a `sample` is, counted from 1; of a majority, how many replies it was taken over."""
    confidence: float | None = None
    """Stated, or the mean probability of the generated tokens; None where nobody knows it."""
    usd: float | None = None
    """What it cost; None where no price is known."""
    merit: float | None = None
    """Of a drawn reply, how likely it is correct by the student's own head; None where nobody asked, or there is none."""


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
        pa.field("task", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("confidence", pa.float64()),
        pa.field("usd", pa.float64()),
        pa.field("merit", pa.float64()),
    ]
)


def judge(task: Task, question: Question, *, system: str, reply: Reply) -> Answer:
    """What a reply is worth."""
    text, answer, stated = read_reply(task, question, reply.text)
    return Answer(
        question_id=question.id,
        split=question.split,
        system=system,
        text=text,
        answer=answer,
        correct=task.same(answer, question.gold),
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        task=task.name,
        confidence=reply.confidence if stated is None else stated,
    )


def failed(question: Question, *, system: str, error: str, task: str = "") -> Answer:
    """The row of a system that gave no reply. `error` is "ErrorClass: message"."""
    row = Answer(question.id, question.split, system, "", None, correct=False, tokens_in=0, tokens_out=0, error=error)
    return replace(row, task=task)


def debate_answers(
    questions: Sequence[Question],
    mags: Iterable[Mag],
    task: Task,
    *,
    failures: Container[str] = (),
    prices: Mapping[str, Price | None] | None = None,
) -> Iterator[Answer]:
    """Every teacher alone (its first reply of round 0) and the debate's vote, read off the graphs of held-out questions.

    Critics and judges, who never answer alone, are no systems of their own, nor are students at the table. `prices`: what each
    agent's tokens cost.

    `failures`: ids of questions whose debate failed. They are wrong for all of them, as a question without a reply is for a
    student; a question that was never debated has no row.
    """
    missing = {question.id: question for question in questions}
    alone: dict[str, dict[str, None]] = {}
    for mag in mags:
        question = mag.question
        if missing.pop(question.id, None) is None:
            continue
        first = {node.agent: node for node in reversed(mag.nodes) if node.round == 0 and node.role == "debater"}
        alone.setdefault(question.split, {}).update(dict.fromkeys(first))
        for agent, node in sorted(first.items(), key=lambda item: mag.agents.index(item[0])):
            yield _said(question, agent, node.text, node.answer, [node], task, prices or {}, node.confidence)
        yield _said(question, VOTE, "", mag.answer, mag.nodes, task, prices or {}, mag.agreement)
    for question in (question for question in missing.values() if question.id in failures):
        systems = (*alone[question.split], VOTE) if question.split in alone else ()
        for system in systems:
            yield failed(question, system=system, error="DebateError: the debate failed", task=task.name)


def _said(
    question: Question,
    system: str,
    text: str,
    answer: str | None,
    nodes: Sequence[Node],
    task: Task,
    prices: Mapping[str, Price | None],
    confidence: float | None,
) -> Answer:
    charged = [price.usd(node.tokens_in, node.tokens_out) for node in nodes if (price := prices.get(node.agent)) is not None]
    return Answer(
        question_id=question.id,
        split=question.split,
        system=system,
        text=text,
        answer=answer,
        correct=task.same(answer, question.gold),
        tokens_in=sum(node.tokens_in for node in nodes),
        tokens_out=sum(node.tokens_out for node in nodes),
        task=task.name,
        confidence=confidence,
        usd=sum(charged) if len(charged) == len(nodes) else None,
    )


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write one file."""
    table = pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)
    pq.write_table(table, path, compression="zstd")


def iter_answers(directory: Path, *, texts: bool = True) -> Iterator[Answer]:
    """The rows of an evaluation directory, file by file; files of anything else than answers are passed over.

    Files from before a column was added are read too. Without `texts` the replies' texts, most of their memory, are left out.
    """
    for path in sorted(directory.rglob("*.parquet")):
        with pq.ParquetFile(path) as parquet:
            if not {"question_id", "split", "answer", "correct"} <= set(parquet.schema_arrow.names):
                continue
            names = [name for name in parquet.schema_arrow.names if texts or name != "text"]
            for batch in parquet.iter_batches(columns=names):
                yield from (Answer(**({"text": ""} | row)) for row in batch.to_pylist())

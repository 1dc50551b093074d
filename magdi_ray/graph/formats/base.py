"""What every reader of a published format returns, and what they share.

Nothing is invented: a reply without a readable answer is a turn with status "unparsed", an absent reply is an absent turn, token
counts are 0 where the file holds none (0 = unknown), and a record that cannot be read is skipped with its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reading import read_turn
from magdi_ray.debate.transcript import Ask, Debate, Turn
from magdi_ray.debate.vote import Ballot, tally
from magdi_ray.errors import GraphError
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.gsm8k import worked_solution
from magdi_ray.tasks.rows import written

TOKENS_UNKNOWN = 0
"""`Turn.tokens_in` and `tokens_out` of an import: published debates hold no token counts."""
EXCERPT = 60
NO_UNICODE = "a reply is no valid Unicode text"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that was not imported."""

    record: str
    """Its number in the file, from 0, and how its question begins."""
    reason: str


@dataclass(frozen=True, slots=True)
class Import:
    """What a file held. Every record of it is in exactly one of the two."""

    debates: tuple[Debate, ...]
    skipped: tuple[Skipped, ...] = ()


Reader = Callable[[Path, Task], Import]


class RecordError(Exception):
    """One record cannot be read; the message is the reason."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its key-value pairs, so that a repeated key is seen."""


def read_json(path: Path, *, pairs: bool = False) -> Any:
    """A JSON file's content; with `pairs`, objects come as `Pairs`.

    Raises:
        GraphError: the file is missing or holds no JSON (a pickle is named as such and never opened).
    """
    if not path.is_file():
        raise GraphError(f"a file of published debates is required, found nothing at {path}. Check the path.")
    raw = path.read_bytes()
    if raw[:1] == b"\x80":
        raise GraphError(
            f"{path}: JSON is required, found a Python pickle. Opening a pickle can run any program, so it is not done here; "
            "convert it where you trust it: json.dump(pickle.load(open(..., 'rb')), open(..., 'w'), default=str)."
        )
    try:
        return json.loads(raw, object_pairs_hook=Pairs if pairs else None)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{path}: JSON is required, found something else ({error}). Download the file again.") from error


def read_array(path: Path) -> list[Any]:
    """The records of a JSON array.

    Raises:
        GraphError: the file is missing, no JSON, or no array.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise GraphError(f"{path}: a JSON array of records is required, found {type(records).__name__}.")
    return records


def read_lines(path: Path) -> list[tuple[str, Any]]:
    """A JSON lines file as (line, its content); the content of a line that is no JSON is None.

    Raises:
        GraphError: the file is missing, or no line of it is a JSON object.
    """
    if not path.is_file():
        raise GraphError(f"a file of published debates is required, found nothing at {path}. Check the path.")
    # Not splitlines(): a text may hold other line separators, such as U+2028.
    lines = [
        (line, _json_or_none(line)) for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()
    ]
    if not any(isinstance(content, dict) for _, content in lines):
        found = "a Python pickle, which is never opened" if path.read_bytes()[:1] == b"\x80" else "something else"
        raise GraphError(f"{path}: JSON is required, one object a line; found {found}. A JSON object is required on each line.")
    return lines


def read_records(records: Sequence[tuple[str, Any]], read: Callable[[str, Any], Debate]) -> Import:
    """Every (question, record) through `read`; those that raise `RecordError`, and repeated questions, are skipped."""
    debates: dict[str, Debate] = {}
    skipped = []
    for index, (question, record) in enumerate(records):
        name = f"{index}: {question[:EXCERPT]}"
        try:
            debate = read(question, record)
        except RecordError as error:
            skipped.append(Skipped(name, str(error)))
            continue
        if debate.question.id in debates:
            skipped.append(Skipped(name, "the question occurs earlier in the file"))
            continue
        debates[debate.question.id] = debate
    return Import(tuple(debates.values()), tuple(skipped))


def question_of(record: Any) -> str:
    """The text under a record's "question"; "" where there is none."""
    question = record.get("question") if isinstance(record, dict) else None
    return question if isinstance(question, str) else ""


def imported_question(task: Task, text: str, gold_text: object, *, solution: object = None) -> Question:
    """A question of a published file; its id is the task's name and 12 hex digits of the text's SHA-256.

    Its solution is the one the file gives, else what stands before the mark of a final answer in `gold_text` ("#### 18").

    Raises:
        RecordError: no question, or no gold answer that the task can read.
    """
    if not text.strip() or not _is_unicode(text):
        raise RecordError("there is no question text that can be read")
    question = Question(id=f"{task.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}", text=text, split="train")
    gold = task.extract(question, str(gold_text)) if isinstance(gold_text, str | int | float) else None
    if gold is None:
        raise RecordError(f"no gold answer can be read from {str(gold_text)[-EXCERPT:]!r}")
    return replace(question, gold=gold, solution=written(solution) or worked_solution(gold_text))


def read_reply(task: Task, question: Question, ask: Ask, text: str, model: str) -> Turn:
    """The turn that a reply makes whose text is all that is known of it.

    Raises:
        RecordError: the text is no valid Unicode.
    """
    if not _is_unicode(text):
        raise RecordError(NO_UNICODE)
    return read_turn(task, question, ask, Reply(text, TOKENS_UNKNOWN, TOKENS_UNKNOWN, None, "stop", model))


def ended_debate(
    task: Task, question: Question, agents: tuple[str, ...], turns: Sequence[Turn], *, protocol: str, standing: bool = False
) -> Debate:
    """The debate that these turns make, with the vote of the last round as its outcome.

    An agent without a turn in the last round casts an empty ballot; with `standing`, for debates in which one agent speaks a
    round, each agent's last reply counts.

    Raises:
        RecordError: a text is no valid Unicode (a JSON escape left half of a surrogate pair), so no file could hold it.
    """
    if not all(map(_is_unicode, (*agents, *(turn.text for turn in turns)))):
        raise RecordError(NO_UNICODE)
    last = max(turn.round for turn in turns)
    cast = {turn.agent: Ballot(turn.answer, turn.confidence) for turn in turns if standing or turn.round == last}
    verdict = tally(task, [cast.get(agent, Ballot(None, None)) for agent in agents])
    return Debate(
        question=question,
        agents=agents,
        protocol=protocol,
        turns=tuple(turns),
        answer=verdict.answer,
        agreement=verdict.agreement,
        stopped="consensus" if verdict.consensus else "rounds",
    )


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)

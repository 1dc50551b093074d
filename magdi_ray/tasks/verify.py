"""The check of a task against its own gold answers: written as an answer, every gold must be read back and judged the same.

Each question of a file is put through the rules an evaluation uses, without a model. For a gold of "E":

    "The answer is (E)."                                        is read, and the same as "E"
    "Step 1: ... Step 2: ...\n\nThe answer is (E)."             is read, and the same as "E"
    "E"                                                         is the same as "E", and not as "A", "B", "C" or "D"
    "The answer is (A)."                                        is not read as "E"

Rows that are doubled, empty or without a gold answer are counted as such; a row that cannot be read is a failure.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from magdi_ray.config.sections import FileTask
from magdi_ray.errors import TaskError
from magdi_ray.tasks.answers import PLAIN, normal_form
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.catalogue import KINDS, Kind
from magdi_ray.tasks.choices import options_of
from magdi_ray.tasks.load import READERS, TASKS, BadRow, Fault, iter_questions
from magdi_ray.tasks.source import READERS as FILES
from magdi_ray.tasks.source import Place, is_saved, read_rows

REASONING = "Step 1: look at what is given. Step 2: go from there to what is asked for, one thing after the other.\n\n"
"""What stands before the answer in the made-up reply; its numbers are no answer."""

SAMPLE = 50
"""Rows that are looked at to see whose questions a file holds."""

WIDE = ("arc", "strategyqa")
"""Tasks whose readers also take the rows of narrower ones (CommonsenseQA, BoolQ): after them, unless the path names them."""

WIDEST = "math"
"""The task whose reader takes any question with an answer: only where no other task takes the rows, and they bear its signs."""

RECORDED = "debates"
"""A directory of recorded debates is not looked into: its files repeat questions in shapes of their own."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One question whose gold did not come back, or a row that could not be read."""

    question: str
    """Its id; of a row, its place in the source: "line 7", "algebra/12.json"."""
    gold: str | None
    rule: str | None
    """What was required; None of a row that could not be read."""
    read: str | None
    """What was found; of such a row, what was required and found."""


@dataclass(slots=True)
class FileReport:
    """What the check of one file found."""

    source: str
    task: str
    questions: int = 0
    """Questions with a gold answer: those that were checked."""
    left_out: Counter[Fault] = field(default_factory=Counter)
    """Rows that are no question to check, by reason."""
    failed: int = 0
    """Questions with a failure, and rows that cannot be read."""
    failures: list[Failure] = field(default_factory=list)
    """The first of them, one a question."""

    @property
    def rows(self) -> int:
        """All rows of the file."""
        return self.questions + self.left_out.total()


def failure_of(task: Task, question: Question, others: Sequence[str]) -> Failure | None:
    """The first rule that a question's gold breaks; None where it breaks none. `others` are answers that are not its gold."""
    gold = question.gold
    assert gold is not None, "a question without a gold answer has nothing to check"
    for rule, reply in (("the gold, stated", task.state(gold)), ("the gold, in a reply", REASONING + task.state(gold))):
        read = task.extract(question, reply)
        if not task.same(read, gold):
            return Failure(question.id, gold, f"read {rule}", read)
    if not task.same(gold, gold):
        return Failure(question.id, gold, "the gold is the same as itself", gold)
    for other in others:
        if task.same(other, gold):
            return Failure(question.id, gold, "another answer is not the same", other)
    if others and task.same(read := task.extract(question, task.state(others[0])), gold):
        return Failure(question.id, gold, f"{others[0]}, stated, is not the gold", read)
    return None


def other_answers(kind: Kind, question: Question) -> list[str]:
    """Answers that are not a question's gold: the other letters, the other word, the number or expression and one."""
    gold = question.gold or ""
    match kind:
        case "letter":
            return [letter for i in range(len(options_of(question.text))) if (letter := chr(ord("A") + i)) != gold]
        case "yes or no":
            return [word for word in ("yes", "no") if word != gold]
        case "number, yes or no" if gold in ("yes", "no"):
            return [word for word in ("yes", "no") if word != gold]
        case "number" | "number, yes or no":
            return [normal_form(Fraction(gold) + 1)]
        case "expression":
            return [normal_form(Fraction(gold) + 1) if PLAIN.fullmatch(gold) else f"{gold}+1"]


def check_source(
    name: str,
    source: str,
    *,
    subset: str | None = None,
    limit: int = 20,
    progress: Callable[[int], object] = lambda _: None,
) -> FileReport:
    """Check every question of a file, saved directory or hub dataset (`subset`) under a task's rules; `limit` failures are kept.

    Raises:
        TaskError: the source cannot be read, or holds no question with a gold answer.
    """
    task, report = TASKS[name](), FileReport(source, name)

    def fail(failure: Failure) -> None:
        report.failed += 1
        if report.failed <= limit:
            report.failures.append(failure)

    def left_out(bad: BadRow) -> None:
        report.left_out[bad.fault] += 1
        if bad.fault == "malformed":
            fail(Failure(_within(source, bad.place), None, None, bad.reason))

    config = FileTask.model_validate({"name": name, "path": source, "subset": subset, "bad_rows": "skip"})
    for question in iter_questions(config, skipped=left_out):
        report.questions += 1
        if failure := failure_of(task, question, other_answers(KINDS[name], question)):
            fail(failure)
        progress(report.rows)
    return report


def _within(source: str, place: Place) -> str:
    """Where a row stands in its source; of a directory of files, the file."""
    return os.path.relpath(place.source, source) if place.unit == "file" else f"{place.unit} {place.number}"


@dataclass(frozen=True, slots=True)
class Recognised:
    """Whose questions a file holds."""

    task: str | None
    reason: str
    """Why it is taken for none of any task known."""
    doubtful: str | None = None
    """The task whose reader takes its rows, where nothing but a person's word makes them that task's."""


def recognise(source: str, *, subset: str | None = None) -> Recognised:
    """The task whose reader takes most of a source's first rows, with their golds; where several do, its path decides, and the
    narrower task comes first."""
    try:
        sample = [row for _, row in islice(read_rows(source, split="train", subset=subset), SAMPLE)]
    except TaskError as error:
        return Recognised(None, str(error).removeprefix(source).lstrip(":, "))
    taken, unanswered = Counter[str](), Counter[str]()
    for row in sample:
        for name, reader in READERS.items():
            try:
                held = None if isinstance(row, ValueError) else reader(row, "train")
            except ValueError:
                continue
            if held is not None:
                (taken if held.gold is not None else unanswered)[name] += 1
    fitting = [name for name in READERS if 2 * taken[name] > len(sample)]
    if fitting == [WIDEST] and not any(isinstance(row, Mapping) and _mathematical(row) for row in sample):
        return Recognised(None, "not recognised; name it with --task", WIDEST)
    if fitting:
        order = {name: (name == WIDEST, not _hinted(name, source), name in WIDE, -taken[name]) for name in fitting}
        return Recognised(min(fitting, key=lambda name: order[name]), "")
    if not sample:
        return Recognised(None, "it is empty")
    fields = next((", ".join(list(row)[:4]) + ", ..." for row in sample if not isinstance(row, ValueError)), "no fields")
    asked = 2 * max(unanswered.values(), default=0) > len(sample)
    said = "its rows have no gold answer of any task" if asked else "its rows are those of no task"
    return Recognised(None, f"{said}: {fields}")


def _mathematical(row: Mapping[str, Any]) -> bool:
    """Whether a row bears a sign of `math`: LaTeX in its question or answer, or a worked solution."""
    texts = (str(row.get(field, "")) for field in ("problem", "question", "answer"))
    return bool(row.get("solution")) or any(sign in text for text in texts for sign in "\\$")


def _hinted(name: str, source: str) -> bool:
    return any(part.lower().replace("-", "").replace("_", "").startswith(name) for part in Path(source).parts)


def question_sources(directory: Path) -> Iterator[str]:
    """Everything under a directory that may hold questions: files, saved datasets by split, directories of a file a problem.

    Raises:
        TaskError: there is no such directory.
    """
    if not directory.is_dir():
        raise TaskError(f"a directory of question files is required, found none at {directory}. Check the path.")
    if is_saved(directory):
        named = directory / "dataset_dict.json"
        splits = json.loads(named.read_text(encoding="utf-8"))["splits"] if named.is_file() else None
        yield from [str(directory)] if splits is None else [f"{directory}:{split}" for split in splits]
        return
    if any(directory.glob("*.json")) and recognise(str(directory)).task:
        yield str(directory)
        return
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name != RECORDED:
            yield from question_sources(path)
        elif path.is_file() and path.suffix.lower() in FILES:
            yield str(path)

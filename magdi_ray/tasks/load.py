"""From the configuration's task section to a task and its questions, one question at a time."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from magdi_ray.config.sections import FileTask, MadeTask, TaskConfig
from magdi_ray.errors import ConfigError, TaskError
from magdi_ray.small import world as small
from magdi_ray.tasks import aqua, arc, boolq, commonsenseqa, ecare, gsm8k, math, strategyqa, svamp
from magdi_ray.tasks.aqua import Aqua
from magdi_ray.tasks.arc import Arc
from magdi_ray.tasks.base import Question, Split, Task
from magdi_ray.tasks.boolq import BoolQ
from magdi_ray.tasks.checks import Digests, digest_of, text_digest
from magdi_ray.tasks.commonsenseqa import CommonsenseQa
from magdi_ray.tasks.ecare import ECare
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.math import Math
from magdi_ray.tasks.small import Small
from magdi_ray.tasks.source import Place, Row, read_rows
from magdi_ray.tasks.strategyqa import StrategyQa
from magdi_ray.tasks.svamp import Svamp
from magdi_ray.tasks.tiny import Tiny
from magdi_ray.tiny import world as tiny

TASKS: dict[str, Callable[[], Task]] = {
    "gsm8k": Gsm8k,
    "math": Math,
    "strategyqa": StrategyQa,
    "commonsenseqa": CommonsenseQa,
    "arc": Arc,
    "boolq": BoolQ,
    "svamp": Svamp,
    "aqua": Aqua,
    "ecare": ECare,
    "tiny": Tiny,
    "small": Small,
}
"""Every task by name."""

READERS: dict[str, Callable[[Mapping[str, Any], Split], Question]] = {
    "gsm8k": gsm8k.read_row,
    "math": math.read_row,
    "strategyqa": strategyqa.read_row,
    "commonsenseqa": commonsenseqa.read_row,
    "arc": arc.read_row,
    "boolq": boolq.read_row,
    "svamp": svamp.read_row,
    "aqua": aqua.read_row,
    "ecare": ecare.read_row,
}
"""How a row of a task's files becomes a question; a ValueError says what was required and found."""

MAKERS = {"tiny": tiny.questions, "small": small.questions}
"""Where the questions of offline worlds come from."""

Fault = Literal["malformed", "empty", "doubled", "without a gold answer"]
SHOWN = 5
"""Places of each fault that a refusal names."""
LONGEST_REASON = 300
"""Characters of what is wrong with a row, which quotes what it found there."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no question of the run."""

    place: Place
    split: Split
    fault: Fault
    reason: str


def task_named(name: str) -> Task:
    """The task of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise ConfigError(
            f"There is no task {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"the tasks are {', '.join(TASKS)}. Name one of them.")
        )
    return TASKS[name]()


def load_task(config: TaskConfig) -> Task:
    """The task a section names."""
    return TASKS[config.name]()


def load_questions(config: TaskConfig) -> list[Question]:
    """All questions of `iter_questions` in a list, training questions first."""
    return sorted(iter_questions(config), key=lambda question: question.split != "train")


def iter_questions(
    config: TaskConfig, *, golds: bool = True, training: bool = True, skipped: Callable[[BadRow], object] = lambda _: None
) -> Iterator[Question]:
    """The questions of a task's own files or generator, held-out ones first, not yet checked against each other (`checked`).

    Held-out questions need a gold answer; training questions do where `golds`, and are left out where not `training`. Bad rows go
    to `skipped` where the task leaves them out; else they are refused together, at the end.

    Raises:
        TaskError: a source is missing, empty or cannot be read, or has bad rows.
    """
    match config:
        case MadeTask():
            counts: dict[Split, int] = {"dev": config.dev, "test": config.test, "ood": config.ood}
            counts |= {"train": config.train} if training else {}
            for split, count in counts.items():
                yield from MAKERS[config.name](split, count, seed=config.seed) if count else ()
        case FileTask():
            found = _Refusal() if config.bad_rows == "refuse" else skipped
            if config.test_path:
                yield from _file_questions(config, config.test_path, "test", config.test_limit, True, found)
            if config.path and training:
                yield from _file_questions(config, config.path, "train", config.limit, golds, found)
            if isinstance(found, _Refusal):
                found.end()


def count_questions(config: TaskConfig, *, golds: bool = True) -> int:
    """How many questions `iter_questions` yields; reads all of them, holds none."""
    return sum(1 for _ in iter_questions(config, golds=golds))


class _Refusal:
    """Collects bad rows: how many of each fault, and where the first of them stand."""

    def __init__(self) -> None:
        self.counts: Counter[Fault] = Counter()
        self.first: dict[Fault, list[str]] = {}

    def __call__(self, bad: BadRow) -> None:
        self.counts[bad.fault] += 1
        shown = self.first.setdefault(bad.fault, [])
        if len(shown) < SHOWN:
            shown.append(f"{bad.place}: {bad.reason}")

    def end(self) -> None:
        """Refuse what was collected, if anything was."""
        if not self.counts:
            return
        said = []
        for fault, count in self.counts.items():
            said += [f"{count} {fault}:", *(f"  {line}" for line in self.first[fault])]
            said += [f"  ... and {count - SHOWN} more"] if count > SHOWN else []
        raise TaskError(
            f"{self.counts.total()} rows cannot be used.\n"
            + "\n".join(f"  {line}" for line in said)
            + "\nTo go on: repair them, or leave them out with task.bad_rows=skip."
        )


def _file_questions(
    config: FileTask, source: str, split: Split, limit: int | None, golds: bool, bad: Callable[[BadRow], object]
) -> Iterator[Question]:
    ids, texts = Digests(), Digests()
    rows = taken = 0
    for place, row in read_rows(source, split=split, subset=config.subset):
        rows += 1
        try:
            question = READERS[config.name](_fields(row, config.columns), split)
        except ValueError as error:
            blank = not isinstance(row, ValueError) and not any(row.values())
            said = str(error) if len(str(error)) <= LONGEST_REASON else f"{str(error)[:LONGEST_REASON]}..."
            why: tuple[Fault, str] = ("empty", "required a question; found nothing") if blank else ("malformed", said)
            bad(BadRow(place, split, *why))
            continue
        if fault := _fault(question, place, golds, ids, texts):
            bad(BadRow(place, split, *fault))
            continue
        taken += 1
        yield question
        if taken == limit:
            return
    if not rows:
        raise TaskError(f"at least one question is required, {source} is empty. Download it again or check the path.")
    if not taken and config.bad_rows == "skip":
        raise TaskError(f"at least one question is required, none of {source}'s {rows} rows can be used. Check task.columns.")


def _fault(question: Question, place: Place, golds: bool, ids: Digests, texts: Digests) -> tuple[Fault, str] | None:
    if question.gold is None and golds:
        return "without a gold answer", "required a gold answer; found none"
    if (first := ids.add(digest_of(question.id), place.number)) is not None:
        return "doubled", f"required an id that occurs once; found {question.id!r}, also in {place.unit} {first}"
    if (first := texts.add(text_digest(question), place.number)) is not None:
        return "doubled", f"required a question that occurs once; found {question.text[:60]!r}, also in {place.unit} {first}"
    return None


def _fields(row: Row, columns: Mapping[str, str]) -> Mapping[str, Any]:
    """A row under the task's own field names."""
    if isinstance(row, ValueError):
        raise row
    if missing := [column for column in columns.values() if column not in row]:
        raise ValueError(f"required the columns {missing} that task.columns names; found {list(row)}")
    return {**row, **{field: row[column] for field, column in columns.items()}} if columns else row

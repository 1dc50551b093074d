"""A run whose evaluation is finished, opened to be reported on, and the refusal of one whose evaluation is not whole.

Reads configuration, manifests, figures and answers; computes no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magdi_ray.config import RunConfig
from magdi_ray.errors import RunError
from magdi_ray.evaluate.answers import Answer, iter_answers
from magdi_ray.evaluate.exam import read_asked
from magdi_ray.evaluate.metrics import Key, Score
from magdi_ray.exporting import stored_config
from magdi_ray.pipeline import load_results
from magdi_ray.runs import Run
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.store import iter_stored

FROM_DEBATES = ("teacher", "debate")
"""Kinds of systems whose answers are read off the debates and cost nothing more."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A run whose evaluation is finished."""

    run: Run
    config: RunConfig
    label: str
    """Unique among the runs of a report."""
    metrics: dict[str, Any]
    """What `evaluation/metrics.json` holds."""

    @property
    def product(self) -> str | None:
        """The system that is the product."""
        return next((system["name"] for system in self.metrics["systems"] if system["product"]), None)

    @property
    def kinds(self) -> dict[str, str]:
        """System -> what it is, in the order of the tables."""
        return {system["name"]: system["kind"] for system in self.metrics["systems"]}

    @property
    def scores(self) -> list[Score]:
        """The figures of every system on every set."""
        return [Score(**row) for row in self.metrics["scores"]]


def open_runs(runs: Sequence[Run]) -> list[Finished]:
    """Runs of one task, each with a finished evaluation of what it holds now.

    Raises:
        RunError: one of them is none, or is named twice.
    """
    if not runs:
        raise RunError("A report needs at least one run directory.")
    if twice := [root for root, count in Counter(run.where for run in runs).items() if count > 1]:
        raise RunError(f"A run is compared with others, not with itself: {twice[0]} is named twice. Name it once.")
    opened: list[Finished] = []
    for run in runs:
        config = stored_config(run)
        metrics = load_results(run)
        _check_current(run)
        names = [other.config.name for other in opened]
        label = config.name + (f" {names.count(config.name) + 1}" if config.name in names else "")
        opened.append(Finished(run, config, label, metrics))
    tasks = {one.label: one.config.task.name for one in opened}
    if len(set(tasks.values())) > 1:
        said = ", ".join(f"{label} is of {task}" for label, task in tasks.items())
        raise RunError(f"Runs of different tasks have no questions to be compared on: {said}. Report on them one by one.")
    return opened


def _check_current(run: Run) -> None:
    evaluation = run.require("evaluation")
    for stage, content in evaluation.inputs.items():
        manifest = run.read_manifest(stage)
        if manifest is None or manifest.content != content:
            raise RunError(
                f"{run.path('evaluation')} was measured before {stage!r} was made again. Measure anew: "
                f"magdi evaluate CONFIG --out {run.where}"
            )


def evaluated_answers(run: Run) -> Iterator[Answer]:
    """All answers of a run's evaluation.

    Raises:
        RunError: a file of them cannot be read.
    """
    try:
        yield from iter_answers(run.path("evaluation"))
    except (pa.ArrowException, OSError, TypeError) as error:  # TypeError: columns of something else
        raise _damaged(run, f"answers that cannot be read ({error})") from error


def evaluated_questions(run: Run) -> list[tuple[str, Question]]:
    """(task, question) of what the evaluation kept of the questions it asked; nothing where it kept none.

    Raises:
        RunError: the file cannot be read.
    """
    kept = run.path("evaluation") / "asked.parquet"
    try:
        return read_asked(kept) if kept.is_file() else []
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(run, f"questions that cannot be read ({error})") from error


def stored_questions(run: Run) -> Iterator[Question]:
    """The questions of a run's own task.

    Raises:
        RunError: a file of them cannot be read.
    """
    directory = run.path("questions")
    try:
        yield from iter_stored(directory)
    except (pa.ArrowException, OSError, TypeError) as error:
        raise RunError(
            f"{directory} must hold the run's questions; they cannot be read ({error}). Move that directory away and run again: "
            f"magdi run CONFIG --out {run.where}"
        ) from error


def check_answers(finished: Finished, answers: Iterable[Answer]) -> None:
    """Refuse answers that are not all that the figures were computed from.

    Raises:
        RunError: names the systems whose answers are missing, all or some.
    """
    held = Counter(Key(answer.task, answer.split, answer.system, answer.method) for answer in answers)
    some = {key.system for key in held}
    none = [name for name in finished.kinds if name not in some]
    fewer = [
        row.system
        for row in finished.scores
        if row.system not in none and held[Key(row.task, row.split, row.system, row.method)] < row.questions * row.seeds
    ]
    said = [f"no answers of {', '.join(none)}"] if none else []
    said += [f"not all answers of {', '.join(dict.fromkeys(fewer))}"] if fewer else []
    if said:
        raise _damaged(finished.run, f"{' and '.join(said)}, whose figures are in metrics.json")


def _damaged(run: Run, found: str) -> RunError:
    directory = run.path("evaluation")
    return RunError(
        f"{directory} must hold every answer that was measured; it holds {found}. Move that directory away and measure "
        f"again: magdi evaluate CONFIG --out {run.where}"
    )

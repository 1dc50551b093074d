"""From finished runs to one report: everything its page or its tables show, gathered from the run directories.

Read are the evaluation's figures and answers, the questions, the graphs (once), the log of the trainings and the manifests.
Nothing is measured here that the evaluation has not measured, but for differences it did not take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from magdi_ray import __version__
from magdi_ray.config import RunConfig, recipes
from magdi_ray.errors import ConfigError
from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.metrics import Difference, Key, difference, grouped
from magdi_ray.evaluate.report.calibration import Calibration
from magdi_ray.evaluate.report.compare import Asked, compare_runs, digests_of
from magdi_ray.evaluate.report.dialogue import Dialogue, Rule
from magdi_ray.evaluate.report.labelling import Labelling
from magdi_ray.evaluate.report.markdown import study_page
from magdi_ray.evaluate.report.orderings import claims
from magdi_ray.evaluate.report.page import write_page
from magdi_ray.evaluate.report.viewer import Shelf, viewer_data
from magdi_ray.graph.store import iter_mags
from magdi_ray.report_parts.cost import cost
from magdi_ray.report_parts.curves import curves
from magdi_ray.report_parts.facts import facts
from magdi_ray.report_parts.finished import (
    FROM_DEBATES,
    Finished,
    check_answers,
    evaluated_answers,
    evaluated_questions,
    open_runs,
    stored_questions,
)
from magdi_ray.report_parts.outputs import check_outputs
from magdi_ray.runs import Run
from magdi_ray.storage import write_atomically
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_task

PAGE = "report.html"
OTHERS = 1000
"""Debates of questions that nobody was evaluated on, such as training questions, that a page shows at most."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """What one pass over a run's questions, graphs and answers leaves."""

    shelf: Shelf
    dialogue: Dialogue
    calibration: Calibration
    labelling: Labelling
    digests: dict[tuple[str, str], int]
    """(task, id) of every question that was asked -> digest of its text."""
    answers: list[Answer]
    """All of them, without their texts."""


def write_report(
    runs: Sequence[Run], out: Path | None = None, *, markdown: Path | None = None, questions: int | None = None
) -> Path:
    """Write the page of one run, or of several side by side; returns its path. An earlier page is replaced.

    `out` may be left out for one run: `report.html` in its directory. `markdown`: also write the tables there. `questions`: show
    at most so many, evaluated ones first; None shows all that were evaluated and `OTHERS` further debates.

    Raises:
        RunError: no run, no finished evaluation, answers of it missing, runs of different tasks, or without a question in common.
        ConfigError: the page or the tables have no place to go, or something else is there.
    """
    if out is None and len(runs) > 1:
        raise ConfigError("The report of several runs belongs to none of their directories: name a file with --out FILE.")
    opened = open_runs(runs)
    target = out or runs[0].root / PAGE
    check_outputs(target, markdown)
    data, shelf = _gathered(opened, questions)
    write_page(target, data, shelf.questions())
    if markdown is not None:
        write_markdown(markdown, data)
    return target


def report_data(runs: Sequence[Run], *, questions: int | None = None) -> Row:
    """Everything a report shows at once, as plain data. Raises what `write_report` raises of runs."""
    return _gathered(open_runs(runs), questions)[0]


def write_markdown(path: Path, data: Mapping[str, Any]) -> None:
    """Write the tables of a report as GitHub markdown."""
    write_atomically(path, study_page(data))


def _gathered(runs: Sequence[Finished], limit: int | None) -> tuple[Row, Shelf]:
    found = [_read(run, limit if number == 0 else 0) for number, run in enumerate(runs)]
    sides = [Asked(run.label, run.product, read.digests, read.answers) for run, read in zip(runs, found, strict=True)]
    compared = compare_runs(sides)
    shelf, shown = found[0].shelf, [name for name, kind in runs[0].kinds.items() if kind not in FROM_DEBATES]
    data = {
        "title": ", ".join(run.label for run in runs),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": __version__,
        "runs": [_run_data(run, read) for run, read in zip(runs, found, strict=True)],
        "comparisons": [
            {"run": row.run, "reference_run": row.reference_run, **_on_set(asdict(row.difference))}
            for row in compared.differences
        ],
        "matched": [_on_set(asdict(row)) for row in compared.matched],
        "viewer": viewer_data(shelf, systems=shown, product=runs[0].product),
    }
    return data, shelf


def _read(finished: Finished, limit: int | None) -> Read:
    """Read a run once. `limit`: questions to be shown, as in `write_report`."""
    run, config, kinds = finished.run, finished.config, finished.kinds
    task, product = load_task(config.task), finished.product
    debaters = [name for name, kind in kinds.items() if kind in FROM_DEBATES]
    shelf = Shelf(task, product=product, systems=[name for name in kinds if name not in debaters], debaters=debaters)
    asked = _asked(finished)
    for name, question in asked[:limit]:
        shelf.want(question, set_id=f"{name}/{question.split}", task=name)
    for question in islice(_unasked(finished), OTHERS if limit is None else max(0, limit - len(asked))):
        shelf.want(question, set_id=f"{task.name}/{question.split}", task=task.name)
    dialogue, calibration, labelling = Dialogue(task, _rule(config)), Calibration(task), Labelling(task)
    answers = []
    for answer in evaluated_answers(run):
        kind = kinds.get(answer.system)
        if answer.task == task.name and kind is not None and kind not in FROM_DEBATES:
            calibration.add_answer(answer, "engine" if kind == "engine" else "student")
        shelf.add_answer(answer)
        answers.append(replace(answer, text=""))
    check_answers(finished, answers)
    for mag in iter_mags(run.path("graphs")):
        calibration.add_debate(mag)
        labelling.add(mag)
        shelf.add_debate(mag, dialogue.add(mag))
    return Read(shelf, dialogue, calibration, labelling, digests_of(asked), answers)


def _asked(finished: Finished) -> list[tuple[str, Question]]:
    """(task, question) of what was asked, set by set: of the run's own task as stored, of others as the evaluation kept them."""
    own = str(finished.config.task.name)
    place = {(row["task"], row["split"]): number for number, row in enumerate(finished.metrics["sets"])}
    found = [(own, question) for question in stored_questions(finished.run) if (own, question.split) in place]
    found += [(task, question) for task, question in evaluated_questions(finished.run) if task != own]
    return sorted(found, key=lambda item: place.get((item[0], item[1].split), len(place)))


def _unasked(finished: Finished) -> Iterator[Question]:
    """The other questions of a run, as stored."""
    splits = {row["split"] for row in finished.metrics["sets"] if row["task"] == finished.config.task.name}
    return (question for question in stored_questions(finished.run) if question.split not in splits)


def _rule(config: RunConfig) -> Rule:
    """How a round's replies would be decided; recorded debates are read by confidence."""
    decision = getattr(config.debate.protocol, "decision", None) if config.debate else None
    return "majority" if decision is not None and decision.rule == "majority" else "confidence"


def _run_data(finished: Finished, read: Read) -> Row:
    metrics = finished.metrics
    judged = claims(
        recipes(finished.config.distil), product=finished.product, scores=finished.scores, compare=_compare(metrics, read.answers)
    )
    return {
        "label": finished.label,
        "facts": [list(pair) for pair in facts(finished)],
        "sets": [{"id": f"{row['task']}/{row['split']}", **row} for row in metrics["sets"]],
        "systems": [{"id": row["name"], **{k: row[k] for k in ("title", "kind", "product")}} for row in metrics["systems"]],
        "scores": [_on_set(row) for row in metrics["scores"]],
        "differences": [_on_set(row) for row in metrics["differences"]],
        "orderings": [_on_set(asdict(claim)) for claim in judged],
        "curves": list(curves(finished.config.distil, finished.run.metrics)),
        "rounds": [asdict(row) for row in read.dialogue.rounds()],
        "influence": [asdict(row) for row in read.dialogue.influence()],
        "calibration": [asdict(row) for row in read.calibration.rows()],
        "labelling": [asdict(row) for row in read.labelling.rows()],
        "cost": list(cost(finished, read.answers)),
    }


def _on_set(row: Mapping[str, Any]) -> Row:
    """A row with its set's id in place of task and split."""
    return {
        "set": f"{row['task']}/{row['split']}",
        **{name: value for name, value in row.items() if name not in ("task", "split")},
    }


def _compare(metrics: Row, answers: Iterable[Answer]) -> Callable[[Key, Key], Difference | None]:
    """Paired differences as the evaluation took them, else taken from the answers."""
    taken: dict[tuple[Key, Key], Difference] = {}
    for row in metrics["differences"]:
        found = Difference(**row)
        place = (found.task, found.split)
        taken[Key(*place, found.system, found.method), Key(*place, found.reference, found.reference_method)] = found
    groups = grouped(answers)

    def compare(system: Key, reference: Key) -> Difference | None:
        if (system, reference) in taken:
            return taken[system, reference]
        if system not in groups or reference not in groups:
            return None
        return difference(groups[system], groups[reference])

    return compare

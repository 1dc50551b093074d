"""From finished runs to one report: everything its page or its tables show, gathered from the run directories.

Read are the evaluation's figures and answers, the questions, the graphs (once), the log of the trainings and the manifests.
Nothing is measured here that the evaluation has not measured, but for differences it did not take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from magdi_ray import __version__
from magdi_ray.config import RecipeConfig, RunConfig, recipes
from magdi_ray.distill.watch.steplog import Training, read_trainings
from magdi_ray.errors import ConfigError, RunError
from magdi_ray.evaluate.answers import Answer, iter_answers
from magdi_ray.evaluate.exam import read_asked
from magdi_ray.evaluate.metrics import Difference, Key, Score, difference, grouped
from magdi_ray.evaluate.report.calibration import Calibration
from magdi_ray.evaluate.report.compare import Asked, compare_runs, digests_of
from magdi_ray.evaluate.report.dialogue import Dialogue, Rule
from magdi_ray.evaluate.report.markdown import study_page
from magdi_ray.evaluate.report.orderings import claims
from magdi_ray.evaluate.report.page import write_page
from magdi_ray.evaluate.report.viewer import Shelf, viewer_data
from magdi_ray.exporting import public_name, stored_config
from magdi_ray.graph.store import iter_mags
from magdi_ray.pipeline import load_results
from magdi_ray.runs import Run, write_atomically
from magdi_ray.stages import student_stage
from magdi_ray.tasks.base import SPLITS, Question
from magdi_ray.tasks.load import load_task
from magdi_ray.tasks.store import iter_stored

PAGE = "report.html"
OTHERS = 1000
"""Debates of questions that nobody was evaluated on, such as training questions, that a page shows at most."""
POINTS = 200
"""Points of a training curve at most."""
FROM_DEBATES = ("teacher", "debate")
"""Kinds of systems whose answers are read off the debates and cost nothing more."""
REPLIES = ("single", "sample")
"""Methods whose answers are replies; others are votes over those."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run whose evaluation is finished."""

    run: Run
    config: RunConfig
    label: str
    """Unique among the runs of a report."""
    metrics: Row
    """What `evaluation/metrics.json` holds."""

    @property
    def product(self) -> str | None:
        """The system that is the product."""
        return next((system["name"] for system in self.metrics["systems"] if system["product"]), None)

    @property
    def kinds(self) -> dict[str, str]:
        """System -> what it is, in the order of the tables."""
        return {system["name"]: system["kind"] for system in self.metrics["systems"]}


@dataclass(frozen=True, slots=True)
class Read:
    """What one pass over a run's questions, graphs and answers leaves."""

    shelf: Shelf
    dialogue: Dialogue
    calibration: Calibration
    digests: dict[tuple[str, str], int]
    """(task, id) of every question that was asked -> digest of its text."""
    answers: list[Answer]
    """All of them, without their texts."""


def write_report(
    runs: Sequence[Run], out: Path | None = None, *, markdown: Path | None = None, questions: int | None = None
) -> Path:
    """Write the page of one run, or of several side by side; returns its path. An existing page is replaced.

    `out` may be left out for one run: `report.html` in its directory. `markdown`: also write the tables there. `questions`: show
    at most so many, evaluated ones first; None shows all that were evaluated and `OTHERS` further debates.

    Raises:
        RunError: no run, no finished evaluation, runs of different tasks, or without a question in common.
        ConfigError: the page has no place to go.
    """
    if out is None and len(runs) > 1:
        raise ConfigError("The report of several runs belongs to none of their directories: name a file with --out FILE.")
    opened = open_runs(runs)
    target = _file(out or runs[0].root / PAGE, "--out")
    beside = None if markdown is None else _file(markdown, "--markdown")
    data, shelf = _gathered(opened, questions)
    write_page(target, data, shelf.questions())
    if beside is not None:
        write_markdown(beside, data)
    return target


def report_data(runs: Sequence[Run], *, questions: int | None = None) -> Row:
    """Everything a report shows at once, as plain data. Raises what `write_report` raises of runs."""
    return _gathered(open_runs(runs), questions)[0]


def write_markdown(path: Path, data: Mapping[str, Any]) -> None:
    """Write the tables of a report as GitHub markdown."""
    write_atomically(path, study_page(data))


def open_runs(runs: Sequence[Run]) -> list[Finished]:
    """Runs of one task, each with a finished evaluation of what it holds now.

    Raises:
        RunError: one of them is none.
    """
    if not runs:
        raise RunError("A report needs at least one run directory.")
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
                f"magdi evaluate CONFIG --out {run.root}"
            )


def _file(path: Path, option: str) -> Path:
    if path.is_dir():
        raise ConfigError(f"{option} names the file to write, {path} is a directory.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


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
    dialogue, calibration = Dialogue(task, _rule(config)), Calibration(task)
    for mag in iter_mags(run.path("graphs")):
        calibration.add_debate(mag)
        shelf.add_debate(mag, dialogue.add(mag))
    answers = []
    for answer in iter_answers(run.path("evaluation")):
        kind = kinds.get(answer.system)
        if answer.task == task.name and kind is not None and kind not in FROM_DEBATES:
            calibration.add_answer(answer, "engine" if kind == "engine" else "student")
        shelf.add_answer(answer)
        answers.append(replace(answer, text=""))
    return Read(shelf, dialogue, calibration, digests_of(asked), answers)


def _asked(finished: Finished) -> list[tuple[str, Question]]:
    """(task, question) of what was asked, set by set: of the run's own task as stored, of others as the evaluation kept them."""
    own, kept = str(finished.config.task.name), finished.run.path("evaluation") / "asked.parquet"
    place = {(row["task"], row["split"]): number for number, row in enumerate(finished.metrics["sets"])}
    found = [(own, question) for question in iter_stored(finished.run.path("questions")) if (own, question.split) in place]
    found += [(task, question) for task, question in read_asked(kept) if task != own] if kept.is_file() else []
    return sorted(found, key=lambda item: place.get((item[0], item[1].split), len(place)))


def _unasked(finished: Finished) -> Iterator[Question]:
    """The other questions of a run, as stored."""
    splits = {row["split"] for row in finished.metrics["sets"] if row["task"] == finished.config.task.name}
    return (question for question in iter_stored(finished.run.path("questions")) if question.split not in splits)


def _rule(config: RunConfig) -> Rule:
    """How a round's replies would be decided; recorded debates are read by confidence."""
    decision = getattr(config.debate.protocol, "decision", None) if config.debate else None
    return "majority" if decision is not None and decision.rule == "majority" else "confidence"


def _run_data(finished: Finished, read: Read) -> Row:
    metrics = finished.metrics
    found = [Score(**row) for row in metrics["scores"]]
    judged = claims(
        recipes(finished.config.distil), product=finished.product, scores=found, compare=_compare(metrics, read.answers)
    )
    return {
        "label": finished.label,
        "facts": [list(pair) for pair in facts(finished)],
        "sets": [{"id": f"{row['task']}/{row['split']}", **row} for row in metrics["sets"]],
        "systems": [{"id": row["name"], **{k: row[k] for k in ("title", "kind", "product")}} for row in metrics["systems"]],
        "scores": [_on_set(row) for row in metrics["scores"]],
        "differences": [_on_set(row) for row in metrics["differences"]],
        "orderings": [_on_set(asdict(claim)) for claim in judged],
        "curves": list(curves(finished)),
        "rounds": [asdict(row) for row in read.dialogue.rounds()],
        "influence": [asdict(row) for row in read.dialogue.influence()],
        "calibration": [asdict(row) for row in read.calibration.rows()],
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


def facts(finished: Finished) -> Iterator[tuple[str, str]]:
    """What a run was, in pairs of short texts."""
    config, distil = finished.config, finished.config.distil
    yield "task", config.task.name
    yield "held out", ", ".join(f"{row['questions']} of {row['task']}/{row['split']}" for row in finished.metrics["sets"])
    if config.debate is not None:
        protocol = config.debate.protocol
        decision = getattr(protocol, "decision", None)
        rounds = f", rounds {found}" if (found := getattr(protocol, "rounds", None)) is not None else ""
        yield "debate", protocol.name + rounds + (f", decided by {decision.rule}" if decision else "")
        yield "agents", ", ".join(f"{agent.name} ({_model(agent.engine)})" for agent in config.debate.agents)
    if (source := config.graph.source) is not None:
        yield "debates from", f"{Path(source.path).name} ({source.format})"
    yield "labels", config.graph.labels
    model = distil.student.model
    yield "student", public_name(model) if isinstance(model, str) else f"{model.architecture}, made from scratch"
    yield "tuning", distil.student.tuning.type
    for recipe in recipes(distil):
        yield f"recipe {recipe.name}" + (" (the product)" if recipe.name == finished.product else ""), _recipe(recipe)
    yield "trainings of each recipe", str(distil.seeds)
    length = f"{distil.train.max_steps} steps" if distil.train.epochs is None else f"{distil.train.epochs} epochs"
    tokens = f"{distil.train.tokens_per_step} supervised tokens a step"
    yield "training", f"{length}, {tokens}, learning rate {distil.train.learning_rate:g}"
    if (drawn := config.evaluate.self_consistency) is not None:
        yield "self-consistency", f"{drawn.samples} replies at temperature {drawn.temperature:g}"
    yield "seed", str(config.seed)
    manifest = finished.run.require("evaluation")
    yield "evaluated", manifest.finished
    yield "run", f"{config.name} {finished.run.identity}".strip()


def _recipe(recipe: RecipeConfig) -> str:
    """Its terms with their weights, and where it does not learn from every reply of every debater."""
    terms = [
        f"{term.weight:g} x {term.name}" + (f" ({kind})" if (kind := getattr(term, "embeddings", "")) else "")
        for term in recipe.objectives
    ]
    chosen = recipe.nodes.model_dump(exclude_defaults=True) | recipe.labels.model_dump(exclude_defaults=True)
    return " + ".join(terms) + "".join(f"; {name}: {value}" for name, value in chosen.items())


def _model(engine: Any) -> str:
    model = getattr(engine, "model", None)
    return public_name(model) if model else "recorded"


def curves(finished: Finished) -> Iterator[Row]:
    """Losses of every training of the run's recipes, by step."""
    distil = finished.config.distil
    terms = {recipe.name: ("loss", *(term.name for term in recipe.objectives)) for recipe in recipes(distil)}
    found = read_trainings(finished.run.metrics, dict.fromkeys(name for names in terms.values() for name in names))
    for recipe, names in terms.items():
        for seed in range(distil.seeds):
            training = found.get((recipe, seed), Training())
            if training.steps:
                yield {
                    "recipe": recipe,
                    "seed": seed,
                    "parts": {
                        name: thinned([(step, row[name]) for step, row in training.steps.items() if name in row])
                        for name in names
                    },
                    "dev": [[done, *measured] for done, measured in training.dev.items()],
                }


def thinned(points: Sequence[tuple[int, float]], most: int = POINTS) -> list[list[float]]:
    """At most so many points: means over neighbours, the last point as it is."""
    if len(points) <= most:
        return [[step, value] for step, value in points]
    *earlier, last = points
    edges = [round(place * len(earlier) / (most - 1)) for place in range(most)]
    bins = [earlier[low:high] for low, high in pairwise(edges)]
    means = [[round(_mean([step for step, _ in bin_])), _mean([value for _, value in bin_])] for bin_ in bins]
    return [*means, list(last)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def cost(finished: Finished, answers: Iterable[Answer]) -> Iterator[Row]:
    """What each finished stage took; None is unknown. A training's tokens in are those it forwarded."""
    config, run = finished.config, finished.run
    students = [(recipe.name, seed) for recipe in recipes(config.distil) for seed in range(config.distil.seeds)]
    by_name = {recipe.name: recipe for recipe in recipes(config.distil)}
    stages = [(stage, stage) for stage in ("questions", "debates", "graphs", "base")]
    stages += [(f"{name}, seed {seed}", student_stage(config, by_name[name], seed)) for name, seed in students]
    for title, stage in stages:
        if (manifest := run.read_manifest(stage)) is not None:
            yield {"stage": title, **_spent(config, stage, manifest.facts), "seconds": manifest.seconds}
    asked = [answer for answer in answers if finished.kinds.get(answer.system) not in FROM_DEBATES and answer.method in REPLIES]
    paid = [answer.usd for answer in asked if finished.kinds.get(answer.system) == "engine"]
    yield {
        "stage": "evaluation",
        "what": f"{len(asked)} replies of {len({answer.system for answer in asked})} systems",
        "tokens_in": sum(answer.tokens_in for answer in asked) or None,
        "tokens_out": sum(answer.tokens_out for answer in asked) or None,
        "usd": None if not paid or None in paid else sum(filter(None, paid)),
        "seconds": run.require("evaluation").seconds,
    }


def _spent(config: RunConfig, stage: str, facts: Mapping[str, Any]) -> Row:
    what, tokens_in, tokens_out, usd = "", facts.get("tokens_forwarded"), None, None
    if stage == "questions":
        what = ", ".join(f"{facts[split]} {split}" for split in SPLITS if split in facts)
    elif stage == "debates":
        agents = config.debate.agents if config.debate else ()
        priced = bool(agents) and all(getattr(agent.engine, "price", None) is not None for agent in agents)
        what = f"{facts.get('debates', 0)} debates, {facts.get('replies', 0)} replies"
        tokens_in, tokens_out, usd = facts.get("tokens_in"), facts.get("tokens_out"), facts.get("usd") if priced else None
    elif stage == "graphs":
        what = f"{facts.get('graphs', 0)} graphs, {facts.get('nodes', 0)} nodes"
    elif "steps" in facts:
        what = f"{facts['steps']} steps on {facts.get('graphs', 0)} graphs, {facts.get('worker_seconds', 0.0):.0f} worker seconds"
    return {"what": what, "tokens_in": tokens_in, "tokens_out": tokens_out, "usd": usd}

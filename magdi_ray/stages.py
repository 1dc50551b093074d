"""The stages of a run, each a function from what is on disk to what is on disk. Which of them run is `pipeline`'s business.

Signature of the family: `stage(config, run, directory) -> facts`: read earlier stages of `run`, write into the empty
`directory`, return the counts a person asks for first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magdi_ray.agents.base import derive_seed
from magdi_ray.agents.weights import model_directories, resolve_model
from magdi_ray.config import RecipeConfig, RunConfig, resolve_recipe
from magdi_ray.config.base import absolute
from magdi_ray.config.distil import ScratchModel, train_of
from magdi_ray.config.protocols import located
from magdi_ray.config.sections import GraphSource
from magdi_ray.debate.order import read_debates_of
from magdi_ray.debate.store import read_debates, write_debates
from magdi_ray.errors import ConfigError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import Import, import_debates
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import iter_mags, write_mags
from magdi_ray.progress import Progress, console, polled
from magdi_ray.runs import Run, file_hash
from magdi_ray.storage import is_url
from magdi_ray.tasks.base import SPLITS, Question
from magdi_ray.tasks.checks import checked, fingerprint
from magdi_ray.tasks.load import BadRow, iter_questions, load_task
from magdi_ray.tasks.store import count_stored, iter_stored, write_splits

if TYPE_CHECKING:
    from magdi_ray.debate.operator import DebateStage
    from magdi_ray.distill.job import Job

Facts = dict[str, Any]

WASTE = "failed-calls.json"
"""What calls cost that brought no reply: the budget counts them, the reply store cannot."""

GRAPHS_PER_FILE = 4096


def make_questions(config: RunConfig, run: Run, directory: Path) -> Facts:
    """Check and store the questions as they come, one file a split; rows that are left out are listed in `skipped.jsonl`."""
    counts: Counter[str] = Counter()
    path = directory / "skipped.jsonl"
    with path.open("w", encoding="utf-8") as listed:

        def skip(bad: BadRow) -> None:
            counts["rows left out"] += 1
            counts[f"rows left out: {bad.fault}"] += 1
            # no path: where the file lies is no part of what a stage holds
            line = {"split": bad.split, "place": f"{bad.place.unit} {bad.place.number}", "fault": bad.fault, "reason": bad.reason}
            listed.write(json.dumps(line, ensure_ascii=False) + "\n")

        stored = write_splits(directory, _counting_golds(all_questions(config, skip), counts))
    if not counts["rows left out"]:
        path.unlink()
    return {split: stored[split] for split in SPLITS if stored[split]} | dict(+counts)


def _counting_golds(questions: Iterator[Question], counts: Counter[str]) -> Iterator[Question]:
    for question in questions:
        counts["without a gold answer"] += question.gold is None
        yield question


def all_questions(config: RunConfig, skipped: Callable[[BadRow], object] = lambda _: None) -> Iterator[Question]:
    """Every question of a run, checked: the task's own, or those of recorded debates and the task's held-out ones.

    Held-out questions come first; one that was debated too, in a run whose graphs these are, comes once. Rows of question files
    that are left out go to `skipped`.
    """
    golds, source = config.needs_golds, config.graph.source
    found: Iterable[Question] = iter_questions(config.task, golds=golds, training=source is None, skipped=skipped)
    if source is not None:
        debated = source_questions(config, source)
        known = {(question.id, question.split, fingerprint(question)) for question in debated}
        others = [q for q in found if (q.id, q.split, fingerprint(q)) not in known]
        found = sorted([*debated, *others], key=lambda question: question.split == "train")
    return checked(found)


def source_questions(config: RunConfig, source: GraphSource) -> list[Question]:
    """The questions of recorded debates or graphs, some of them held out."""
    if source.format == "mag":
        found = [mag.question for mag in iter_mags(source.path)]
    else:
        found = [debate.question for debate in read_source(config).debates]
    if source.test and source.test >= len(found):
        raise ConfigError(f"graph.source.test holds out {source.test} questions, but {source.path} has only {len(found)}.")
    return hold_out(found, source.test, config.seed)


def hold_out(questions: list[Question], count: int, seed: int) -> list[Question]:
    """Move `count` training questions to the test split, chosen by a seeded hash of their text; the others stay as they are."""
    training = sorted((q for q in questions if q.split == "train"), key=lambda q: derive_seed(seed, fingerprint(q)))
    chosen = {question.id for question in training[:count]}
    return [replace(question, split="test") if question.id in chosen else question for question in questions]


def read_source(config: RunConfig) -> Import:
    """The debates of a published file."""
    source = config.graph.source
    assert source is not None
    return import_debates(source.format, Path(source.path), load_task(config.task))


def make_debates(config: RunConfig, run: Run, directory: Path) -> Facts:
    """Hold the debates, or import them."""
    if config.graph.source is not None:
        return _import_debates(config, run, directory, config.graph.source)
    from magdi_ray.debate.run import run_debates

    source, shared = run.place("questions"), run.place_of(directory)
    return run_debates(debate_stage(config, run), source=source, out=directory, shared=shared, log=run.metrics)


def debate_stage(config: RunConfig, run: Run) -> DebateStage:
    """What the debate stage of a run works on."""
    from magdi_ray.debate.operator import DebateStage, identity

    assert config.debate is not None
    agents = config.debate.agents
    hashes = {a.name: "".join(map(file_hash, model_directories(a.engine.files()))) for a in agents}
    debate = config.debate.model_copy(update={"protocol": located(config.debate.protocol)})
    return DebateStage(
        config=config.model_copy(update={"debate": debate}),
        replies=replies_url(config, run),
        run=payer(config, run),
        rows=count_stored(run.path("questions")),
        waste=str((run.root / WASTE).resolve()),
        identities={agent.name: identity(agent, hashes[agent.name]) for agent in agents},
    )


def payer(config: RunConfig, run: Run) -> str:
    """What a run is called in the records of replies it paid for; the same wherever its directory is moved."""
    return f"{config.name}-{run.identity}"


def replies_url(config: RunConfig, run: Run) -> str:
    """Where the replies of a run's debates are kept."""
    return located_store(config.debate.replies if config.debate else None) or run.beside("replies")


def located_store(chosen: str | None) -> str | None:
    """A reply store of one's own choosing, also for workers, which have working directories of their own; None if none was."""
    return chosen if chosen is None or is_url(chosen) else str(Path(chosen).expanduser().resolve())


def _import_debates(config: RunConfig, run: Run, directory: Path, source: GraphSource) -> Facts:
    split = {question.id: question.split for question in iter_stored(run.path("questions"))}
    found = read_source(config)
    debates = [replace(d, question=replace(d.question, split=split[d.question.id])) for d in found.debates]
    write_debates(directory / "imported.parquet", debates)
    reasons = Counter(skipped.reason for skipped in found.skipped)
    unparsed = sum(turn.status == "unparsed" for debate in debates for turn in debate.turns)
    facts: Facts = {
        "format": source.format,
        "debates": len(debates),
        "skipped": len(found.skipped),
        "skipped_reasons": dict(reasons),
    }
    return facts | {"replies": sum(len(debate.turns) for debate in debates), "unparsed_replies": unparsed}


def make_graphs(config: RunConfig, run: Run, directory: Path) -> Facts:
    """One graph a debate; failed debates are counted and left out."""
    counts: Counter[str] = Counter()
    source = config.graph.source
    mags = _copied_mags(source.path, run, counts) if source and source.format == "mag" else _built_mags(config, run, counts)
    part = 0
    while (first := next(mags, None)) is not None:
        write_mags(directory / f"part-{part:05d}.parquet", chain([first], islice(mags, GRAPHS_PER_FILE - 1)))
        part += 1
    return dict(counts)


def _built_mags(config: RunConfig, run: Run, counts: Counter[str]) -> Iterator[Mag]:
    task = load_task(config.task)
    debates = read_debates(run.path("debates"))
    if config.graph.source is None:  # a training takes its graphs in this order: it must not depend on which debate ended first
        debates = read_debates_of((question.id for question in iter_stored(run.path("questions"))), run.path("debates"))
    for debate in debates:
        if debate.error is not None:
            counts["failed debates left out"] += 1
            continue
        yield _counted(build_mag(debate, task, labels=config.graph.labels), counts)


def _copied_mags(path: str, run: Run, counts: Counter[str]) -> Iterator[Mag]:
    split = {question.id: question.split for question in iter_stored(run.path("questions"))}
    for mag in iter_mags(path):
        yield _counted(replace(mag, question=replace(mag.question, split=split[mag.question.id])), counts)


def _counted(mag: Mag, counts: Counter[str]) -> Mag:
    labels = {node.correct for node in mag.nodes}
    counts["graphs"] += 1
    counts["nodes"] += len(mag.nodes)
    counts["edges"] += len(mag.edges)
    counts["unparsed nodes"] += sum(node.status == "unparsed" for node in mag.nodes)
    counts["graphs with both kinds of nodes"] += {True, False} <= labels
    return mag


def make_base(config: RunConfig, run: Run, directory: Path) -> Facts:
    """Write the student that is made from scratch, before it is taught."""
    from magdi_ray.distill.scratch import make_student

    shape = config.distil.student.model
    assert isinstance(shape, ScratchModel)
    make_student(
        shape,
        mags=iter_mags(run.path("graphs")),
        task=load_task(config.task),
        directory=directory,
        seed=derive_seed(config.seed, "base"),
    )
    return {"made from scratch": shape.architecture}


def base_model(config: RunConfig, run: Run) -> str:
    """Where the untaught student's weights are."""
    model = config.distil.student.model
    return absolute(model) if isinstance(model, str) else run.place("base")


def student_stage(config: RunConfig, recipe: RecipeConfig, number: int = 0) -> str:
    """The stage a recipe's student is made in: the product, or a comparison beside it; `number`: of its trainings, from 0."""
    if number:
        return f"seeds/{recipe.name}-{number}"
    return "student" if recipe == resolve_recipe(config.distil.recipe) else f"ablations/{recipe.name}"


def make_student(config: RunConfig, run: Run, directory: Path, *, recipe: RecipeConfig, number: int = 0) -> Facts:
    """Distil one student on Ray Train."""
    from magdi_ray.distill.train import distill
    from magdi_ray.distill.watch.view import cost_summary

    job = training_job(config, run, directory, recipe, number)
    with polled(Progress(f"distil {job.label}", None), lambda progress: _follow(progress, run, job)):
        facts = distill(job, config.distil.scaling, storage=run.beside("training"), place=config.resources.distil)
    run.gather(directory)
    for line in cost_summary(facts):
        console.print(f"  [dim]{job.label}: {line}[/]", soft_wrap=True)
    return facts


def forget_training(config: RunConfig, run: Run, directory: Path, *, recipe: RecipeConfig, number: int = 0) -> None:
    """Delete the checkpoints of a training whose student is complete."""
    from magdi_ray.distill.train import forget

    forget(training_job(config, run, directory, recipe, number), storage=run.beside("training"))


def training_job(config: RunConfig, run: Run, directory: Path, recipe: RecipeConfig, number: int = 0) -> Job:
    """What the workers of a recipe's training are told."""
    from magdi_ray.distill.job import Job

    inputs = {stage: manifest.content for stage in ("graphs", "base") if (manifest := run.read_manifest(stage))}
    inputs["student"] = file_hash(resolve_model(base_model(config, run)))
    return Job(
        graphs=run.place("graphs"),
        tokens=run.beside("tokens"),
        output=run.place_of(directory),
        log=run.log,
        tensorboard=run.beside("tensorboard/" + (f"{recipe.name}-{number}" if number else recipe.name)),
        task=config.task,
        student=config.distil.student,
        model=base_model(config, run),
        recipe=recipe,
        train=train_of(config.distil, recipe),
        dev=config.distil.dev,
        deepspeed=config.distil.deepspeed,
        checkpoints=config.distil.checkpoints,
        track=config.distil.track,
        run=f"{config.name}-{run.identity}",
        seed=derive_seed(config.seed, "distil", *([number] if number else [])),
        attempt=run.attempt,
        number=number,
        inputs=inputs,
    )


def _follow(progress: Progress, run: Run, job: Job) -> None:
    """Show the newest step of a training from the run's log."""
    from magdi_ray.distill.watch.lines import last_lines
    from magdi_ray.distill.watch.view import progress_note

    run.refresh()
    this = (job.recipe.name, job.number, job.attempt)
    lines = [line for line in last_lines(run.metrics) if "loss" in line and "event" not in line]
    if mine := [line for line in lines if (line.get("recipe"), line.get("seed"), line.get("attempt")) == this]:
        last = mine[-1]
        progress.update(last["step"] + 1, total=last["steps"], note=progress_note(last))

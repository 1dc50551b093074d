"""A whole run: which stages there are, which of them have to run, and running those and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from magdi_ray import examining, stages
from magdi_ray.agents.weights import model_directories, resolve_model
from magdi_ray.cluster import ray_session, remarks_to, set_environment
from magdi_ray.config import RunConfig, recipes
from magdi_ray.config.distil import ScratchModel, train_of
from magdi_ray.config.sections import FileTask
from magdi_ray.errors import ConfigError, RunError
from magdi_ray.evaluate.answers import VOTE
from magdi_ray.observe.stages import observed, tell_state
from magdi_ray.observe.where import named, settle
from magdi_ray.preflight import check_placement, check_run
from magdi_ray.progress import console
from magdi_ray.runs import Resume, Run, State, file_hash
from magdi_ray.tasks.source import local_path


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run."""

    name: str
    shaped_by: Any
    """The part of the configuration its result depends on."""
    inputs: tuple[str, ...]
    """Stages it reads."""
    make: Callable[[RunConfig, Run, Path], dict[str, Any]]
    needs_ray: bool = False
    beside: bool = False
    """May run at the same time as the next stage, if that may too."""
    tidy: Callable[[RunConfig, Run, Path], None] | None = None
    """Removes what only an unfinished attempt needs; called when the stage is complete."""


def plan(config: RunConfig) -> list[Stage]:
    """The stages of a run, in order. Local files a stage reads are part of what shapes it, by their content."""
    source, student = config.graph.source, config.distil.student
    finished_graphs = source is not None and source.format == "mag"
    recorded = {"source": source, "file": file_hash(source.path) if source else None, "seed": config.seed}
    asked = {
        "task": config.task,
        "files": _task_files(config),
        "golds": isinstance(config.task, FileTask) and config.needs_golds,
        **recorded,
    }
    result = [Stage("questions", asked, (), stages.make_questions)]
    shaped: dict[str, Any]
    if not finished_graphs:
        shaped = {"debate": config.debate, "files": _teacher_files(config), **recorded}
        result.append(Stage("debates", shaped, ("questions",), stages.make_debates, needs_ray=source is None))
    reads = ("questions",) if finished_graphs else ("debates",)
    result.append(Stage("graphs", {"graph": config.graph, **recorded}, reads, stages.make_graphs))
    base: tuple[str, ...] = ()
    if isinstance(student.model, ScratchModel):
        base = ("base",)
        result.append(Stage("base", {"model": student.model, "seed": config.seed}, ("graphs",), stages.make_base))
    weights = file_hash(resolve_model(student.model)) if isinstance(student.model, str) else None
    students: list[str] = []
    for recipe in recipes(config.distil):
        shaped = {
            "student": student,
            "weights": weights,
            "train": train_of(config.distil, recipe),
            "dev": config.distil.dev,
            "recipe": recipe,
            "seed": config.seed,
        }
        for number in range(config.distil.seeds):
            students.append(stages.student_stage(config, recipe, number))
            make = partial(stages.make_student, recipe=recipe, number=number)
            tidy = partial(stages.forget_training, recipe=recipe, number=number)
            own = shaped | ({"number": number} if number else {})
            result.append(Stage(students[-1], own, ("graphs", *base), make, needs_ray=True, beside=True, tidy=tidy))
    inputs = ("questions", "graphs", *base, *students)
    prices = examining.prices(config)  # no part of what is asked, but of what is measured
    shaped = {"evaluate": config.evaluate, "files": examining.asked_files(config), "seed": config.seed, "prices": prices}
    result.append(Stage("evaluation", shaped, inputs, examining.make_evaluation, needs_ray=True))
    return result


def _task_files(config: RunConfig) -> list[str]:
    """Hashes of the question files a task names."""
    return [file_hash(local_path(path)) for field in ("path", "test_path") if (path := getattr(config.task, field, None))]


def _teacher_files(config: RunConfig) -> list[str]:
    """Hashes of the local models, recordings and prompt templates a debate is held with."""
    if config.debate is None:
        return []
    engines = [agent.engine for agent in config.debate.agents]
    paths = model_directories(path for engine in engines for path in engine.files())
    for name in ("prompts", "convincing"):
        source = getattr(config.debate.protocol, name, None)
        paths += [source] if isinstance(source, str) else []
    return [file_hash(resolve_model(path)) for path in paths]


def run_pipeline(config: RunConfig, run: Run, *, resume: Resume = "if_possible", until: str | None = None) -> list[str]:
    """Run what is missing or stale, up to the stage `until` (None: all; "student": all students). Returns the names of those run.

    Everything that can be refused is refused before the first worker starts.
    """
    set_environment()
    check_run(config, run, until=until)
    chosen = plan(config)
    if until is not None:
        meant = [place for place, stage in enumerate(chosen) if stage.name == until or (until == "student" and stage.beside)]
        last = max(meant, default=None)
        if last is None:
            raise ConfigError(
                f"This run has no stage {until!r}; it has {', '.join(stage.name for stage in chosen)}. Name one of them, "
                "or run all: magdi run CONFIG"
            )
        chosen = chosen[: last + 1]
    ran = []
    with ExitStack() as session:
        session.enter_context(held(run))
        run.prepare(config, resume)
        settle(named(stages.payer(config, run)))
        connected = False
        for beside, group in groupby(chosen, key=lambda stage: stage.beside or stage.name):
            todo = [stage for stage in group if not _complete(config, run, stage)]
            if any(stage.needs_ray for stage in todo) and not connected:
                session.enter_context(remarks_to(run.root / "ray.log"))
                session.enter_context(ray_session())
                from magdi_ray.agents.leftovers import no_engines_left  # it imports Ray Serve, which may have to be set up first

                session.enter_context(no_engines_left())
                connected = True
                check_placement(config, [stage.name for stage in chosen if _state(run, stage) != "complete"])
            work = [partial(run_stage, config, run, stage) for stage in todo]
            if beside is True:  # in threads, also one by one: in the main one Ray Train would keep Ctrl-C for itself
                together(work, config.distil.parallel)
            else:
                for piece in work:
                    piece()
            ran += [stage.name for stage in todo]
    return ran


@contextmanager
def held(run: Run) -> Iterator[None]:
    """Let go of a run at the end of the body; one that another attempt took over ends with that attempt's name."""
    try:
        yield
    except KeyboardInterrupt:
        run.stop_if_lost()  # who interrupts the main thread may be the watch over the lease
        raise
    finally:
        run.unlock()


def together(work: Sequence[Callable[[], object]], at_once: int) -> None:
    """Do some pieces of work, so many at once, in their order. The first failure is raised, and nothing is begun after it.

    What is under way then ends first; on Ctrl-C nobody waits for it, since leaving the Ray session ends it.
    """
    pool = ThreadPoolExecutor(at_once)
    try:
        for done in as_completed([pool.submit(piece) for piece in work]):
            done.result()
    except Exception:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _state(run: Run, stage: Stage) -> State:
    return run.state(stage.name, stage.shaped_by, stage.inputs)


def _complete(config: RunConfig, run: Run, stage: Stage) -> bool:
    complete = _state(run, stage) == "complete"
    if complete:
        tell_state(named(stages.payer(config, run), stage.name), "finished")
        console.print(f"[green]✓[/] {stage.name}: already complete")
    return complete


def run_stage(config: RunConfig, run: Run, stage: Stage) -> None:
    """Run one stage into an empty directory and declare it complete."""
    directory = run.clear(stage.name, stage.inputs)
    started = time.monotonic()
    with observed(stages.payer(config, run), stage.name) as tell:
        facts = stage.make(config, run, directory)
        manifest = run.finish(stage.name, stage.shaped_by, stage.inputs, seconds=time.monotonic() - started, facts=facts)
        tell(facts)
    if stage.tidy is not None:
        try:
            stage.tidy(config, run, directory)
        except Exception as error:  # the stage is complete all the same
            console.print(f"  {stage.name}: its checkpoints could not be deleted: {error}", markup=False, soft_wrap=True)
    shown = ", ".join(f"{_figure(value)} {name}" for name, value in facts.items() if isinstance(value, int) and value)
    console.print(f"[green]✓[/] {stage.name}: {shown or 'done'} [dim]({manifest.seconds:.0f} s)[/]")


def _figure(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def load_results(run: Run) -> dict[str, Any]:
    """What a finished evaluation measured (`examining.measure`).

    Raises:
        RunError: there is none, it cannot be read, or it was measured by a version that measured less.
    """
    run.require("evaluation")
    file = run.path("evaluation") / "metrics.json"
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise RunError(
            f"The figures of a finished evaluation are required; {file} cannot be read ({error}). Move {file.parent} away and "
            f"measure again: magdi evaluate CONFIG --out {run.where}"
        ) from error
    if data.get("schema") != examining.SCHEMA:
        raise RunError(
            f"{file.parent} was measured by another version (schema {data.get('schema', 1)}, required is "
            f"{examining.SCHEMA}). Measure again: magdi evaluate CONFIG --out {run.where}"
        )
    return data


def summary(config: RunConfig, run: Run, *, seconds: float) -> dict[str, Any]:
    """The headline figures on the first evaluated split, for machines: accuracies in [0, 1], tokens a question."""
    data = load_results(run)
    first = data["sets"][0]
    rows = [row for row in data["scores"] if (row["task"], row["split"]) == (first["task"], first["split"])]
    plain = {row["system"]: row for row in rows if row["method"] == "single"}
    kinds = {system["name"]: system["kind"] for system in data["systems"]}
    product = plain[recipes(config.distil)[-1].name]
    figures: dict[str, Any] = {
        name: round(row["accuracy"], 4) for name, row in plain.items() if kinds[name] in ("base", "student", "debate")
    }
    for row in rows:
        if row["system"] == product["system"] and row["method"] != "single":
            figures[f"{row['system']} {row['method']} of {row['samples']}"] = round(row["accuracy"], 4)
    teachers = [row["accuracy"] for name, row in plain.items() if kinds[name] == "teacher"]
    if teachers:
        figures["best_teacher"] = round(max(teachers), 4)
    debate = plain[VOTE]["tokens_out"] if VOTE in plain and plain[VOTE]["tokens_out"] else None
    figures["tokens_student"] = round(product["tokens_out"], 2)
    figures["tokens_debate"] = None if debate is None else round(debate, 2)
    ratio = None if debate is None or not product["tokens_out"] else debate / product["tokens_out"]
    figures["token_ratio"] = None if ratio is None else round(ratio, 2)
    return figures | {"seconds": round(seconds, 1), "run": run.where}

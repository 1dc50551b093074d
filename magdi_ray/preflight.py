"""Everything that can be refused before any worker starts: files that are missing, models that cannot learn, too few machines.

All problems are collected and said at once. Starts nothing, loads no weights.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.markup import escape

from magdi_ray.agents.weights import check_model_directory, has_tokenizer, is_adapter, resolve_model
from magdi_ray.cluster import COORDINATION, joins_cluster, machine, read_fleet
from magdi_ray.config import RunConfig
from magdi_ray.config.distil import ScratchModel
from magdi_ray.config.engines import ApiEngine, RecordedEngine, TransformersEngine, VllmEngine
from magdi_ray.config.sections import AgentConfig
from magdi_ray.debate.load import load_protocol, rehearse
from magdi_ray.errors import ConfigError, MagdiError
from magdi_ray.examining import check_asked
from magdi_ray.graph.store import check_version
from magdi_ray.learning import learning_checks, recipe_checks
from magdi_ray.placement import shortages, wants
from magdi_ray.progress import console
from magdi_ray.runs import Run
from magdi_ray.stages import all_questions
from magdi_ray.tasks.load import load_task

BEFORE_LEARNING = ("questions", "debates", "graphs")
"""Stages that need neither the student nor the machines that teach it."""


def check_run(config: RunConfig, run: Run, *, until: str | None = None, keys: bool = True, whole: bool = False) -> None:
    """Check a configuration against what it points to, as far as the stages up to `until` need it (None: all).

    `keys`: also what only a run needs: the providers' keys at hand, and a reply store that can be written. `whole`: also that
    there are questions to measure on, though the evaluation is not among those stages: who only distils needs no gold answer.

    Raises:
        ConfigError: with every problem found; one problem alone keeps its own class.
    """
    measures = whole or until in (None, "evaluation")
    problems = list(_problems(config, run, learns=until not in BEFORE_LEARNING, measures=measures, keys=keys))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError("This run cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems))


def check_placement(config: RunConfig, stages: Iterable[str]) -> None:
    """Check that what some stages want can be had on the Ray that was joined, now or grown, before their workers start.

    Where an autoscaler's bounds cannot be read, what the living nodes lack is only warned of.

    Raises:
        ConfigError: with the arithmetic of everything that can never run.
    """
    asked = wants(config, stages)
    if not asked:
        return
    fleet = read_fleet()
    lacking = shortages(fleet, asked)
    if lacking and fleet.growth == "unknown":
        note = "Not on the nodes that are alive, and how far this cluster may grow is not known here"
        for words in lacking:
            console.print(f"[yellow]![/] {escape(f'{note}: {words}')}", soft_wrap=True)
    elif lacking:
        raise ConfigError("The cluster can never run this:\n" + "\n".join(f"  - {words}" for words in lacking))


def _problems(config: RunConfig, run: Run, *, learns: bool, measures: bool, keys: bool) -> Iterator[MagdiError]:
    checks: list[Callable[[], object]] = [
        lambda: _check_questions(config, measures=measures),
        lambda: _check_graphs(run),
        *recipe_checks(config),
        lambda: _check_teachers_fit(config),
    ]
    if learns:
        checks += [lambda: _check_student(config), lambda: _check_workers(config), *learning_checks(config, keys=keys)]
    if learns and measures:
        checks += [lambda: check_asked(config, (q for q in all_questions(config) if q.split == "train"))]
        checks += [lambda agent=agent: _check_agent(agent, keys=keys) for agent in config.evaluate.agents]  # type: ignore[misc]
        checks += [lambda: _check_store(config.evaluate.replies)] if keys else []
    if config.debate is not None:
        protocol, names = config.debate.protocol, [agent.name for agent in config.debate.agents]
        checks.append(lambda: rehearse(load_protocol(protocol, load_task(config.task)), names))
        if keys:  # opening a store makes its directory, which only a run may do
            checks.append(lambda: _check_store(config.debate.replies if config.debate else None))
        checks += [lambda agent=agent: _check_agent(agent, keys=keys) for agent in config.debate.agents]  # type: ignore[misc]
    for check in checks:
        try:
            check()
        except MagdiError as problem:
            yield problem


def _check_questions(config: RunConfig, *, measures: bool) -> None:
    counts: Counter[str] = Counter()
    golds: Counter[str] = Counter()
    for question in all_questions(config):
        counts[question.split] += 1
        golds[question.split] += question.gold is not None
    if not counts["train"]:
        raise ConfigError(
            "There is no training question: nothing could be distilled. Give the task some: task.path (tiny: task.train)."
        )
    for split in config.evaluate.splits if measures else ():
        if not golds[split]:
            raise ConfigError(
                f"evaluate.splits names {split!r}, but there is no question with a gold answer in it. Give the task some "
                f"(tiny: task.{split}; else: task.test_path), hold some out (graph.source.test), or take the split out. "
                "Without any gold answer a student can be distilled all the same, but not measured: magdi distill CONFIG"
            )


def _check_store(replies: str | None) -> None:
    """A reply store outside of the run directory can be opened."""
    from magdi_ray.agents.segments import open_segments

    if replies is not None:
        open_segments(replies).close()


def _check_graphs(run: Run) -> None:
    graphs = run.path("graphs")
    for path in sorted(graphs.glob("*.parquet")) if graphs.is_dir() else ():
        check_version(path)


def _check_agent(agent: AgentConfig, *, keys: bool) -> None:
    match agent.engine:
        case TransformersEngine(model=model):
            try:
                check_model_directory(model)
            except MagdiError as problem:
                raise ConfigError(f"Agent {agent.name!r}: {problem}") from None
        case RecordedEngine(path=path):
            if not Path(path).is_file():
                raise ConfigError(f"Agent {agent.name!r}: there is no recording at {path}. Check engine.path.")
        case ApiEngine(api_key_env=variable):
            if keys and variable and not os.environ.get(variable, "").strip():
                raise ConfigError(
                    f"Agent {agent.name!r}: engine.api_key_env names {variable}, but that environment variable is not set. "
                    f"Set it where the run is started, and on every machine of a cluster: export {variable}=..."
                )
        case VllmEngine(model=model):
            from magdi_ray.agents.vllm import check_vllm

            check_vllm()
            check_model_directory(model)


def _check_student(config: RunConfig) -> None:
    model = config.distil.student.model
    if config.distil.student.packing == "flex" and not config.distil.scaling.use_gpu:
        raise ConfigError("distil.student.packing 'flex' needs a GPU (distil.scaling.use_gpu); use 'auto' or 'segments' on CPU.")
    if isinstance(model, ScratchModel):
        return
    directory = Path(resolve_model(model))
    if is_adapter(directory):
        raise ConfigError(
            f"The student {model} is an adapter. Merge it into its base first (PEFT's merge_and_unload), or name the base."
        )
    if directory.is_dir() and not has_tokenizer(directory):
        raise ConfigError(
            f"The student {model} has no tokenizer beside its weights. Save one there: tokenizer.save_pretrained({model!r})."
        )
    try:
        check_model_directory(model)
    except MagdiError as problem:
        raise ConfigError(f"The student: {problem}") from None


def _check_workers(config: RunConfig) -> None:
    if joins_cluster():
        return  # a cluster is looked at when it has been joined: `check_placement`
    cpus, gpus = machine()
    scaling = config.distil.scaling
    workers = scaling.workers[0]
    wanted = workers * scaling.num_cpus
    if wanted > cpus:
        raise ConfigError(
            f"distil.scaling wants {workers} workers x {scaling.num_cpus:g} CPUs = {wanted:g} CPUs, "
            f"but there are {cpus}. Lower num_workers or num_cpus, or point RAY_ADDRESS to a larger cluster."
        )
    if scaling.use_gpu and workers > gpus:
        raise ConfigError(
            f"distil.scaling wants {workers} workers with a GPU each, but there are {gpus} GPUs. "
            "Lower num_workers, or set use_gpu: false."
        )
    # the operator that asks takes half a CPU
    _check_pool("evaluate wants", [(config.evaluate.num_cpus + 0.5, config.evaluate.num_gpus)], cpus, gpus)
    for agent in (agent for agent in config.evaluate.agents if not isinstance(agent.engine, ApiEngine)):
        _check_pool(
            f"evaluate.agents' {agent.name} wants", [(agent.replicas[1] * agent.num_cpus + 0.5, agent.num_gpus)], cpus, gpus
        )


def _check_teachers_fit(config: RunConfig) -> None:
    agents = [a for a in config.debate.agents if not isinstance(a.engine, ApiEngine)] if config.debate else []
    if agents and not joins_cluster():
        smallest = [(a.replicas[0] * a.num_cpus, a.replicas[0] * a.num_gpus) for a in agents]
        _check_pool("The agents' smallest pools want", smallest, *machine())
        # Grown to their most, they would keep the questions they wait for from being read.
        _check_pool("The agents' largest pools want", [(a.replicas[1] * a.num_cpus, 0.0) for a in agents], *machine())


def _check_pool(who: str, wanted: Sequence[tuple[float, float]], cpus: int, gpus: int) -> None:
    cpus_wanted, gpus_wanted = sum(c for c, _ in wanted), sum(g for _, g in wanted)
    if cpus_wanted > cpus + COORDINATION - 1 or gpus_wanted > gpus:
        raise ConfigError(
            f"{who} {cpus_wanted:g} CPUs and {gpus_wanted:g} GPUs at once, but there are {cpus} and {gpus}. "
            "Lower their num_cpus, num_gpus or replicas."
        )

"""What can be refused about distillation before any worker starts, in settings and in what they point to. Part of `preflight`.

Starts nothing, loads no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from magdi_ray.config import RunConfig, recipes
from magdi_ray.config.distil import LoraTuning, QloraTuning, ScalingConfig, ScratchModel
from magdi_ray.config.recipes import Contrast, Interaction, RecipeConfig, Verify
from magdi_ray.config.sections import DebateConfig
from magdi_ray.distill.watch.trackers import check_trackers
from magdi_ray.errors import ConfigError
from magdi_ray.graph.store import iter_mags
from magdi_ray.stages import all_questions, read_source


def recipe_checks(config: RunConfig) -> Iterator[Callable[[], object]]:
    """What a recipe asks of the debates it learns from."""
    for recipe in recipes(config.distil):
        yield partial(_check_recipe, config, recipe)


def learning_checks(config: RunConfig, *, keys: bool) -> Iterator[Callable[[], object]]:
    """What the student, its measurements, its checkpoints and its trackers need."""
    yield lambda: _check_tuning(config)
    yield lambda: _check_readings(config)
    yield lambda: _check_dev(config)
    yield lambda: _check_storage(config)
    yield lambda: _check_elastic(config.distil.scaling, config)
    yield lambda: check_trackers(config.distil.track, keys=keys)


def _check_recipe(config: RunConfig, recipe: RecipeConfig) -> None:
    if recipe.nodes.texts == "gold_solutions":
        return
    if config.debate is not None:
        _check_debate(config.debate, recipe)
    elif isinstance(recipe.nodes.agents, tuple) or recipe.labels.source == "judge":
        _check_source(config, recipe)


def _check_debate(debate: DebateConfig, recipe: RecipeConfig) -> None:
    roles, wanted = speakers(debate), recipe.nodes.agents
    _check_agents(recipe, set(roles))
    chosen = wanted if isinstance(wanted, tuple) else tuple(roles)
    if not any(roles[name] in recipe.nodes.roles for name in chosen):
        told = ", ".join(f"{name} is a {roles[name]}" for name in chosen)
        raise ConfigError(
            f"Recipe {recipe.name!r} would learn nothing: nodes.roles is {list(recipe.nodes.roles)}, but {told}. "
            "Choose other roles, agents or protocol."
        )
    only_students = all(roles[name] == "student" for name in chosen if roles[name] in recipe.nodes.roles)
    last = 0 if only_students else getattr(debate.protocol, "rounds", 0)
    if recipe.nodes.rounds != "all" and not any(0 <= number <= last for number in recipe.nodes.rounds):
        raise ConfigError(
            f"Recipe {recipe.name!r} would learn nothing: nodes.rounds is {list(recipe.nodes.rounds)}, but the debates have the "
            f"rounds 0 to {last} at most."
        )
    if recipe.labels.source == "judge" and "judge" not in roles.values():
        raise ConfigError(
            f"Recipe {recipe.name!r} takes its labels from a judge, but the debates have none. Give them one "
            "(debate.protocol.decision: {rule: judge, agent: NAME}), or choose another labels.source."
        )


def _check_source(config: RunConfig, recipe: RecipeConfig) -> None:
    source = config.graph.source
    assert source is not None
    agents, judged = set[str](), False
    for debate in iter_mags(source.path) if source.format == "mag" else read_source(config).debates:
        agents |= set(debate.agents)
        speakers_ = debate.nodes if source.format == "mag" else debate.turns  # type: ignore[union-attr]
        judged = judged or any(one.role == "judge" for one in speakers_)
    _check_agents(recipe, agents)
    if recipe.labels.source == "judge" and not judged:
        raise ConfigError(
            f"Recipe {recipe.name!r} takes its labels from a judge, but no debate of {source.path} has one. "
            "Choose another labels.source."
        )


def _check_agents(recipe: RecipeConfig, known: set[str]) -> None:
    unknown = sorted(set(recipe.nodes.agents) - known) if isinstance(recipe.nodes.agents, tuple) else []
    if unknown:
        raise ConfigError(
            f"Recipe {recipe.name!r} learns from {unknown}, but the agents of the debate are {sorted(known)}. "
            "Name some of these in nodes.agents."
        )


def speakers(debate: DebateConfig) -> dict[str, str]:
    """What every agent of a debate is asked to do."""
    names = [agent.name for agent in debate.agents]
    decision = getattr(debate.protocol, "decision", None)
    judge = decision.agent if decision else None
    critics = names[1:] if debate.protocol.name == "critique" else []
    students = getattr(debate.protocol, "students", ())
    special = dict.fromkeys(critics, "critic") | dict.fromkeys(students, "student") | ({judge: "judge"} if judge else {})
    return {name: special.get(name, "debater") for name in names}


def _check_tuning(config: RunConfig) -> None:
    student = config.distil.student
    if isinstance(student.tuning, QloraTuning):
        from magdi_ray.distill.student import check_tuning

        check_tuning(student, config.distil.deepspeed)
    if isinstance(student.tuning, LoraTuning | QloraTuning) and not isinstance(student.model, ScratchModel):
        from magdi_ray.distill.forecast.shapes import adapted, find_shape

        try:
            shape = find_shape(student.model)
        except ConfigError:
            return  # nothing is known of it here; the worker that loads it will say
        adapted(shape, student.tuning.target_modules)


def _check_readings(config: RunConfig) -> None:
    objectives = [objective for recipe in recipes(config.distil) for objective in recipe.objectives]
    readings = [objective.reading for objective in objectives if isinstance(objective, Contrast | Interaction | Verify)]
    if not any(reading.layer for reading in readings):
        return
    from magdi_ray.distill.forecast.shapes import find_shape
    from magdi_ray.distill.student import check_layers

    try:
        layers = find_shape(config.distil.student.model).layers
    except ConfigError:
        return  # as above
    check_layers(layers, readings)


def _check_dev(config: RunConfig) -> None:
    dev = config.distil.dev
    if dev is None:
        return
    splits = [question.split for question in all_questions(config)]
    if not dev.graphs and "dev" not in splits:
        raise ConfigError(
            "distil.dev measures on the graphs of dev questions, but there is none. Let distil.dev.graphs hold some training "
            "graphs out, give the task dev questions (tiny: task.dev), or leave distil.dev out."
        )
    if dev.graphs >= (training := splits.count("train")):
        raise ConfigError(
            f"distil.dev.graphs holds out {dev.graphs} graphs, but there are only {training} training questions, and at least "
            "one has to be left to learn from. Ask for fewer."
        )


def _check_storage(config: RunConfig) -> None:
    if config.distil.checkpoints.storage is not None:
        from magdi_ray.storage import open_storage

        try:
            open_storage(config.distil.checkpoints.storage)
        except ConfigError as problem:
            raise ConfigError(f"distil.checkpoints.storage: {problem}") from None


def _check_elastic(scaling: ScalingConfig, config: RunConfig) -> None:
    kept = config.distil.checkpoints
    if scaling.workers[0] < scaling.workers[1] and kept.every_steps is None and kept.every_minutes is None:
        raise ConfigError(
            f"distil.scaling.num_workers {list(scaling.workers)} starts the workers again whenever their number changes, and "
            "without checkpoints from the first step. Set distil.checkpoints.every_minutes or every_steps."
        )

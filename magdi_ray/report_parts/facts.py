"""What a run was, in pairs of short texts: who debated, what was learned with which recipe, and when it was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magdi_ray.config import RecipeConfig, recipes
from magdi_ray.exporting import public_name
from magdi_ray.report_parts.finished import Finished


def facts(finished: Finished) -> Iterator[tuple[str, str]]:
    """What a run was, as (name, value), in the order in which it is read."""
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
        yield f"recipe {recipe.name}" + (" (the product)" if recipe.name == finished.product else ""), recipe_in_words(recipe)
    yield "trainings of each recipe", str(distil.seeds)
    length = f"{distil.train.max_steps} steps" if distil.train.epochs is None else f"{distil.train.epochs} epochs"
    tokens = f"{distil.train.tokens_per_step} supervised tokens a step"
    yield "training", f"{length}, {tokens}, learning rate {distil.train.learning_rate:g}"
    if (drawn := config.evaluate.self_consistency) is not None:
        yield "self-consistency", f"{drawn.samples} replies at temperature {drawn.temperature:g}"
    yield "seed", str(config.seed)
    yield "evaluated", finished.run.require("evaluation").finished
    yield "run", f"{config.name} {finished.run.identity}".strip()


def recipe_in_words(recipe: RecipeConfig) -> str:
    """Its terms with their weights, and where it does not learn from every reply of every debater.

    "1 x next_token; agents: best; round 0 only"
    """
    terms = [
        f"{term.weight:g} x {term.name}" + (f" ({kind})" if (kind := getattr(term, "embeddings", "")) else "")
        for term in recipe.objectives
    ]
    chosen = recipe.nodes.model_dump(exclude_defaults=True) | recipe.labels.model_dump(exclude_defaults=True)
    return "; ".join([" + ".join(terms), *(_chosen(name, value) for name, value in chosen.items())])


def _chosen(name: str, value: Any) -> str:
    """One choice of a recipe: "round 0 only", "rounds 0, 1 only", "agents: ada, ben"."""
    if name == "rounds":
        return f"round{'s' * (len(value) != 1)} {', '.join(map(str, value))} only"
    listed = ", ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{name.replace('_', ' ')}: {listed}"


def _model(engine: Any) -> str:
    model = getattr(engine, "model", None)
    return public_name(model) if model else "recorded"

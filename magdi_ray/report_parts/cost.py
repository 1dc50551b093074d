"""What the finished stages of a run took: tokens, money, and seconds on the clock.

`seconds` are those of the clock, from a stage's start to its end. A training also says its worker seconds: those of its steps
and measurements, counted once for each of its workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from magdi_ray.config import RunConfig, recipes
from magdi_ray.evaluate.answers import Answer
from magdi_ray.report_parts.finished import FROM_DEBATES, Finished
from magdi_ray.stages import student_stage
from magdi_ray.tasks.base import SPLITS

REPLIES = ("single", "sample", "revised")
"""Methods that a reply was asked for; others are votes over those."""


def cost(finished: Finished, answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    """What each finished stage took; None is unknown. A training's tokens in are those it forwarded."""
    config, run = finished.config, finished.run
    by_name = {recipe.name: recipe for recipe in recipes(config.distil)}
    stages = [(stage, stage) for stage in ("questions", "debates", "graphs", "base")]
    stages += [
        (f"{name}, seed {seed}", student_stage(config, recipe, seed))
        for name, recipe in by_name.items()
        for seed in range(config.distil.seeds)
    ]
    for title, stage in stages:
        if (manifest := run.read_manifest(stage)) is not None:
            yield {"stage": title, **_spent(config, stage, manifest.facts), "seconds": manifest.seconds}
    asked = _replies(answer for answer in answers if finished.kinds.get(answer.system) not in FROM_DEBATES)
    paid = [answer.usd for answer in asked if finished.kinds.get(answer.system) == "engine"]
    yield {
        "stage": "evaluation",
        "what": f"{len(asked)} replies of {len({answer.system for answer in asked})} systems",
        "tokens_in": sum(answer.tokens_in for answer in asked) or None,
        "tokens_out": sum(answer.tokens_out for answer in asked) or None,
        "usd": None if not paid or None in paid else sum(filter(None, paid)),
        "seconds": run.require("evaluation").seconds,
    }


def _replies(answers: Iterable[Answer]) -> list[Answer]:
    """Every reply with its own tokens and cost: those of a revision, which are of both replies, without the first one's."""
    found = [answer for answer in answers if answer.method in REPLIES]
    first = {(one.task, one.system, one.seed, one.question_id): one for one in found if one.method == "single"}

    def own(answer: Answer) -> Answer:
        before = first.get((answer.task, answer.system, answer.seed, answer.question_id))
        if answer.method != "revised" or before is None:
            return answer
        usd = None if answer.usd is None or before.usd is None else answer.usd - before.usd
        tokens_in, tokens_out = answer.tokens_in - before.tokens_in, answer.tokens_out - before.tokens_out
        return replace(answer, tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)

    return [own(answer) for answer in found]


def _spent(config: RunConfig, stage: str, facts: Mapping[str, Any]) -> dict[str, Any]:
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
        worked = f"{facts.get('worker_seconds', 0.0):.0f} worker seconds (added up over all workers)"
        what = f"{facts['steps']} steps on {facts.get('graphs', 0)} graphs, {worked}"
    return {"what": what, "tokens_in": tokens_in, "tokens_out": tokens_out, "usd": usd}

"""The labels a recipe gives: which node counts as correct, and which debates cannot be labelled its way. Pure.

A graph keeps on disk the labels it was built with; a recipe may measure the same replies against another answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from magdi_ray.config.recipes import LabelConfig
from magdi_ray.graph.schema import Mag, reference
from magdi_ray.tasks.base import Task

MISSING = {
    "graph": "unlabelled",
    "gold": "no gold answer to label by",
    "vote": "no answer of the team to label by",
    "judge": "neither a judge's answer nor a consensus to label by",
}
"""Why a graph cannot be labelled, by `LabelConfig.source`."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A graph, or a node, that is not learned from."""

    reason: str
    """In the words it is counted under."""


def relabel(mag: Mag, config: LabelConfig, task: Task) -> Mag | LeftOut:
    """A graph under a recipe's labels, or why it is left out: it lacks the answer to label by, or its agents agreed too little.

    A node is correct when its answer is the same as that answer under the task's rule; one without an answer never is.
    """
    right = None if config.source == "graph" else reference(config.source, mag)
    if mag.labels == "none" if config.source == "graph" else right is None:
        return LeftOut(MISSING[config.source])
    if too_little := disagreed(mag, config):
        return too_little
    if config.source == "graph":
        return mag
    nodes = tuple(replace(node, correct=task.same(node.answer, right)) for node in mag.nodes)
    return replace(mag, labels=config.source, nodes=nodes)


def disagreed(mag: Mag, config: LabelConfig) -> LeftOut | None:
    """Why a graph whose agents agreed less than a recipe asks for is left out; None where they agreed enough."""
    if mag.agreement >= config.min_agreement:
        return None
    return LeftOut(f"agreement below {config.min_agreement:g}")

"""The labels a recipe gives: which node counts as correct, and which debates cannot be labelled its way. Pure.

A graph keeps on disk the labels it was built with; a recipe may measure the same replies against another answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from magdi_ray.config.recipes import LabelConfig
from magdi_ray.graph.schema import Mag, labelled_by, reference
from magdi_ray.tasks.base import Task

MISSING = {
    "graph": "unlabelled",
    "gold": "no gold answer to label by",
    "vote": "no answer of the team to label by",
    "gold_or_vote": "neither a gold answer nor one of the team to label by",
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

    A node is correct when its answer is the same as that answer under the task's rule; one without an answer never is. A graph
    whose labels are not to come from its gold answer comes back without it: nothing that reads it can learn from it unawares.
    """
    if config.source == "graph":
        if mag.labels == "none":
            return LeftOut(MISSING[config.source])
        return disagreed(mag, config) or _sealed(mag)
    source = labelled_by(config.source, mag)
    right = reference(source, mag)
    if right is None:
        return LeftOut(MISSING[config.source])
    if too_little := disagreed(mag, config):
        return too_little
    nodes = tuple(replace(node, correct=task.same(node.answer, right)) for node in mag.nodes)
    return _sealed(replace(mag, labels=source, nodes=nodes))


def mistaught(mag: Mag, places: Sequence[int]) -> Mag:
    """A labelled graph whose labels are dealt out anew among some of its nodes; the same way every time."""
    labels = [mag.nodes[place].correct for place in places]
    random.Random(f"shuffled_targets {mag.question.id}").shuffle(labels)
    dealt_out = dict(zip(places, labels, strict=True))
    return replace(mag, nodes=tuple(replace(node, correct=dealt_out.get(i, node.correct)) for i, node in enumerate(mag.nodes)))


def _sealed(mag: Mag) -> Mag:
    """Without what only its gold answer tells, where its labels do not come from it."""
    return mag if mag.labels == "gold" else replace(mag, question=replace(mag.question, gold=None, solution=None))


def weight_of(mag: Mag, config: LabelConfig) -> float:
    """How much a labelled graph counts for in every objective's mean, in [0, 1]."""
    if config.weight == "equal" or (config.source == "gold_or_vote" and mag.labels == "gold"):
        return 1.0
    return mag.agreement


def disagreed(mag: Mag, config: LabelConfig) -> LeftOut | None:
    """Why a graph whose agents agreed less than a recipe asks for is left out; None where they agreed enough."""
    if mag.agreement >= config.min_agreement:
        return None
    return LeftOut(f"agreement below {config.min_agreement:g}")

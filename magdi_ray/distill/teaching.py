"""What of a reply is taught token by token, and how much it counts for. Pure.

By default a correct reply is taught whole and an incorrect one not at all. Two settings of `next_token` change that:

    after_divergence    an incorrect reply's tokens behind the first one in which it differs from every correct reply of its
                        graph: the token itself is where it goes wrong, what follows may be sound again
    persuasion          w_v = 1 + persuasion * sum_u 1 / |C_u|, over the correct replies u of agents whose own earlier reply was
                        incorrect and that were shown v; C_u are the correct replies that u was shown
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from magdi_ray.graph.schema import Mag


class Lesson(NamedTuple):
    """What of one reply is taught."""

    weight: float
    """Of each taught token in the mean; 0: nothing is taught."""
    start: int = 0
    """Place of the first token that is taught, in the reply."""


WHOLE, NOTHING = Lesson(1.0), Lesson(0.0)


def plain(correct: bool) -> Lesson:
    """Of a reply that is correct or not, with default settings."""
    return WHOLE if correct else NOTHING


def diverging(replies: Sequence[tuple[int, ...]], correct: Sequence[bool], weight: float) -> list[Lesson]:
    """Of each reply of one graph, as token ids, with `after_divergence` = `weight`.

    Without a correct reply nobody knows where an incorrect one goes wrong: nothing of it is taught.
    """
    right = [ids for ids, good in zip(replies, correct, strict=True) if good]
    return [plain(good) if good or not right else _behind(ids, right, weight) for ids, good in zip(replies, correct, strict=True)]


def _behind(ids: tuple[int, ...], right: Sequence[tuple[int, ...]], weight: float) -> Lesson:
    start = 1 + max(_common(ids, other) for other in right)
    return Lesson(weight, start) if start < len(ids) else NOTHING


def _common(ids: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = zip(ids, other, strict=False)
    return next((place for place, (one, two) in enumerate(pairs) if one != two), min(len(ids), len(other)))


def persuasive(mag: Mag, persuasion: float) -> list[float]:
    """The weight of each node of a labelled graph, `w_v` above; of incorrect nodes it means nothing."""
    weights = [1.0] * len(mag.nodes)
    for place, node in enumerate(mag.nodes):
        if not node.correct:
            continue
        into = [edge for edge in mag.edges if edge.target == place]
        before = [edge.source for edge in into if edge.type == "self"]
        turners = [edge.source for edge in into if edge.type != "self" and mag.nodes[edge.source].correct]
        if before and not mag.nodes[max(before)].correct:
            for turner in turners:
                weights[turner] += persuasion / len(turners)
    return weights


def earlier(mag: Mag, place: int) -> int | None:
    """The last reply of a node's own agent that it was shown; None where it was shown none."""
    return max((edge.source for edge in mag.edges if edge.target == place and edge.type == "self"), default=None)

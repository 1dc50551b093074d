"""What the debates came to, round by round, and who changed whose answer. Pure; graphs are read once and none is kept.

Right and wrong are measured against gold answers only, never against the labels of a vote or a judge: where a question has no
gold answer, nothing is said of who was right. Judges, critics and students are no debaters: they have no
part in a round's figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from magdi_ray.debate.vote import Ballot, majority, tally
from magdi_ray.graph.schema import Mag, Node
from magdi_ray.tasks.base import Task

Rule = Literal["confidence", "majority"]
"""How a round's replies become one answer: the vote weighted by confidence, or the most ballots."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a debate stands after one of its rounds."""

    replies: tuple[Node, ...]
    """The last replies of every debater up to there; several of one agent where it was sampled several times."""
    answer: str | None
    """The vote over them; after the last round of debaters, the team's answer, a judge's where there was one."""
    agreement: float
    """Share of the replies that give the commonest answer."""
    consensus: bool
    """All replies give one answer."""


@dataclass(frozen=True, slots=True)
class Round:
    """All debates of a split after one round; those that had stopped before it stand as they ended."""

    split: str
    round: int
    debates: int
    agreement: float | None
    """Mean share of replies that give the commonest answer, over debates of at least two replies; None: there is none."""
    consensus: float | None
    """Share of the same debates in which all replies agree."""
    vote_accuracy: float | None
    """None here and below: no question has a gold answer."""
    reply_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Influence:
    """What one agent's answers did to another's."""

    source: str
    target: str
    shown: int
    """Times `target` was shown an answer of `source` that differs from its own previous one."""
    adopted: int
    """Times its next answer was that one."""
    to_right: int | None
    """Of those, from wrong to right; None where no such question has a gold answer."""
    to_wrong: int | None
    """Of those, from right to wrong."""


def right(task: Task, mag: Mag, answer: str | None) -> bool | None:
    """Whether an answer given in a debate is right; None where nobody knows the right one.

    Replies that carry labels taken from the gold answer are not judged a second time.
    """
    if mag.question.gold is None:
        return None
    if mag.labels == "gold":
        for node in mag.nodes:
            if node.answer == answer:
                return node.correct
    return task.same(answer, mag.question.gold)


def standings(task: Task, mag: Mag, rule: Rule) -> list[Standing]:
    """How a debate stood after each round, from round 0 to the last in which a debater spoke."""
    debaters = [node for node in mag.nodes if node.role == "debater"]
    last = max((node.round for node in debaters), default=-1)
    found = []
    for round_ in range(last + 1):
        spoke = {node.agent: node.round for node in debaters if node.round <= round_}
        replies = tuple(node for node in debaters if node.round == spoke.get(node.agent))
        ballots = [Ballot(node.answer, node.confidence) for node in replies]
        commonest = majority(task, ballots)
        voted = commonest if rule == "majority" else tally(task, ballots)
        answer = mag.answer if round_ == last else voted.answer
        found.append(Standing(replies, answer, commonest.agreement, commonest.consensus))
    return found


class Dialogue:
    """Counts debates as they come: `add` each, then ask for `rounds` and `influence`."""

    def __init__(self, task: Task, rule: Rule) -> None:
        self._task, self._rule = task, rule
        self._at: dict[str, dict[int, _Sums]] = {}
        self._ended: dict[str, dict[int, _Sums]] = {}
        self._pairs: dict[tuple[str, str], Counter[str]] = {}

    def add(self, mag: Mag) -> list[Standing]:
        """Count one debate; returns how it stood after each of its rounds."""
        found = standings(self._task, mag, self._rule)
        at, ended = self._at.setdefault(mag.question.split, {}), self._ended.setdefault(mag.question.split, {})
        for round_, standing in enumerate(found):
            at.setdefault(round_, _Sums()).add(self._task, mag, standing)
        if found:
            ended.setdefault(len(found) - 1, _Sums()).add(self._task, mag, found[-1])
        self._influence(mag)
        return found

    def rounds(self) -> Iterator[Round]:
        """The rounds of every split, in order of first appearance."""
        for split, at in self._at.items():
            stopped = _Sums()
            for round_ in sorted(at):
                yield (at[round_] + stopped).figures(split, round_)
                stopped += self._ended[split].get(round_, _Sums())

    def influence(self) -> list[Influence]:
        """Every pair in which the target was ever shown another answer, by name."""
        return [
            Influence(
                *pair,
                shown=counts["shown"],
                adopted=counts["adopted"],
                to_right=counts["to right"] if counts["judged"] else None,
                to_wrong=counts["to wrong"] if counts["judged"] else None,
            )
            for pair, counts in sorted(self._pairs.items())
        ]

    def _influence(self, mag: Mag) -> None:
        """Count who was shown a different answer, and took it.

        Several sources that gave the answer which was taken are credited with it in full, each: `adopted` of `shown` is then how
        often an answer of that source was taken, and sums over sources say nothing.
        """
        for (source, target), own in _shown(mag).items():
            answer, before, after = mag.nodes[source].answer, mag.nodes[own], mag.nodes[target]
            if answer is None or self._task.same(answer, before.answer):
                continue
            counts = self._pairs.setdefault((mag.nodes[source].agent, after.agent), Counter())
            counts["shown"] += 1
            counts["judged"] += mag.question.gold is not None
            if self._task.same(after.answer, answer):
                was, became = right(self._task, mag, before.answer), right(self._task, mag, after.answer)
                counts["adopted"] += 1
                counts["to right"] += was is False and became is True
                counts["to wrong"] += was is True and became is False


def _shown(mag: Mag) -> dict[tuple[int, int], int]:
    """(newest reply of another agent, reply of a debater that was shown it) -> the debater's own reply before."""
    newest: dict[tuple[str, int], int] = {}
    for edge in mag.edges:
        if edge.type != "self" and mag.nodes[edge.target].role == "debater":
            key = (mag.nodes[edge.source].agent, edge.target)
            newest[key] = max(edge.source, newest.get(key, -1))
    found = {}
    for (_, target), source in newest.items():
        node = mag.nodes[target]
        earlier = [i for i, other in enumerate(mag.nodes[:target]) if other.agent == node.agent and other.round < node.round]
        if earlier:
            found[source, target] = earlier[-1]
    return found


@dataclass(slots=True)
class _Sums:
    """Counts over debates after one round."""

    debates: int = 0
    several: int = 0
    """Debates of at least two replies: one alone has nobody to agree with."""
    agreement: float = 0.0
    consensus: int = 0
    judged: int = 0
    votes_right: int = 0
    judged_replies: int = 0
    replies_right: int = 0

    def add(self, task: Task, mag: Mag, standing: Standing) -> None:
        self.debates += 1
        if len(standing.replies) > 1:
            self.several += 1
            self.agreement += standing.agreement
            self.consensus += standing.consensus
        if mag.question.gold is not None:
            self.judged += 1
            self.votes_right += bool(right(task, mag, standing.answer))
            self.judged_replies += len(standing.replies)
            self.replies_right += sum(bool(right(task, mag, node.answer)) for node in standing.replies)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def figures(self, split: str, round_: int) -> Round:
        return Round(
            split,
            round_,
            self.debates,
            agreement=_share(self.agreement, self.several),
            consensus=_share(self.consensus, self.several),
            vote_accuracy=_share(self.votes_right, self.judged),
            reply_accuracy=_share(self.replies_right, self.judged_replies),
        )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None

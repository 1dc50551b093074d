"""What protocols share in which all debaters answer, round after round, until they agree or the rounds are over.

A member says only what each agent is asked (`_ask`); who is asked, when it ends and who decides is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import Decision
from magdi_ray.debate.decide import debaters, judge_ask, longest, settle
from magdi_ray.debate.reading import read_round
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Question, Task


class Discussion(ABC):
    """A protocol in rounds; its members are frozen dataclasses with these fields."""

    __slots__ = ()

    task: Task
    rounds: int
    """Discussion rounds after the initial one, at most."""
    decision: Decision
    students: tuple[str, ...]
    """Agents that answer in the initial round only, and of which the others are shown what they said."""
    name: str

    def start(self, question: Question, agents: Sequence[str]) -> Debate:
        """A debate in which nobody has spoken yet."""
        return Debate(question=question, agents=tuple(agents), protocol=self.name)

    def most_calls(self, agents: int) -> int:
        """Every debater in every round, a student in the initial one, and the judge once."""
        return longest(agents - len(self.students), self.rounds + 1, self.decision) + len(self.students)

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        """What to ask everyone in the coming round, or the judge after the last; empty when the debate has ended."""
        if debate.stopped != "running":
            return ()
        if debate.rounds > self.rounds:
            return (judge_ask(self.task, self.decision, debate, self._judge_template()),)
        silent = self.students if debate.rounds else ()
        asks = [self._ask(debate, agent) for agent in debaters(debate.agents, self.decision) if agent not in silent]
        return tuple(replace(ask, role="student") if ask.agent in self.students else ask for ask in asks)

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        """The debate after one more round."""
        return settle(self.task, self.decision, read_round(self.task, debate, asks, replies), rounds=self.rounds + 1)

    @abstractmethod
    def _ask(self, debate: Debate, agent: str) -> Ask:
        """What one agent is asked in the coming round."""

    @abstractmethod
    def _judge_template(self) -> str:
        """The judge's template."""

"""Single: one agent, one reply. The single-teacher baseline; its graph is one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import MAJORITY
from magdi_ray.debate.decide import settle
from magdi_ray.debate.reading import read_round
from magdi_ray.debate.templates import Templates, user_message
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Question, Task

INITIAL = """\
{{ prompt }}

Reason step by step before you answer."""


class Prompts(Templates):
    """The one message this protocol sends."""

    initial: str = INITIAL


@dataclass(frozen=True, slots=True)
class Single:
    """The protocol, for one task."""

    task: Task
    prompts: Prompts = field(default_factory=Prompts)
    name: str = "single"

    def start(self, question: Question, agents: Sequence[str]) -> Debate:
        """A debate in which nobody has spoken yet; the first agent will."""
        return Debate(question=question, agents=tuple(agents), protocol=self.name)

    def most_calls(self, agents: int) -> int:
        """One."""
        del agents  # part of the contract
        return 1

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        """The question, once; empty when it was answered."""
        if debate.stopped != "running":
            return ()
        return (Ask(debate.agents[0], 0, (user_message(self.prompts.initial, self.task, debate),)),)

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        """The debate after the reply: its answer, where one can be read, is the team's, and nobody disagrees."""
        return settle(self.task, MAJORITY, read_round(self.task, debate, asks, replies), rounds=1)

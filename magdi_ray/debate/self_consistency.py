"""Self-consistency: one agent, several independent replies, and the vote over them (Wang et al. 2022, arXiv 2203.11171).

All samples are turns of one agent in one round; none is shown another, so that the graph has nodes and no edges. Where other
protocols count agents (agreement, consensus), this one counts samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import MAJORITY, Decision
from magdi_ray.debate.decide import settle
from magdi_ray.debate.reading import read_round
from magdi_ray.debate.templates import Templates, user_message
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Question, Task

INITIAL = """\
{{ prompt }}

Reason step by step before you answer."""


class Prompts(Templates):
    """The one message this protocol sends, as many times as there are samples."""

    initial: str = INITIAL


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """The protocol, for one task."""

    task: Task
    samples: int = 5
    prompts: Prompts = field(default_factory=Prompts)
    decision: Decision = MAJORITY
    name: str = "self_consistency"

    def start(self, question: Question, agents: Sequence[str]) -> Debate:
        """A debate in which nobody has spoken yet; the first agent will."""
        return Debate(question=question, agents=tuple(agents), protocol=self.name)

    def most_calls(self, agents: int) -> int:
        """One a sample."""
        del agents  # part of the contract
        return self.samples

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        """The question, once a sample; empty when they were answered."""
        if debate.stopped != "running":
            return ()
        message = user_message(self.prompts.initial, self.task, debate)
        return tuple(Ask(debate.agents[0], 0, (message,), sample=sample) for sample in range(self.samples))

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        """The debate after the replies: the vote."""
        return settle(self.task, self.decision, read_round(self.task, debate, asks, replies), rounds=1)

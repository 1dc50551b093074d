"""Critique: the first agent answers, the others criticise its reply, the first revises it.

Round 0 is the answer, round 1 the criticism, round 2 the revision, round 3 the criticism of the revision, and so on. A critic
ends with its own answer, so that its reply is right or wrong like any other. The debate ends at consensus, which is when every
critic gives the answer it was shown, or after the last revision.

The team's answer is the last one of the first agent that can be read: where a revision cannot be read, the answer before it was
not taken back. Only where none of its replies can be read has the team no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from magdi_ray.agents.base import Reply
from magdi_ray.debate.decide import agreement
from magdi_ray.debate.reading import read_round
from magdi_ray.debate.templates import Templates, View, user_message, views
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Question, Task

INITIAL = """\
{{ prompt }}

Reason step by step before you answer."""

CRITIQUE = """\
{{ prompt }}

{% if view is none -%}
Another agent was asked this and gave no reply. Reason step by step and answer the question yourself.
{%- else -%}
This is another agent's reply: ```{{ view.text }}```

Check each of its steps. Say which step is wrong and why, or that every step is right. Then answer the question yourself.
{%- endif %}"""

REVISION = """\
{{ prompt }}

{% if own is not none -%}
This was your reply: ```{{ own.text }}```

{% endif -%}
{% for view in critiques -%}
One agent's criticism: ```{{ view.text }}```

{% else -%}
Nobody criticised it.

{% endfor -%}
Check each point of criticism: accept what is right and reject what is wrong. Then reason step by step and answer the question \
again."""


class Prompts(Templates):
    """The messages this protocol sends.

    `critique` sees `view`, the reply that is criticised; `revision` sees `own`, the agent's reply, and `critiques`, what was
    said against it: all of them `magdi_ray.debate.templates.View`. `view` and `own` are None where the agent said nothing at all.
    """

    initial: str = INITIAL
    critique: str = CRITIQUE
    revision: str = REVISION


@dataclass(frozen=True, slots=True)
class Critique:
    """The protocol, for one task. `rounds` counts the times the answer is criticised and revised."""

    task: Task
    rounds: int = 1
    prompts: Prompts = field(default_factory=Prompts)
    name: str = "critique"

    def start(self, question: Question, agents: Sequence[str]) -> Debate:
        """A debate in which nobody has spoken yet."""
        return Debate(question=question, agents=tuple(agents), protocol=self.name)

    def most_calls(self, agents: int) -> int:
        """The answer, and every agent once each time it is criticised and revised."""
        return 1 + self.rounds * agents

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        """What to ask the first agent or its critics, in turns; empty when the debate has ended."""
        if debate.stopped != "running":
            return ()
        author, *critics = debate.agents
        if debate.rounds == 0:
            return (Ask(author, 0, (user_message(self.prompts.initial, self.task, debate),)),)
        if debate.rounds % 2:
            return tuple(self._criticise(debate, critic) for critic in critics)
        return (self._revise(debate, author),)

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        """The debate after one more round."""
        debate = read_round(self.task, debate, asks, replies)
        if self._accepted(debate):
            return self._ended(replace(debate, stopped="consensus"))
        return self._ended(replace(debate, stopped="rounds")) if debate.rounds > 2 * self.rounds else debate

    def _criticise(self, debate: Debate, critic: str) -> Ask:
        shown = self._said(debate, debate.rounds - 1)
        view = next(iter(self._views(debate, shown, critic)), None)
        message = user_message(self.prompts.critique, self.task, debate, view=view)
        return Ask(critic, debate.rounds, (message,), shown, role="critic")

    def _revise(self, debate: Debate, author: str) -> Ask:
        answer, critiques = self._said(debate, debate.rounds - 2), self._said(debate, debate.rounds - 1)
        message = user_message(
            self.prompts.revision,
            self.task,
            debate,
            own=next(iter(self._views(debate, answer, author)), None),
            critiques=self._views(debate, critiques, author),
        )
        return Ask(author, debate.rounds, (message,), answer + critiques)

    def _accepted(self, debate: Debate) -> bool:
        """Whether the last round was criticism, and every critic gave the answer it was shown."""
        if debate.rounds % 2:
            return False
        [criticised] = [debate.turns[i].answer for i in debate.positions(debate.rounds - 2)]
        return all(self.task.same(debate.turns[i].answer, criticised) for i in debate.positions(debate.rounds - 1))

    def _ended(self, debate: Debate) -> Debate:
        given = [turn.answer for turn in debate.turns if turn.agent == debate.agents[0] and turn.answer is not None]
        answer = given[-1] if given else None
        return replace(debate, answer=answer, agreement=agreement(self.task, debate, debate.agents, answer))

    def _views(self, debate: Debate, positions: Sequence[int], reader: str) -> tuple[View, ...]:
        return views(self.task, debate, positions, table=debate.agents, reader=reader)

    @staticmethod
    def _said(debate: Debate, round_: int) -> tuple[int, ...]:
        """Positions of the replies of a round that say anything: only those can be shown."""
        return tuple(i for i in debate.positions(round_) if debate.turns[i].text.strip())

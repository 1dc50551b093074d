"""Society of minds: each agent is shown the others' replies word for word (Du et al. 2023, arXiv 2305.14325).

Round 0: everyone answers alone. Round r > 0: every agent's own chat goes on, with one more user message that quotes what the
others said in round r-1, readable or not. It ends at consensus or after the last round (the released code plays all rounds).
An agent's older replies stand in its chat too, but what counts as shown is the previous round, as in the published debates.

The chat an agent is sent in round 1:

    user: <question>   assistant: <its reply of round 0>   user: <the others' replies of round 0, and the question again>

Who said nothing at all is not quoted, and where an agent itself said nothing, that exchange is left out of its chat: providers
refuse empty messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from magdi_ray.agents.base import Message
from magdi_ray.config.protocols import MAJORITY, Decision
from magdi_ray.debate.decide import JUDGE, debaters
from magdi_ray.debate.discussion import Discussion
from magdi_ray.debate.quoting import shortened
from magdi_ray.debate.templates import Templates, user_message, views
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Task

INITIAL = """\
{{ prompt }}

Reason step by step before you answer."""

DISCUSSION = """\
{% if views -%}
These are the replies of other agents to this question:
{%- for view in views %}

One agent's reply: ```{{ view.text }}```
{%- endfor %}

Take these replies as additional information and check your own against them.
{%- else -%}
No other agent gave a reply.
{%- endif %} Reason step by step and answer the question again.

{{ prompt }}"""


class Prompts(Templates):
    """The messages this protocol sends.

    `discussion` sees `views`: the others' replies of the previous round (`magdi_ray.debate.templates.View`), of which `text` is
    the whole reply. `judge` is sent with `decision.rule: judge` only; it sees the `views` whose answer can be read.
    """

    initial: str = INITIAL
    discussion: str = DISCUSSION
    judge: str = JUDGE


@dataclass(frozen=True, slots=True)
class Society(Discussion):
    """The protocol, for one task. `rounds` counts the discussion rounds after the initial one."""

    task: Task
    rounds: int = 1
    prompts: Prompts = field(default_factory=Prompts)
    decision: Decision = MAJORITY
    students: tuple[str, ...] = ()
    name: str = "society"

    def _judge_template(self) -> str:
        return self.prompts.judge

    def _ask(self, debate: Debate, agent: str) -> Ask:
        chat: list[Message] = []
        for round_ in range(debate.rounds):
            own = [turn.text for turn in debate.turns if (turn.agent, turn.round) == (agent, round_)]
            if own[0].strip():
                chat += [self._message(debate, agent, round_), Message("assistant", shortened(own[0]))]
        chat.append(self._message(debate, agent, debate.rounds))
        return Ask(agent, debate.rounds, tuple(chat), self._heard(debate, debate.rounds))

    def _message(self, debate: Debate, agent: str, round_: int) -> Message:
        """What an agent is told in one round; an earlier round's message comes out as it was."""
        if round_ == 0:
            return user_message(self.prompts.initial, self.task, debate, round_=0)
        others = [i for i in self._heard(debate, round_) if debate.turns[i].agent != agent]
        table = debaters(debate.agents, self.decision)
        quoted = views(self.task, debate, others, table=table, reader=agent)
        return user_message(self.prompts.discussion, self.task, debate, round_=round_, views=quoted)

    @staticmethod
    def _heard(debate: Debate, round_: int) -> tuple[int, ...]:
        """Positions of what was said in the round before."""
        return tuple(i for i in debate.positions(round_ - 1) if debate.turns[i].text.strip())

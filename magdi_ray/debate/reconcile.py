"""ReConcile: a round table of different models that discuss until they agree (arXiv 2309.13007, section 3).

Round 0: everyone answers alone. Round r > 0: everyone is shown the answers of round r-1, grouped by answer, each with its
reasoning and confidence, and answers again; where convincing samples are configured, also what once convinced each of the others.
It ends at consensus or after the last round; the confidence-weighted vote over the last round is the team's answer, unless
another decision is configured. Two deliberate differences from the released code: a reply without a readable answer stays
without one (there, a random answer is drawn), and an agent's own view is marked as its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from magdi_ray.config.protocols import CONFIDENCE, Decision
from magdi_ray.debate.convincing import Sample
from magdi_ray.debate.decide import JUDGE, debaters
from magdi_ray.debate.discussion import Discussion
from magdi_ray.debate.templates import Templates, View, user_message, views
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Task, group_same

INITIAL = """\
{{ prompt }}

Reason step by step before you answer. End with one line "Confidence: p", where p between 0.0 and 1.0 says how sure you are \
of your answer."""

DISCUSSION = """\
{{ prompt }}

Several agents, you among them, have answered this question.
{% for group in groups %}
{{ group.views | length }} {{ "agent thinks" if group.views | length == 1 else "agents think" }} the answer is {{ group.answer }}:
{%- for view in group.views %}
- {{ "You" if view.own else "Agent " ~ view.number }}\
{% if view.confidence is not none %} (confidence {{ "%.2f" | format(view.confidence) }}){% endif %}: {{ view.reasoning }}
{%- endfor %}
{% else %}
Nobody gave an answer that could be read.
{% endfor %}
{% for agent in convincing -%}
On other questions, explanations such as these made Agent {{ agent.number }} change a wrong answer to the right one:
{%- for sample in agent.samples %}

Question: {{ sample.question }}
Explanation: {{ sample.explanation }}
Answer: {{ sample.answer }}
{%- endfor %}

{% endfor -%}
Which of these views do you agree with, and why? Check each of their steps, then reason step by step and answer the question \
again. End with one line "Confidence: p", where p between 0.0 and 1.0 says how sure you are of your answer."""


class Prompts(Templates):
    """The messages this protocol sends.

    `discussion` sees `own` (the agent's own last view, or None), `groups` and `convincing`. `groups` are the views of the
    previous round grouped by answer, the largest first: a group has `answer` and `views` (`magdi_ray.debate.templates.View`).
    `convincing` holds each other agent that has samples: its `number` and its `samples`, each with `question`, `explanation` and
    `answer`. `judge` is sent with `decision.rule: judge` only; it sees `views`.
    """

    initial: str = INITIAL
    discussion: str = DISCUSSION
    judge: str = JUDGE


@dataclass(frozen=True, slots=True)
class Group:
    """Views that share an answer."""

    answer: str
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class Convincing:
    """What convinced one agent."""

    number: int
    """1-based place of the agent at the table."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Reconcile(Discussion):
    """The protocol, for one task. `rounds` counts the discussion rounds after the initial one."""

    task: Task
    rounds: int = 3
    prompts: Prompts = field(default_factory=Prompts)
    decision: Decision = CONFIDENCE
    convincing: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    """Agent -> what convinced it, as many as are to be shown."""
    students: tuple[str, ...] = ()
    name: str = "reconcile"

    def _judge_template(self) -> str:
        return self.prompts.judge

    def _ask(self, debate: Debate, agent: str) -> Ask:
        round_ = debate.rounds
        if round_ == 0:
            return Ask(agent, round_, (user_message(self.prompts.initial, self.task, debate),))
        shown = tuple(i for i in debate.positions(round_ - 1) if debate.turns[i].answer is not None)
        table = debaters(debate.agents, self.decision)
        seen = views(self.task, debate, shown, table=table, reader=agent)
        silent = (agent, *self.students)
        others = [(number, self.convincing.get(name, ())) for number, name in enumerate(table, start=1) if name not in silent]
        message = user_message(
            self.prompts.discussion,
            self.task,
            debate,
            groups=self._groups(seen),
            own=next((view for view in seen if view.own), None),
            convincing=tuple(Convincing(number, samples) for number, samples in others if samples),
        )
        return Ask(agent, round_, (message,), shown)

    def _groups(self, seen: Sequence[View]) -> tuple[Group, ...]:
        partition = group_same(self.task, [view.answer for view in seen])
        partition.sort(key=lambda group: (-len(group), group[0]))
        return tuple(Group(seen[group[0]].answer, tuple(seen[i] for i in group)) for group in partition)

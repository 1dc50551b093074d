"""ReConcile: a round table of different models that discuss until they agree (arXiv 2309.13007, section 3).

Round 0: everyone answers alone. Round r > 0: everyone is shown the answers of round r-1, grouped by answer, each with its
reasoning and confidence, and answers again. It ends at consensus or after the last round; the confidence-weighted vote
over the last round is the team's answer. Two deliberate differences from the released code: a reply without a readable
answer stays without one (there, a random answer is drawn), and an agent's own view is marked as its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict

from magdi_ray.agents.base import Message, Reply
from magdi_ray.debate.reading import read_turn, split_confidence
from magdi_ray.debate.transcript import Ask, Debate, Stopped, Turn
from magdi_ray.debate.vote import Ballot, Verdict, tally
from magdi_ray.tasks.base import Question, Task, group_same

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
Which of these views do you agree with, and why? Check each of their steps, then reason step by step and answer the question \
again. End with one line "Confidence: p", where p between 0.0 and 1.0 says how sure you are of your answer."""


class Prompts(BaseModel):
    """The two messages this protocol sends, as jinja2 templates.

    Both see `prompt` (the task's own message), `question` (`id`, `text`) and `round`. `discussion` also sees `own` (the
    agent's own last view, or None) and `groups`: the views of the previous round grouped by answer, the largest group first;
    a group has `answer` and `views`, a view has `number`, `own`, `reasoning`, `answer`, `confidence`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    initial: str = INITIAL
    discussion: str = DISCUSSION


@dataclass(frozen=True, slots=True)
class View:
    """One agent's position as another agent is shown it."""

    number: int
    """1-based place of the agent at the table."""
    own: bool
    reasoning: str
    answer: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Views that share an answer."""

    answer: str
    views: tuple[View, ...]


@lru_cache(maxsize=64)
def compile_template(source: str) -> Template:
    """A sandboxed jinja2 template that refuses unknown names."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False).from_string(source)


@dataclass(frozen=True, slots=True)
class Reconcile:
    """The protocol, for one task. `rounds` counts the discussion rounds after the initial one."""

    task: Task
    rounds: int = 3
    prompts: Prompts = field(default_factory=Prompts)
    name: str = "reconcile"

    def start(self, question: Question, agents: Sequence[str]) -> Debate:
        """A debate in which nobody has spoken yet."""
        return Debate(question=question, agents=tuple(agents), protocol=self.name)

    def most_calls(self, agents: int) -> int:
        """Every agent in every round."""
        return agents * (self.rounds + 1)

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        """What to ask every agent in the coming round; empty when the debate has ended."""
        if debate.stopped != "running":
            return ()
        return tuple(self._ask(debate, agent) for agent in debate.agents)

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        """The debate after one more round."""
        turns = tuple(read_turn(self.task, debate.question, a, r) for a, r in zip(asks, replies, strict=True))
        debate = replace(debate, turns=debate.turns + turns)
        verdict = self.verdict(debate, debate.rounds - 1)
        if verdict.consensus or debate.rounds > self.rounds:
            stopped: Stopped = "consensus" if verdict.consensus else "rounds"
            return replace(debate, answer=verdict.answer, agreement=verdict.agreement, stopped=stopped)
        return debate

    def verdict(self, debate: Debate, round_: int) -> Verdict:
        """The vote over the replies of one round."""
        ballots = [Ballot(debate.turns[i].answer, debate.turns[i].confidence) for i in debate.positions(round_)]
        return tally(self.task, ballots)

    def _ask(self, debate: Debate, agent: str) -> Ask:
        question, round_ = debate.question, debate.rounds
        common = {"prompt": self.task.prompt(question), "question": question, "round": round_}
        if round_ == 0:
            text = compile_template(self.prompts.initial).render(**common)
            return Ask(agent, round_, (Message("user", text),))
        shown = tuple(i for i in debate.positions(round_ - 1) if debate.turns[i].answer is not None)
        groups = self._groups(debate, shown, agent)
        own = next((view for group in groups for view in group.views if view.own), None)
        text = compile_template(self.prompts.discussion).render(**common, groups=groups, own=own)
        return Ask(agent, round_, (Message("user", text),), shown)

    def _groups(self, debate: Debate, shown: Sequence[int], agent: str) -> tuple[Group, ...]:
        turns = [debate.turns[i] for i in shown]
        partition = group_same(self.task, [turn.answer for turn in turns])
        partition.sort(key=lambda group: (-len(group), group[0]))
        return tuple(
            Group(turns[group[0]].answer or "", tuple(self._view(debate, turns[i], agent) for i in group)) for group in partition
        )

    def _view(self, debate: Debate, turn: Turn, agent: str) -> View:
        reasoning = self.task.reasoning(split_confidence(turn.text).text)
        number = debate.agents.index(turn.agent) + 1
        return View(number, turn.agent == agent, reasoning, turn.answer or "", turn.confidence)

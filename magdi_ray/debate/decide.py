"""The decision: who debates, when a debate is over, and how its last round becomes the team's answer. Pure.

By rule `confidence` and `majority` the last round is a vote. By rule `judge` an agent of its own, which took no part, is shown
the readable replies of the last round and decides, but only where they disagree: at consensus, or where there is no answer to
decide between, it is not asked. Where the judge's reply holds no answer, the vote by confidence stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from magdi_ray.config.protocols import Decision
from magdi_ray.debate.templates import user_message, views
from magdi_ray.debate.transcript import Ask, Debate, Stopped
from magdi_ray.debate.vote import Ballot, Verdict, majority, tally
from magdi_ray.tasks.base import Task

JUDGE = """\
{{ prompt }}

Several agents have discussed this question and do not agree. These are their last replies.
{% for view in views %}
Agent {{ view.number }} thinks the answer is {{ view.answer }}\
{% if view.confidence is not none %} (confidence {{ "%.2f" | format(view.confidence) }}){% endif %}: {{ view.reasoning }}
{% endfor %}
Decide which answer is right; it need not be the one most agents gave. Check the steps of each agent, reason step by step, and \
answer the question."""
"""`views`: the readable replies of the last round (`magdi_ray.debate.templates.View`)."""


def debaters(agents: Sequence[str], decision: Decision) -> tuple[str, ...]:
    """Who debates: everyone but the judge."""
    return tuple(agent for agent in agents if agent != decision.agent)


def longest(agents: int, rounds: int, decision: Decision) -> int:
    """Replies of the longest debate in which everyone but the judge speaks `rounds` times; `agents` counts the judge."""
    judge = decision.rule == "judge"
    return (agents - judge) * rounds + judge


def ballots(debate: Debate, round_: int) -> list[Ballot]:
    """The answers and confidences of one round."""
    return [Ballot(debate.turns[i].answer, debate.turns[i].confidence) for i in debate.positions(round_)]


def settle(task: Task, decision: Decision, debate: Debate, *, rounds: int) -> Debate:
    """A debate after a round: ended, or as it was where there is more to ask. `rounds` counts all rounds of debaters."""
    if debate.rounds > rounds:
        return _judged(task, decision, debate)
    cast = ballots(debate, debate.rounds - 1)
    verdict = majority(task, cast) if decision.rule == "majority" else tally(task, cast)
    if verdict.consensus:
        return _ended(debate, verdict)
    undecided = decision.rule == "judge" and verdict.answer is not None
    return debate if debate.rounds < rounds or undecided else _ended(debate, verdict)


def judge_ask(task: Task, decision: Decision, debate: Debate, template: str) -> Ask:
    """What the judge is asked after the last round."""
    assert decision.agent is not None
    shown = tuple(i for i in debate.positions(debate.rounds - 1) if debate.turns[i].answer is not None)
    table = debaters(debate.agents, decision)
    message = user_message(template, task, debate, views=views(task, debate, shown, table=table))
    return Ask(decision.agent, debate.rounds, (message,), shown, role="judge")


def agreement(task: Task, debate: Debate, agents: Sequence[str], answer: str | None) -> float:
    """Share of some agents whose last reply gave an answer."""
    last = {turn.agent: turn.answer for turn in debate.turns}
    return sum(task.same(last.get(agent), answer) for agent in agents) / len(agents)


def _judged(task: Task, decision: Decision, debate: Debate) -> Debate:
    answer = debate.turns[-1].answer
    if answer is None:
        return _ended(debate, tally(task, ballots(debate, debate.rounds - 2)))
    heard = [debate.turns[i].agent for i in debate.positions(debate.rounds - 2)]
    share = agreement(task, debate, heard, answer)
    return replace(debate, answer=answer, agreement=share, stopped="rounds")


def _ended(debate: Debate, verdict: Verdict) -> Debate:
    stopped: Stopped = "consensus" if verdict.consensus else "rounds"
    return replace(debate, answer=verdict.answer, agreement=verdict.agreement, stopped=stopped)

"""Rules of every protocol, with any number of agents and rounds, whatever the agents say, fail to say, or say in any order."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.config.protocols import CONFIDENCE, MAJORITY, Decision
from magdi_ray.debate.critique import Critique
from magdi_ray.debate.hold import Seat, hold_debate
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.self_consistency import SelfConsistency
from magdi_ray.debate.single import Single
from magdi_ray.debate.society import Society
from magdi_ray.debate.store import from_row, to_row, to_table
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.errors import EngineError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.store import read_mags, write_mags
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k
from tests.properties.rules import rule

TASK = Gsm8k()
QUESTION = Question("q", "How many eggs?", "18")
MARK = re.compile(r"mark[0-9]+end")
"""What tells in a message whose reply is quoted there."""

ENDINGS = (
    "",
    "The answer is 18.",
    "The answer is 7.\nConfidence: 0.9",
    "The answer is 18.0. Confidence: 100%",
    "It is unknown.",
    "hm",
)
SHAPES = (
    "{mark}. {end}",
    "{mark}. hm",
    "{mark}. {end}",
    '{{"reasoning": "{mark}", "answer": {number}, "confidence": 0.8}}',
    "{end}",
    "",
    " \n",
    "{any}",
)


@dataclass
class Script:
    """Answers by what was drawn for an agent's call, marks each reply, and keeps what was sent."""

    words: dict[tuple[str, int], tuple[str, str, int, str, float | None]]
    fails: tuple[str, int] | None = None
    sent: list[tuple[str, Sequence[Message], Reply]] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def teacher(self, agent: str) -> Any:
        script = self

        class One:
            hits = 0

            async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
                return script.reply(agent, messages)

        return One()

    def reply(self, agent: str, messages: Sequence[Message]) -> Reply:
        number = self.calls[agent] = self.calls.get(agent, -1) + 1
        if (agent, number) == self.fails:
            raise EngineError("out of order")
        shape, end, value, anything, confidence = self.words[agent, number % 4]
        text = shape.format(mark=f"mark{len(self.sent)}end", end=end, number=value, any=anything)
        self.sent.append((agent, messages, reply := Reply(text, 3, 2, confidence, "stop", "m")))
        return reply


said = st.tuples(
    st.sampled_from(SHAPES), st.sampled_from(ENDINGS), st.sampled_from((18, 7)), st.text(max_size=20), st.none() | st.floats(0, 1)
)


ALL = ("reconcile", "society", "critique", "self_consistency", "single")


@st.composite
def debates(draw: st.DrawFn, names: Sequence[str] = ALL) -> tuple[DebateProtocol, list[str], Script]:
    """A protocol, who takes part, and what they will say."""
    name = draw(st.sampled_from(names))
    agents = [f"agent{place}" for place in range(draw(st.integers(2, 5)))]
    rounds = draw(st.integers(0, 3))
    judge = Decision(rule="judge", agent=draw(st.sampled_from(agents)))
    decision = draw(st.sampled_from((CONFIDENCE, MAJORITY, judge)))
    able = [agent for agent in agents if agent != decision.agent] if rounds else []
    students = tuple(able[: draw(st.integers(0, len(able) - 1))]) if able else ()
    protocols: dict[str, DebateProtocol] = {
        "reconcile": Reconcile(TASK, rounds, decision=decision, students=students),
        "society": Society(TASK, rounds, decision=decision, students=students),
        "critique": Critique(TASK, max(1, rounds)),
        "self_consistency": SelfConsistency(TASK, rounds + 1, decision=draw(st.sampled_from((CONFIDENCE, MAJORITY)))),
        "single": Single(TASK),
    }
    agents = agents[:1] if name in ("self_consistency", "single") else agents
    words = {(agent, number): draw(said) for agent in agents for number in range(4)}
    failing = draw(st.none() | st.tuples(st.sampled_from(agents), st.integers(0, 4)))
    return protocols[name], agents, Script(words, failing)


def unread_beside_read() -> Script:
    """One agent whose replies say something and answer nothing, which a round table does not show, and one that answers."""
    said_by = {"a": ("{mark}. hm", "", 18, "", None), "b": ("{mark}. {end}", "The answer is 18.", 18, "", None)}
    return Script({(agent, number): words for agent, words in said_by.items() for number in range(4)})


def held(protocol: DebateProtocol, agents: Sequence[str], script: Script) -> Debate:
    seats = {agent: Seat(script.teacher(agent), Sampling()) for agent in agents}
    return asyncio.run(hold_debate(protocol, QUESTION, seats=seats, seed=0))


def marks(messages: Sequence[Message]) -> set[str]:
    return {mark for message in messages for mark in MARK.findall(message.content)}


@rule(100)
@given(debates())
def test_a_debate_ends_in_time_and_its_graph_holds_exactly_its_replies(case: tuple[DebateProtocol, list[str], Script]) -> None:
    protocol, agents, script = case
    debate = held(protocol, agents, script)
    mag = build_mag(debate, TASK)
    failed = debate.stopped == "error"
    assert failed == (script.fails is not None and script.calls.get(script.fails[0], -1) >= script.fails[1])
    assert len(script.sent) <= protocol.most_calls(len(agents))
    # Beside a failed call the others of its round are kept in the store, and are no turns.
    assert len(mag.nodes) == len(debate.turns) <= len(script.sent)
    assert failed or len(debate.turns) == len(script.sent)
    assert debate.answer is None or debate.answer in [turn.answer for turn in debate.turns]
    assert 0.0 <= debate.agreement <= 1.0
    assert [turn.agent for turn in debate.turns] == [agent for agent, _, _ in script.sent][: len(debate.turns)]


@rule(100)
@example((Reconcile(TASK, 1), ["a", "b"], unread_beside_read()))
@given(debates())
def test_edges_run_from_earlier_rounds_and_only_from_what_was_shown(case: tuple[DebateProtocol, list[str], Script]) -> None:
    protocol, agents, script = case
    mag = build_mag(held(protocol, agents, script), TASK)
    assert all(mag.nodes[edge.source].round < mag.nodes[edge.target].round for edge in mag.edges)
    for target, node in enumerate(mag.nodes):
        sources = {edge.source for edge in mag.edges if edge.target == target}
        said = {position: set(MARK.findall(mag.nodes[position].reasoning)) for position in sources}
        _, messages, _ = script.sent[target]
        shown, newest = marks(messages), marks(messages[-1:])
        assert all(message.content.strip() for message in messages)  # providers refuse empty ones
        assert set().union(*said.values()) <= shown  # what stands behind an edge was sent
        unseen = newest - set().union(*said.values())
        assert not unseen, f"{node.agent} was sent {unseen} without an edge"


@rule(60)
@given(debates())
def test_any_debate_and_its_graph_come_back_as_they_were(case: tuple[DebateProtocol, list[str], Script]) -> None:
    debate = held(*case)
    assert from_row(to_row(debate)) == debate
    assert [from_row(row) for row in to_table([debate]).to_pylist()] == [debate]
    with tempfile.TemporaryDirectory() as place:
        write_mags(Path(place), [mag := build_mag(debate, TASK)])
        assert read_mags(place) == [mag]


def outcome(debate: Debate) -> tuple[object, ...]:
    return debate.answer, debate.agreement, debate.stopped, len(debate.turns)


@rule(100)
@given(debates(("reconcile", "society", "critique")), st.data())
def test_who_sits_where_changes_nothing_in_the_outcome(
    case: tuple[DebateProtocol, list[str], Script], data: st.DataObject
) -> None:
    protocol, agents, script = case
    script.fails = None
    fixed = 1 if protocol.name == "critique" else 0  # the first agent of a critique is the one whose answer is criticised
    moved = [*agents[:fixed], *data.draw(st.permutations(agents[fixed:]))]
    assert outcome(held(protocol, agents, script)) == outcome(held(protocol, moved, Script(script.words)))


@rule(60)
@given(debates())
def test_no_reply_ever_leads_back_to_itself(case: tuple[DebateProtocol, list[str], Script]) -> None:
    mag = build_mag(held(*case), TASK)
    left = set(range(len(mag.nodes)))
    while free := {node for node in left if not any(edge.target == node and edge.source in left for edge in mag.edges)}:
        left -= free
    assert not left  # what can be taken away leaf by leaf holds no cycle

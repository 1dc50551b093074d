"""Rules every protocol keeps, whatever the agents say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import CONFIDENCE, Decision
from magdi_ray.debate.convincing import Sample
from magdi_ray.debate.critique import Critique
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.self_consistency import SelfConsistency
from magdi_ray.debate.single import Single
from magdi_ray.debate.society import Society
from magdi_ray.debate.store import from_row, to_row, to_table
from magdi_ray.debate.transcript import Ask, Debate, DebateProtocol
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.store import read_mags, write_mags
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
JUDGE = Decision(rule="judge", agent="b")
TAUGHT = {"a": (Sample("1 + 1?", "Two.", "2"),)}
PROTOCOLS: list[tuple[DebateProtocol, str]] = [
    (Reconcile(TASK, 2, convincing=TAUGHT), "abc"),
    (Reconcile(TASK, 1, decision=JUDGE), "abc"),
    (Society(TASK, 2), "abc"),
    (Society(TASK, 0, decision=JUDGE), "ab"),
    (Single(TASK), "a"),
    (SelfConsistency(TASK, 3, decision=CONFIDENCE), "a"),
    (Critique(TASK, 2), "abc"),
]
TEXTS = st.sampled_from(["", "18", "It is 7.", "The answer is 18.\nConfidence: 0.9", "hm", '{"answer": 18, "confidence": "80%"}'])
REPLIES = st.builds(Reply, TEXTS | st.text(), st.just(1), st.just(1), st.none() | st.floats(0, 1), st.just("stop"), st.just("m"))


def play(protocol: DebateProtocol, agents: str, reply: Callable[[], Reply]) -> tuple[Debate, list[Ask]]:
    debate, asked = protocol.start(Question("q", "How many eggs?", "18"), list(agents)), list[Ask]()
    while asks := protocol.next_asks(debate):
        assert debate.stopped == "running"
        asked += asks
        debate = protocol.advance(debate, asks, [reply() for _ in asks])
        assert len(asked) <= protocol.most_calls(len(agents))
    return debate, asked


@pytest.mark.parametrize(("protocol", "agents"), PROTOCOLS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_debate_ends_in_time_and_makes_a_sound_graph(protocol: DebateProtocol, agents: str, data: st.DataObject) -> None:
    debate, asked = play(protocol, agents, lambda: data.draw(REPLIES))
    assert debate.stopped in ("consensus", "rounds")
    assert 0.0 <= debate.agreement <= 1.0
    assert debate.answer is None or debate.answer in [turn.answer for turn in debate.turns]
    for position, (turn, ask) in enumerate(zip(debate.turns, asked, strict=True)):
        assert (turn.agent, turn.round, turn.shown, turn.role) == (ask.agent, ask.round, ask.shown, ask.role)
        assert all(earlier < position for earlier in turn.shown)
        assert all(message.content.strip() for message in ask.messages)
    assert from_row(to_row(debate)) == debate
    with tempfile.TemporaryDirectory() as place:
        write_mags(Path(place), [mag := build_mag(debate, TASK)])
        assert read_mags(place) == [mag]


@pytest.mark.parametrize(("protocol", "agents"), PROTOCOLS)
def test_the_longest_debate_takes_exactly_most_calls(protocol: DebateProtocol, agents: str) -> None:
    numbers = iter(range(1, 100))
    debate, asked = play(protocol, agents, lambda: Reply(str(next(numbers)), 1, 1, None, "stop", "m"))
    if protocol.name != "single" and agents != "ab":
        assert debate.stopped == "rounds"
        assert len(asked) == protocol.most_calls(len(agents))
    assert to_table([debate]).num_rows == 1


@pytest.mark.parametrize(("protocol", "agents"), PROTOCOLS)
def test_messages_of_one_agent_alternate_and_end_with_the_user(protocol: DebateProtocol, agents: str) -> None:
    numbers = iter(range(1, 100))
    _, asked = play(protocol, agents, lambda: Reply(str(next(numbers)), 1, 1, None, "stop", "m"))
    for ask in asked:
        roles = [message.role for message in ask.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]

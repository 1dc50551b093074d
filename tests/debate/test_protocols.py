"""Rules every protocol keeps, whatever the agents say; those of debates drawn at random are in tests/properties."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from magdi_ray.agents.base import Reply
from magdi_ray.config.protocols import CONFIDENCE, Decision
from magdi_ray.debate.convincing import Sample
from magdi_ray.debate.critique import Critique
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.self_consistency import SelfConsistency
from magdi_ray.debate.single import Single
from magdi_ray.debate.society import Society
from magdi_ray.debate.store import to_table
from magdi_ray.debate.transcript import Ask, Debate, DebateProtocol
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
JUDGE = Decision(rule="judge", agent="b")
TAUGHT = {"a": (Sample("1 + 1?", "Two.", "2"),)}
PROTOCOLS: list[tuple[DebateProtocol, str]] = [
    (Reconcile(TASK, 2, convincing=TAUGHT), "abc"),
    (Reconcile(TASK, 1, decision=JUDGE), "abc"),
    (Society(TASK, 2), "abc"),
    (Society(TASK, 2, students=("c",)), "abc"),
    (Reconcile(TASK, 1, decision=JUDGE, students=("a",)), "abcd"),
    (Society(TASK, 0, decision=JUDGE), "ab"),
    (Single(TASK), "a"),
    (SelfConsistency(TASK, 3, decision=CONFIDENCE), "a"),
    (Critique(TASK, 2), "abc"),
]


def play(protocol: DebateProtocol, agents: str, reply: Callable[[], Reply]) -> tuple[Debate, list[Ask]]:
    debate, asked = protocol.start(Question("q", "How many eggs?", "18"), list(agents)), list[Ask]()
    while asks := protocol.next_asks(debate):
        assert debate.stopped == "running"
        asked += asks
        debate = protocol.advance(debate, asks, [reply() for _ in asks])
        assert len(asked) <= protocol.most_calls(len(agents))
    return debate, asked


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

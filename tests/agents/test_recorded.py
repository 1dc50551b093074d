"""Recorded engines: what was recorded comes back, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.load import load_engine
from magdi_ray.agents.recorded import RecordedAgent, record
from magdi_ray.config.engines import RecordedEngine
from magdi_ray.errors import EngineError

ASKED = [Message("system", "Be brief."), Message("user", "2 + 2?")]
FOUR = Reply(text="4", tokens_in=5, tokens_out=2, confidence=0.93, finish_reason="stop", model="ada")
FIVE = Reply(text="5", tokens_in=5, tokens_out=2, confidence=None, finish_reason="length", model="bob")


def ask(path: Path, seed: int | None = None, messages: list[Message] | None = None) -> Reply:
    return asyncio.run(RecordedAgent(path).generate(messages or ASKED, Sampling(seed=seed)))


def test_a_recorded_reply_comes_back_whole(tmp_path: Path) -> None:
    record(tmp_path / "deep" / "replies.jsonl", ASKED, FOUR)
    assert ask(tmp_path / "deep" / "replies.jsonl") == FOUR


def test_the_seed_chooses_among_several_replies_to_one_conversation(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    record(path, ASKED, FOUR)
    record(path, ASKED, FIVE)
    assert [ask(path, seed) for seed in (None, 0, 1, 2, 3)] == [FOUR, FOUR, FIVE, FOUR, FIVE]


def test_what_was_not_recorded_is_not_answered(tmp_path: Path) -> None:
    record(tmp_path / "replies.jsonl", ASKED, FOUR)
    with pytest.raises(EngineError, match=r"no reply to this conversation \(1 messages, the last one '2 \+ 2\?'\)"):
        ask(tmp_path / "replies.jsonl", messages=ASKED[1:])


def test_a_line_written_by_hand_needs_only_messages_and_text(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}], "text": "ho"}\n\n')
    engine = load_engine(RecordedEngine(type="recorded", path=str(path)))
    reply = asyncio.run(engine.generate([Message("user", "hi")], Sampling()))
    assert (reply.text, reply.model, reply.confidence) == ("ho", "recorded", None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"No recording at .*nothing\.jsonl"):
        RecordedAgent(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"messages": [{"role": "user", "content": "hi"}]}', "line 2: text: Field required"),
        ('{"messages": [{"role": "robot", "content": "hi"}], "text": "ho"}', "line 2: messages.0.role"),
        ('{"messages": [], "text": "ho", "tokens": 3}', "line 2"),
        ('{"messages": ', "line 2: the line: Invalid JSON"),
    ],
)
def test_a_malformed_line_is_told_by_its_number(tmp_path: Path, line: str, told: str) -> None:
    record(tmp_path / "replies.jsonl", ASKED, FOUR)
    with (tmp_path / "replies.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(EngineError, match=told):
        RecordedAgent(tmp_path / "replies.jsonl")

"""The imitated endpoint: repeatable replies and faults, real limits, and counts of what came."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import replies
from benchmarks.openai_server import running_server


async def post(url: str, contents: list[str], **fields: Any) -> list[httpx.Response | httpx.HTTPError]:
    """All at once; what broke is in its place."""
    async with httpx.AsyncClient(timeout=10) as client:
        bodies = [{"model": "m", "messages": [{"role": "user", "content": content}], **fields} for content in contents]
        sent = (client.post(f"{url}/chat/completions", json=body) for body in bodies)
        return await asyncio.gather(*sent, return_exceptions=True)  # type: ignore[return-value]  # only httpx's errors occur


def statuses(url: str, contents: list[str]) -> list[int | str]:
    return [answer.status_code if isinstance(answer, httpx.Response) else "broken" for answer in asyncio.run(post(url, contents))]


def test_equal_requests_get_equal_replies_and_faults_come_where_they_came_before() -> None:
    contents = [f"Question {i}?" for i in range(60)]
    with running_server(fault_500=0.2, fault_reset=0.1, seed=3) as server:
        first = statuses(server.url, contents)
        stats = server.stats()
        server.reset()
        assert statuses(server.url, contents) == first
        assert set(first) == {200, 500, "broken"}
        assert stats["faults"] == {"500": first.count(500), "reset": first.count("broken")}
        assert (stats["received"], stats["distinct"]) == (60, 60)
        assert statuses(server.url, contents) != first  # the second attempts


def test_capacity_queues_or_rejects_and_a_minutes_requests_are_enforced() -> None:
    with running_server(capacity=2, latency=0.1, reject_over_capacity=True) as server:
        assert sorted(map(str, statuses(server.url, list("abcd")))) == ["200", "200", "429", "429"]
    with running_server(rpm=60) as server:
        answers = asyncio.run(post(server.url, list("abcdefghijkl")))
        refused = [answer for answer in answers if isinstance(answer, httpx.Response) and answer.status_code == 429]
        assert len(refused) == 2
        assert 5 < float(refused[0].headers["retry-after"]) <= 10


def test_models_agree_in_the_share_that_was_asked_for() -> None:
    author = replies.arithmetic(agreement=0.6, agents=3, reply_tokens=180)
    rounds = [[author(m, [{"role": "user", "content": f"Q{i}\n\nAnswer."}])[1] for m in ("a", "b", "c")] for i in range(1000)]
    assert sum(len(set(answers)) == 1 for answers in rounds) / 1000 == pytest.approx(0.6, abs=0.05)


def test_a_recording_answers_first_prompts_and_discussions(tmp_path: Path) -> None:
    contexts = [
        [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=True)]
        for texts in (("Q?", "It is \\boxed{4}.", "more", "Still \\boxed{4}."), ("Q?", "Hm, 5", "more", "Now 4"))
    ]
    (tmp_path / "debates.json").write_text(json.dumps({"How many are 2 + 2?": [contexts, "4"]}))
    author = replies.recorded(tmp_path / "debates.json")

    def ask(model: str, content: str) -> str:
        return author(model, [{"role": "user", "content": content}]).plain()

    assert ask("agent-1", "How many are 2 + 2? Think.") == "Hm, 5"
    assert ask("agent-0", "How many are 2 + 2?\n\nBob said: Hm, 5") == "Still \\boxed{4}."
    assert replies.boxed("It is \\boxed{4}.") == "4"
    with pytest.raises(LookupError, match="no question"):
        ask("agent-0", "Who?")

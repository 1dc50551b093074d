"""What the debate room takes on, for whom, and when it debates a question anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from magdi_ray.agents.base import Sampling
from magdi_ray.config.protocols import ReconcileConfig
from magdi_ray.graph.store import read_mags
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.debating import FULL, Room
from magdi_ray.serving.escalation import identity_of
from tests.serving.test_escalation import ASKED, Scripted, config, room


async def leave(*tasks: asyncio.Task[Escalated]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def ask(held: Room, *questions: str) -> list[asyncio.Task[Escalated]]:
    return [asyncio.create_task(held.debate(question)) for question in questions]


def test_a_debate_nobody_waits_for_any_more_is_dropped_before_its_first_call(tmp_path: Path) -> None:
    teacher = Scripted("The answer is 4.", after_s=0.05)

    async def run() -> None:
        held = room(tmp_path, teacher, at_once=2)
        tasks = ask(held, *(f"How many are {number}?" for number in range(50)))
        await asyncio.sleep(0.01)
        await leave(*tasks)
        await asyncio.sleep(0.2)

    asyncio.run(run())
    assert teacher.calls == 2  # these were asked, and go on
    assert len(read_mags(tmp_path)) == 2


def test_a_debate_that_waits_goes_on_for_as_long_as_one_who_asked_is_there(tmp_path: Path) -> None:
    async def run() -> tuple[Escalated, Escalated]:
        held = room(tmp_path, Scripted("The answer is 5.", after_s=0.02), at_once=1)
        _, left, stays = ask(held, "And 4?", ASKED, ASKED)
        await asyncio.sleep(0.005)
        await leave(left)
        again = asyncio.create_task(held.debate(ASKED))
        return await stays, await again

    one, other = asyncio.run(run())
    assert (one.answer, one.stored, one.tokens_out, other.stored, other.tokens_out) == ("5", False, 3, True, 0)


def test_who_asks_after_a_debate_was_dropped_has_one_of_their_own(tmp_path: Path) -> None:
    async def run() -> Escalated:
        held = room(tmp_path, Scripted("The answer is 5.", after_s=0.02), at_once=1)
        _, left = ask(held, "And 4?", ASKED)
        await asyncio.sleep(0.005)
        left.cancel()
        await asyncio.sleep(0)
        return await held.debate(ASKED)

    assert asyncio.run(run()).answer == "5"


def test_no_more_debates_wait_than_may_and_what_is_stored_needs_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.serving.debating.LINE", 2)
    teacher = Scripted("The answer is 5.")

    async def run() -> tuple[Escalated, Escalated]:
        held = room(tmp_path, teacher, at_once=1)
        await held.debate(ASKED)
        teacher.after_s = 0.05
        tasks = ask(held, "A?", "B?", "C?")
        await asyncio.sleep(0.01)
        refused, stored = await held.debate("D?"), await held.debate(ASKED)
        await leave(*tasks)
        return refused, stored

    refused, stored = asyncio.run(run())
    assert (refused.error, refused.answer, refused.stored, refused.tokens_out) == (FULL, None, False, 0)
    assert (stored.answer, stored.stored) == ("5", True)


def test_the_time_of_a_debate_includes_its_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.serving.debating.LONGEST_S", 0.5)
    teacher = Scripted("The answer is 5.", after_s=0.3)

    async def run() -> list[Escalated]:
        return await asyncio.gather(*ask(room(tmp_path, teacher, at_once=1), "A?", "B?", "C?"))

    first, *others = asyncio.run(run())
    assert first.error is None
    assert ["it took longer than" in (one.error or "") for one in others] == [True, True]


def test_others_debate_a_question_anew_and_the_older_graph_is_kept_aside(tmp_path: Path) -> None:
    old, new = Scripted("The answer is 4."), Scripted("The answer is 5.")
    assert asyncio.run(room(tmp_path, old, identity="a").debate(ASKED)).answer == "4"
    found = asyncio.run(room(tmp_path, new, identity="b").debate(ASKED))
    assert (found.answer, found.stored) == ("5", False)
    assert [mag.answer for mag in read_mags(tmp_path)] == ["5"]
    assert [mag.answer for mag in read_mags(tmp_path / "replaced")] == ["4"]
    assert asyncio.run(room(tmp_path, new, identity="b").debate(ASKED)).stored


def test_a_debate_that_fails_leaves_the_older_graph_where_it_is(tmp_path: Path) -> None:
    asyncio.run(room(tmp_path, Scripted("The answer is 4."), identity="a").debate(ASKED))
    assert asyncio.run(room(tmp_path, Scripted(OSError()), identity="b").debate(ASKED)).error is not None
    assert [mag.answer for mag in read_mags(tmp_path)] == ["4"]


def test_what_shapes_a_debate_is_its_identity_and_nothing_else(tmp_path: Path) -> None:
    debate = config(tmp_path)
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("initial: a")
    ada, ben = debate.agents

    def with_prompts(file: Path) -> str:
        protocol = ReconcileConfig(name="reconcile", rounds=1, prompts=str(file))
        return identity_of(debate.model_copy(update={"protocol": protocol}), seed=0)

    first = identity_of(debate, seed=0)
    assert first == identity_of(debate.model_copy(update={"max_in_flight": 3, "budget_usd": 1.0}), seed=0)
    warm = ben.model_copy(update={"sampling": Sampling(temperature=0.3)})
    others = [
        identity_of(debate, seed=1),
        identity_of(debate.model_copy(update={"agents": (ada, warm)}), seed=0),
        identity_of(debate.model_copy(update={"protocol": ReconcileConfig(name="reconcile", rounds=2)}), seed=0),
        with_prompts(prompts),
    ]
    assert len({first, *others}) == 5
    moved = tmp_path / "moved.yaml"
    moved.write_bytes(prompts.read_bytes())
    assert with_prompts(moved) == others[-1]
    prompts.write_text("initial: b")
    assert with_prompts(prompts) != others[-1]

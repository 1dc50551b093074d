"""The books of `benchmarks.volume` can be out of balance: each kind of fault is seen. And what it calls flat is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.counting_server import text_of
from benchmarks.processes import slope_of
from benchmarks.volume_books import audit
from magdi_ray.agents.base import Reply
from magdi_ray.agents.store import ReplyStore
from magdi_ray.debate.store import read_debates, write_debates
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.store import write_mags
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTIONS = 4


def debate_of(number: int, said: str = "The answer is 3.") -> Debate:
    turn = Turn("agent0", 0, (), said, "3", None, "none", 5, 5, "agent-0", "ok")
    question = Question(f"q{number}", f"Farm {number} has 3 cows.", "3", "train")
    return Debate(question, ("agent0",), "single", (turn,), "3", 1.0, "rounds")


def write(run: Path, debates: list[Debate]) -> None:
    write_debates(run / "debates" / "part.parquet", debates)
    write_mags(run / "graphs" / "part.parquet", [build_mag(debate, Gsm8k()) for debate in debates])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in which everything is as it should be."""
    for stage in ("debates", "graphs"):
        (tmp_path / stage).mkdir()
    write(tmp_path, [debate_of(number) for number in range(QUESTIONS)])
    (tmp_path / "debates" / "manifest.json").write_text(json.dumps({"facts": {"replies": QUESTIONS}}))
    store = ReplyStore(str(tmp_path / "replies"))
    for number in range(QUESTIONS):
        reply = Reply("The answer is 3.", 5, 5, None, "stop", "agent-0")
        asyncio.run(store.put(f"{number:032x}", reply, agent="agent0", usd=0.0))
    store.close()
    lines = [f"{number} agent-0 {number:016x} {text_of('The answer is 3.'):016x}\n" for number in range(QUESTIONS)]
    (tmp_path / "ledger").write_text("".join(lines))
    return tmp_path


def wrong(run: Path, *, received: int = QUESTIONS) -> set[str]:
    books = audit(run, run / "ledger", {"received": received}, questions=QUESTIONS, in_flight=0)
    return {line.what for line in books if not line.balanced}


def test_books_of_a_sound_run_balance(run: Path) -> None:
    assert wrong(run) == set()


def lose_a_debate(run: Path) -> None:
    write_debates(run / "debates" / "part.parquet", [debate_of(number) for number in range(QUESTIONS - 1)])


def double_a_debate(run: Path) -> None:
    write_debates(run / "debates" / "again.parquet", [debate_of(0)])


def change_a_reply(run: Path) -> None:
    changed = [debate_of(0, "It is said that the answer is 3."), *list(read_debates(run / "debates"))[1:]]
    write(run, changed)


def ask_twice(run: Path) -> None:
    with (run / "ledger").open("a") as ledger:
        ledger.write((run / "ledger").read_text().splitlines(keepends=True)[0])


def tear_the_store(run: Path) -> None:
    [segment] = (run / "replies").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (lose_a_debate, "questions with a debate"),
        (double_a_debate, "debates"),
        (double_a_debate, "replies doubled in debates or graphs"),
        (change_a_reply, "replies in debates that are what the provider said"),
        (ask_twice, "replies given a second time"),
        (tear_the_store, "records of the reply store"),
        (tear_the_store, "damaged lines of the store"),
    ],
)
def test_books_show_what_is_wrong(run: Path, fault: Callable[[Path], None], seen: str) -> None:
    fault(run)
    assert seen in wrong(run)


def test_books_show_requests_that_broke_off(run: Path) -> None:
    assert wrong(run, received=QUESTIONS + 1) == {"requests that broke off before their reply"}


def test_a_slope_is_found_within_its_interval_and_noise_alone_has_none() -> None:
    draw, x = np.random.default_rng(0), np.linspace(0, 10, 600)
    grows, stays = slope_of(x, 300 + 2.0 * x + draw.normal(0, 3, 600)), slope_of(x, 300 + draw.normal(0, 3, 600))
    assert grows is not None
    assert stays is not None
    assert grows.low < 2.0 < grows.high
    assert grows.low > 1.5
    assert stays.low < 0.0 < stays.high < 0.5

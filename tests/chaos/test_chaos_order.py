"""Which debate ends first is another in every run, and nothing that comes after depends on it."""

from __future__ import annotations

import random
from pathlib import Path

from magdi_ray.debate.store import read_debates, read_debates_of, write_debates
from magdi_ray.debate.transcript import Debate
from magdi_ray.tasks.base import Question


def debate(name: str) -> Debate:
    return Debate(Question(name, f"{name}?", "1"), ("ada",), "single", (), "1", 1.0, "rounds", None)


def test_debates_are_read_in_the_order_of_their_questions_however_they_lie(tmp_path: Path) -> None:
    names = [f"q{number}" for number in range(500)]
    ended = random.Random(0).sample(names, len(names))
    for part in range(5):
        write_debates(tmp_path / f"{part}.parquet", map(debate, ended[part * 100 : part * 100 + 100]))
    found = list(read_debates_of(names, tmp_path))
    assert [one.question.id for one in found] == names
    assert sorted(found, key=lambda one: one.question.id) == sorted(read_debates(tmp_path), key=lambda one: one.question.id)


def test_a_question_without_a_debate_is_passed_over(tmp_path: Path) -> None:
    write_debates(tmp_path / "a.parquet", [debate("q1")])
    assert [one.question.id for one in read_debates_of(["q0", "q1"], tmp_path)] == ["q1"]

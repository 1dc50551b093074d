"""Which debate ends first is another in every run, and nothing that comes after depends on it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from magdi_ray.debate import order
from magdi_ray.debate.order import read_debates_of
from magdi_ray.debate.store import read_debates, write_debates
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


def test_questions_whose_ids_have_one_digest_each_get_their_own_debate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "digest_of", len)
    write_debates(tmp_path / "a.parquet", map(debate, ["q2", "q1", "q12"]))
    assert [one.question.id for one in read_debates_of(["q1", "q2", "q12"], tmp_path)] == ["q1", "q2", "q12"]


def test_a_stage_without_debates_has_none(tmp_path: Path) -> None:
    assert list(read_debates_of(["q1"], tmp_path)) == []


def test_a_question_without_a_debate_is_passed_over(tmp_path: Path) -> None:
    write_debates(tmp_path / "a.parquet", [debate("q1")])
    assert [one.question.id for one in read_debates_of(["q0", "q1"], tmp_path)] == ["q1"]

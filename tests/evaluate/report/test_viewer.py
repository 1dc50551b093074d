"""Questions joined with their debates and answers, and what kinds of questions they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from magdi_ray.evaluate.answers import BASE, VOTE, Answer, failed
from magdi_ray.evaluate.report.dialogue import standings
from magdi_ray.evaluate.report.viewer import KINDS, Shelf, viewer_data
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.base import Question
from tests.evaluate.report.made import AGENTS, TASK, answers, debate

Shown = list[tuple[dict[str, Any], dict[str, Any]]]


def shelf(mags: Sequence[Mag], given: Sequence[Answer], wanted: Sequence[Question] | None = None) -> Shelf:
    made = Shelf(TASK, product="level2", systems=(BASE, "level2"), debaters=(*AGENTS, VOTE))
    for question in [mag.question for mag in mags] if wanted is None else wanted:
        made.want(question, set_id=f"tiny/{question.split}", task="tiny")
    for mag in mags:
        made.add_debate(mag, standings(TASK, mag, "confidence"))
    for answer in given:
        made.add_answer(answer)
    return made


def kinds(entry: dict[str, Any]) -> set[str]:
    return {id_ for bit, (id_, _, _) in enumerate(KINDS) if entry["kinds"] >> bit & 1}


def one(mag: Mag, *given: Answer) -> tuple[set[str], dict[str, Any]]:
    [(entry, detail)] = shelf([mag], given).questions()
    return kinds(entry), detail


MAG = debate("112", "111", name="test-0", split="test")


@pytest.mark.parametrize(
    ("base", "student", "vote", "expected"),
    [
        (True, True, True, {"right"}),
        (False, True, False, {"right", "fixed", "beats_debate"}),
        (True, False, True, {"wrong", "broke", "loses_to_debate"}),
        (False, False, False, {"wrong"}),
    ],
)
def test_kinds_hold_the_student_against_base_and_debate(base: bool, student: bool, vote: bool, expected: set[str]) -> None:
    said = [answers(name, [right])[0] for name, right in ((BASE, base), ("level2", student), (VOTE, vote))]
    assert one(MAG, *said)[0] == expected


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        (("221", "111"), {"turned_right"}),
        (("112", "222"), {"turned_wrong"}),
        (("112", "112"), {"disagreed"}),
        (("111",), set()),
        (("1",), set()),
    ],
)
def test_kinds_say_what_discussion_did(rounds: Sequence[str], expected: set[str]) -> None:
    assert one(debate(*rounds, name="test-0", split="test"))[0] == expected


def test_a_reply_without_an_answer_is_unanswered_and_no_reply_is_a_failure() -> None:
    [mute] = answers("level2", [False])
    assert one(MAG, replace(mute, answer=None))[0] == {"wrong", "unanswered"}
    assert one(MAG, failed(MAG.question, system="level2", error="EngineError: gone", task="tiny"))[0] == {"wrong", "failed"}


def test_without_a_gold_answer_no_question_turned() -> None:
    found, detail = one(debate("221", "111", gold=None))
    assert found == set()
    assert detail["debate"]["correct"] is None
    assert {node["correct"] for node in detail["debate"]["nodes"]} == {None}


def test_a_detail_is_the_debate_and_every_answer_of_the_first_training() -> None:
    given = [answers(name, [True], seed=seed)[0] for seed in (1, 0) for name in ("level2", BASE)]
    drawn = [replace(given[2], method="sample", sample=k, text=f"draw {k}") for k in (2, 1)]
    _, detail = one(MAG, *drawn, *given)
    said = [(row["system"], row["method"], row["sample"]) for row in detail["answers"]]
    assert said == [(BASE, "single", 0), ("level2", "single", 0), ("level2", "sample", 1), ("level2", "sample", 2)]
    assert [(n["agent"], n["round"], n["answer"]) for n in detail["debate"]["nodes"]][2:4] == [("cy", 0, "2"), ("ada", 1, "1")]
    assert detail["debate"]["edges"][0] == {"source": 0, "target": 3, "type": "self"}
    json.dumps(detail)


def test_what_teachers_said_is_shown_in_the_debate_alone_unless_there_is_none() -> None:
    lost = [failed(MAG.question, system=name, error="DebateError: the debate failed", task="tiny") for name in ("ada", VOTE)]
    assert one(MAG, *answers("ada", [True]))[1]["answers"] == []
    [(entry, detail)] = shelf([], lost, [MAG.question]).questions()
    assert [row["system"] for row in detail["answers"]] == ["ada", VOTE]
    assert kinds(entry) == {"failed"}


def test_questions_come_in_the_order_in_which_they_were_wanted_and_empty_ones_not_at_all() -> None:
    mags = [debate("11", name=name) for name in ("a", "b", "c")]
    wanted = [mags[2].question, Question("never debated", "?"), mags[0].question]
    made = shelf(mags, [], wanted)
    assert [entry["id"] for entry, _ in made.questions()] == ["c", "a"]
    assert made.left_out == 1


def test_questions_of_two_tasks_may_share_an_id() -> None:
    made = shelf([], [], [Question("7", "ours", "1")])
    made.want(Question("7", "theirs", "1"), set_id="gsm8k/test", task="gsm8k")
    for task, right in (("tiny", True), ("gsm8k", False)):
        made.add_answer(replace(answers("level2", [right], task=task)[0], question_id="7"))
    assert [(entry["set"], kinds(entry)) for entry, _ in made.questions()] == [
        ("tiny/train", {"right"}),
        ("gsm8k/test", {"wrong"}),
    ]


def test_the_page_is_told_the_kinds_and_what_was_left_out() -> None:
    data = viewer_data(shelf([MAG], [], []), systems=(BASE, "level2"), product="level2")
    assert [kind["id"] for kind in data["kinds"]][:4] == ["right", "wrong", "fixed", "broke"]
    assert (data["systems"], data["product"], data["left_out"]) == ([BASE, "level2"], "level2", 1)

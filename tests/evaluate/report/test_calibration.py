"""Reliability bins and the calibration error, against figures computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from magdi_ray.evaluate.report.calibration import BINS, Calibration, Reliability
from tests.evaluate.report.made import TASK, answers, debate


def students(confidences: Sequence[float | None], right: Sequence[bool], **changes: str) -> list[Reliability]:
    calibration = Calibration(TASK)
    for row, confidence in zip(answers("level2", right), confidences, strict=True):
        calibration.add_answer(replace(row, confidence=confidence, **changes), "student")
    return calibration.rows()


def test_the_error_is_the_mean_distance_of_accuracy_and_confidence_by_bin() -> None:
    # .9 to 1: two answers, mean .95, one right; .3 to .4: two, mean .3, none right
    [row] = students([0.9, 1.0, 0.3, 0.3], [True, False, False, False])
    assert row.count == 4
    assert row.ece == pytest.approx(0.5 * 0.45 + 0.5 * 0.3)
    assert (row.bins[9].count, row.bins[9].confidence, row.bins[9].accuracy) == (2, pytest.approx(0.95), 0.5)
    assert (row.bins[3].count, row.bins[0].confidence, row.bins[0].accuracy) == (2, None, None)


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (0.1, 1), (0.999, 9), (1.0, 9)])
def test_bins_are_closed_below_and_the_last_one_above(confidence: float, place: int) -> None:
    [row] = students([confidence], [True])
    assert [bin_.count for bin_ in row.bins] == [int(i == place) for i in range(BINS)]


def test_answers_without_a_confidence_are_not_counted() -> None:
    assert students([None], [True]) == []


@pytest.mark.parametrize(("text", "source"), [("answer 1", "probability"), ("answer 1. Confidence: 0.8", "stated")])
def test_a_confidence_in_the_text_is_a_stated_one(text: str, source: str) -> None:
    [row] = students([0.8], [True], text=text)
    assert row.source == source


def test_votes_over_several_replies_are_left_out() -> None:
    assert students([0.8], [True], method="majority") == []


def test_all_replies_of_teachers_count_and_the_debates_answer_with_its_agreement() -> None:
    calibration = Calibration(TASK)
    calibration.add_debate(debate("12", "11"))
    found = {(row.who, row.kind, row.source): row for row in calibration.rows()}
    assert {key: row.count for key, row in found.items()} == {
        ("ada", "teacher", "stated"): 2,
        ("ben", "teacher", "stated"): 2,
        ("vote", "debate", "agreement"): 1,
    }
    assert found["ben", "teacher", "stated"].bins[9].accuracy == 0.5


def test_every_set_is_counted_apart() -> None:
    calibration = Calibration(TASK)
    for split in ("train", "test"):
        calibration.add_debate(debate("12", split=split))
    calibration.add_answer(answers("level2", [True])[0], "student")
    found = {(row.who, row.set): row.count for row in calibration.rows()}
    assert found["ada", "tiny/train"] == found["ada", "tiny/test"] == found["level2", "tiny/test"] == 1
    assert ("level2", "tiny/train") not in found


def test_debates_without_a_gold_answer_say_nothing() -> None:
    calibration = Calibration(TASK)
    calibration.add_debate(debate("12", gold=None))
    assert calibration.rows() == []

"""What the debates' own vote is worth as labels: against debates counted by hand."""

from __future__ import annotations

from dataclasses import asdict

from magdi_ray.evaluate.report.labelling import Labelled, Labelling
from magdi_ray.evaluate.report.markdown import study_page
from magdi_ray.graph.schema import Mag
from tests.evaluate.report.made import TASK, debate, node
from tests.evaluate.report.sample import small


def rows(*mags: Mag) -> list[Labelled]:
    labelling = Labelling(TASK)
    for mag in mags:
        labelling.add(mag)
    return labelling.rows()


AGREED, SPLIT, MISLED = debate("111", name="a"), debate("112", name="b"), debate("122", name="c")


def test_more_agreement_keeps_fewer_debates_and_better_labels() -> None:
    every, agreed = rows(AGREED, SPLIT, MISLED)
    # Taught: 3 of a, 2 of b, 2 of c, of which c's are wrong; right replies are 3, 2 and 1.
    assert every == Labelled("train", 0.0, 3, 1.0, 2 / 3, 7, 5 / 7, 5 / 6)
    assert agreed == Labelled("train", 0.7, 1, 1 / 3, 1.0, 3, 1.0, 3 / 6)


def test_agreement_that_leaves_nothing_more_out_has_no_row() -> None:
    assert [row.least for row in rows(AGREED)] == [0.0]
    assert [row.least for row in rows(AGREED, SPLIT)] == [0.0, 0.7]


def test_debates_without_a_gold_answer_or_one_of_their_own_say_nothing() -> None:
    assert rows(debate("112", gold=None), debate("---")) == []


def test_only_what_debaters_said_is_counted() -> None:
    judged = debate("12", answer="1", extra=(node("judy", 1, "1", gold="1", role="judge"),))
    assert rows(judged)[0].taught == 1


def test_splits_are_counted_apart_and_told_in_the_tables() -> None:
    found = rows(AGREED, debate("122", name="t", split="test"))
    assert [(row.split, row.vote_accuracy) for row in found] == [("train", 1.0), ("test", 0.0)]
    data = small()
    data["runs"][0]["labelling"] = [asdict(row) for row in found]
    page = study_page(data)
    assert "| train | 0.0 | 1 | 100.0 | 100.0 | 3 | 100.0 | 100.0 |" in page
    assert "## Labels without gold answers" not in study_page(small())

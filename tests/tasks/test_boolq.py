"""BoolQ: a question is asked with its passage."""

from __future__ import annotations

from typing import Any

import pytest

from magdi_ray.tasks.boolq import BoolQ, read_row

TASK = BoolQ()
ROW = {"question": "is it a fruit", "title": "Pear", "answer": True, "passage": "The pear is a fruit. No pear is a nut."}


@pytest.mark.parametrize(
    ("answer", "gold"), [(True, "yes"), (False, "no"), ("True", "yes"), ("no", "no"), (None, None), ("", None)]
)
def test_the_text_is_the_passage_and_the_question(answer: Any, gold: str | None) -> None:
    question = read_row(ROW | {"answer": answer}, "ood")
    assert question.text == "The pear is a fruit. No pear is a nut.\n\nis it a fruit"
    assert (question.gold, question.split, question.solution) == (gold, "ood", None)
    assert question.id.startswith("boolq-")


def test_one_question_about_two_passages_is_two_questions() -> None:
    assert read_row(ROW, "dev").id != read_row(ROW | {"passage": "Nuts are no fruits."}, "dev").id
    assert read_row(ROW, "dev").id == read_row({key: ROW[key] for key in ("question", "answer", "passage")}, "dev").id


@pytest.mark.parametrize("change", [{"passage": None}, {"passage": " "}, {"question": ""}, {"answer": 1}, {"answer": "maybe"}])
def test_a_bad_row_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"required .*; found "):
        read_row(ROW | change, "train")


def test_a_passage_that_is_repeated_answers_nothing() -> None:
    question = read_row(ROW, "dev")
    assert TASK.extract(question, question.text) is None
    assert TASK.extract(question, TASK.prompt(question)) is None
    assert TASK.extract(question, f"{question.text}\nIt says so. The answer is yes.") == "yes"
    assert TASK.same("Yes", "yes")
    assert not TASK.same("no", "yes")

"""SVAMP: a body, a question and one number."""

from __future__ import annotations

from typing import Any

import pytest

from magdi_ray.tasks.svamp import Svamp, read_row

TASK = Svamp()
ROW = {
    "ID": "chal-1",
    "Body": "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack",
    "Question": "How much do you have to pay to buy each pack?",
    "Equation": "( 76.0 - 25.0 )",
    "Answer": 51.0,
    "Type": "Subtraction",
}


@pytest.mark.parametrize(
    ("answer", "gold"),
    [(51.0, "51"), (3, "3"), (0.5, "0.5"), (-2.0, "-2"), ("51.0", "51"), ("1,200", "1200"), (None, None), (" ", None)],
)
def test_body_and_question_are_one_text_and_the_answer_a_number(answer: Any, gold: str | None) -> None:
    question = read_row(ROW | {"Answer": answer}, "ood")
    assert question.text == f"{ROW['Body']} {ROW['Question']}"
    assert (question.id, question.gold, question.split, question.solution) == ("chal-1", gold, "ood", None)


@pytest.mark.parametrize("change", [{"Body": ""}, {"Question": None}, {"Answer": True}, {"Answer": "about 3"}, {"Answer": [3]}])
def test_a_bad_row_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"required .*; found "):
        read_row(ROW | change, "train")


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), 1e300])
def test_what_is_no_plain_number_is_refused(answer: float) -> None:
    with pytest.raises(ValueError, match="required a number"):
        read_row(ROW | {"Answer": answer}, "train")


def test_answers_are_read_and_compared_as_those_of_gsm8k() -> None:
    question = read_row(ROW, "test")
    assert TASK.extract(question, "76 - 25 = 51. The answer is $51.00.") == "51"
    assert TASK.extract(question, question.text) is None
    assert TASK.same("51.0", "51")
    assert not TASK.same("52", "51")

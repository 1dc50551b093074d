"""The tiny task: reading and comparing answers, on replies no model should give and some do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.tiny import Tiny, compact
from magdi_ray.tiny.world import questions

TASK: Task = Tiny()
QUESTION = Question("q", "Kim has 8 figs. How many figs does Kim have?", gold="8")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("8 * 3 = 24 . answer 24", "24"),
        ("Answer: 24.", "24"),
        ("the answer is 007", "7"),
        ("answer 3 . no , answer 4", "4"),
        ("answer -5", "-5"),
        ("answer - 0", "0"),
        ("answer", None),
        ("answer none", None),
        ("answer 1.5", None),
        ("answer 1,200", None),
        ("answer 12th", None),
        ("answers 12", None),
        ("8 * 3 = 24", None),
        ("", None),
    ],
)
def test_only_a_stated_whole_number_is_an_answer(reply: str, answer: str | None) -> None:
    assert TASK.extract(QUESTION, reply) == answer


def test_an_answer_of_ten_thousand_digits_is_read_not_raised() -> None:
    assert TASK.extract(QUESTION, "answer " + "9" * 10_000) == "9" * 10_000


@given(st.text())
def test_reading_any_text_never_raises(text: str) -> None:
    answer = TASK.extract(QUESTION, text)
    assert answer is None or TASK.same(answer, TASK.extract(QUESTION, TASK.state(answer)))
    assert not TASK.same(text, None)
    TASK.reasoning(text)


@given(st.integers())
def test_a_stated_answer_is_read_back(number: int) -> None:
    assert TASK.same(TASK.extract(QUESTION, TASK.state(str(number))), str(number))


@pytest.mark.parametrize(("answer", "gold"), [("7", "007"), (" 7 ", "7"), ("-0", "0"), ("+7", "7")])
def test_one_number_in_two_spellings_is_the_same(answer: str, gold: str) -> None:
    assert TASK.same(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"), [(None, None), (None, "7"), ("7", None), ("7", "8"), ("", ""), ("seven", "seven"), ("7", "-7")]
)
def test_what_is_no_number_is_the_same_as_nothing(answer: str | None, gold: str | None) -> None:
    assert not TASK.same(answer, gold)


def test_reasoning_loses_the_closing_answer_only() -> None:
    assert TASK.reasoning("8 * 3 = 24 . answer 24") == "8 * 3 = 24 ."
    assert TASK.reasoning("answer 3 . but 8 * 3 = 24 . answer 24 .") == "answer 3 . but 8 * 3 = 24 ."
    assert TASK.reasoning("answer 24 . or more") == "answer 24 . or more"


def test_the_prompt_is_the_question_in_tiny_words() -> None:
    assert TASK.prompt(QUESTION) == "kim has 8 figs . how many figs does kim have ?"
    assert compact(TASK.prompt(QUESTION)) == TASK.prompt(QUESTION)


def test_the_solution_of_a_story_ends_before_its_answer() -> None:
    for question in questions("train", 20, seed=3):
        assert question.solution
        assert TASK.extract(question, question.solution) is None
        value = question.solution.split()[-2]
        assert TASK.same(value, question.gold)

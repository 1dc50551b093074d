"""AQuA-RAT: five options of which most are numbers, answered by letter or by value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.tasks.aqua import Aqua, read_row

TASK = Aqua()
ROW = {
    "question": "How many kilometres will P have walked?",
    "options": ["A)21", "B)21.5", "C)22 km", "D)2,250", "E)3:5"],
    "rationale": "P walks 1.15 * 20 = 23 km.\nThe answer is E.",
    "correct": "E",
}
QUESTION = read_row(ROW, "test")


def test_a_row_is_a_self_contained_question_with_its_rationale() -> None:
    options = "(A) 21\n(B) 21.5\n(C) 22 km\n(D) 2,250\n(E) 3:5"
    assert QUESTION.text == f"How many kilometres will P have walked?\n{options}"
    assert (QUESTION.gold, QUESTION.split) == ("E", "test")
    assert QUESTION.solution == "P walks 1.15 * 20 = 23 km."
    assert QUESTION.id.startswith("aqua-")


@pytest.mark.parametrize("mark", ["A)", "A )", "(A)", "A.", "a ) "])
def test_an_option_is_marked_in_any_of_the_usual_ways(mark: str) -> None:
    options = [mark.replace("A", x).replace("a", x.lower()) + f"{i}0" for i, x in enumerate("ABCDE", 1)]
    assert read_row(ROW | {"options": options}, "train").text.endswith("(D) 40\n(E) 50")


@pytest.mark.parametrize(
    "change",
    [
        {"options": ["A)1", "B)2"]},
        {"options": ["A)1", "C)2", "B)3", "D)4", "E)5"]},
        {"options": ["A)1", "B)", "C)3", "D)4", "E)5"]},
        {"options": "A)1 B)2"},
        {"options": None},
        {"correct": "F"},
        {"question": " "},
    ],
)
def test_a_bad_row_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"required .*; found "):
        read_row(ROW | change, "train")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("So the answer is (C).", "C"),
        ("The answer is 21.", "A"),
        ("The answer is 21.50 km.", "B"),
        (r"So it is $\boxed{22}$.", "C"),
        (r"The answer is $\frac{43}{2}$.", "B"),
        ("x = 20 + 2, so the answer is x = 22 km.", "C"),
        ("2250", "D"),
        ("The answer is 3:5.", "E"),
        ("The answer is (A) 22.", "A"),
    ],
)
def test_an_options_value_is_read_in_place_of_its_letter(reply: str, letter: str) -> None:
    assert TASK.extract(QUESTION, reply) == letter


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is 21.7.",
        "The answer is 1,210.",
        "The answer is -21.",
        "The answer is 21 or 22.",
        "The answer is not 21.",
        r"The answer is $\sqrt{21}$.",
        "The answer is 21 : 1.",
        "I cannot tell.",
        "",
        "We begin with 22 and go on for a while, with much more to say about it than that.",
    ],
)
def test_a_value_that_no_option_has_or_that_is_left_open_is_none(reply: str) -> None:
    assert TASK.extract(QUESTION, reply) is None


POSITIONS = read_row(ROW | {"options": ["A)2", "B)3", "C)4", "D)5", "E)21"]}, "test")


@pytest.mark.parametrize(
    "reply",
    [
        *("The answer is option 3.", "the 3rd option", "Option 2 is right", "The answer is number 4.", "There are 5 options."),
        *("more than 21", "The answer is at most 5.", "at most 5", "between 2 and 5", "3 or 4", "The answer is 2 + 3."),
        *(
            "I have 21 doubts",
            "21 is too small",
            "The wrong answer is 5.",
            "The answer is 3? No, 4.",
            "The answer is 3, no wait, 4.",
        ),
    ],
)
def test_a_position_a_bound_or_a_number_in_passing_is_no_value(reply: str) -> None:
    assert TASK.extract(POSITIONS, reply) is None


@pytest.mark.parametrize("reply", ["21", "21 km", "It is 21.", "x = 21", "**21**", "21 is the answer.", r"$\frac{42}{2}$"])
def test_a_reply_that_is_a_value_and_little_else_states_it(reply: str) -> None:
    assert TASK.extract(POSITIONS, reply) == "E"


def test_a_value_that_two_options_have_is_none() -> None:
    question = read_row(ROW | {"options": ["A)0.5", "B)1/2", "C)1", "D)2", "E)4"]}, "test")
    assert TASK.extract(question, "The answer is 0.5.") is None
    assert TASK.extract(question, "The answer is 4.0.") == "E"


def test_an_echo_of_the_question_or_the_prompt_answers_nothing() -> None:
    assert TASK.extract(QUESTION, QUESTION.text) is None
    assert TASK.extract(QUESTION, TASK.prompt(QUESTION)) is None


@given(st.text(alphabet="A(B)12.,:/%$\\{}=-#answer is boxedf", max_size=80))
def test_any_text_is_read_without_an_error(reply: str) -> None:
    assert TASK.extract(QUESTION, reply) in (None, *"ABCDE")

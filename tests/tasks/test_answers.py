"""Which number a text gives as its answer."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.tasks.answers import normal_form, read_number, same_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,200", "1200"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("-$5", "-5"),
        ("$18.50", "18.5"),
        ("$18.00", "18"),
        ("50%", "50"),
        ("1/2", "0.5"),
        ("1/3", "1/3"),
        (r"\frac{1}{2}", "0.5"),
        (r"-\dfrac{3}{4}", "-0.75"),
        ("1 and 1/2", "1.5"),
        ("1½", "1.5"),
        (r"\$1{,}200", "1200"),
        ("18 dollars.", "18"),
        ("5 m², or 5 km^2", "5"),
        ("1e3", "1000"),
        ("3,5", "5"),
    ],
)
def test_a_number_is_read_in_every_usual_spelling(text: str, number: str) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"It is 3. \boxed{18} and the answer is 7", "18"),
        (r"\boxed{4}, no: \boxed{18 \text{ dollars}}", "18"),
        ("#### 18\nThat was 3 steps", "18"),
        ("The answer is 18, out of 20.", "18"),
        ("answer: **18 dollars**", "18"),
        ("Answer:\n\n**18**", "18"),
        ("first 5\nA: 18", "18"),
        ("the answer is not 5 but 7", "7"),
        ("The answer isn't 5, it's 7.", "7"),
        ("The answer is 16 - 7 = 9 eggs.", "9"),
        ("She pays 3 and then 18 dollars", "18"),
        ("16-3", "3"),
        ("9*2 = $<<9*2=18>>18", "18"),
    ],
)
def test_a_box_goes_before_a_statement_and_a_statement_before_the_last_number(text: str, number: str) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "know", "I agree", "H2O", "2^10", "5/0", "it is not 5", r"\boxed{3d-70}", r"\boxed{160 \leq d \leq 230}", "9" * 5000],
)
def test_a_text_without_one_answer_has_none(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    "said",
    [
        *("5 or 6", "either 5 or 6", "5 dollars or 6 dollars", "10 to 20", "between 10 and 20", "10-20"),
        *("at least 5", "at most 5", "more than 21", "5 or more", "5 apples or more", "anything but 5", "not 5"),
        *("20 - 2", "$20 - $2", "20 dollars + 2 dollars", "3 + 4", "3*4", "3 x 4", "x + 5", "2x + 3", "18 = 9 * 2"),
        *(r"2\sqrt{3}", r"$\sqrt{3}$", r"5\pi", "2^10", "5!", "$5!$", "5! ways"),
    ],
)
def test_a_statement_that_is_open_or_not_worked_out_is_no_answer(said: str) -> None:
    assert read_number(f"There are 3. The answer is {said}.") is None


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("5 dollars or 500 cents", "5"),
        ("2 hours or 120 minutes", "2"),
        ("1/2 or 0.5", "0.5"),
        ("0.5 or 50%", "0.5"),
        ("$5 and 20 cents", "5"),
        ("5 - the number of eggs", "5"),
        ("2024-05-01", "2024"),
        ("20 - 2 = 18", "18"),
        ("18 (20 - 2)", "18"),
        ("5! = 120", "120"),
        ("13!", "13"),
        ("**13!**", "13"),
        ("5, no wait, 6", "6"),
    ],
)
def test_what_only_looks_open_is_an_answer(said: str, number: str) -> None:
    assert read_number(f"The answer is {said}") == number


@pytest.mark.parametrize(
    ("reply", "number"), [("5 or 6", None), ("at least 5", None), ("16 - 3", "3"), ("She needs at least 5.", "5")]
)
def test_without_a_statement_only_a_bare_reply_can_be_open(reply: str, number: str | None) -> None:
    assert read_number(reply) == number


def test_what_a_wrong_answer_is_does_not_count() -> None:
    assert read_number("The wrong answer is 5.") is None
    assert read_number("The wrong answer is 5.5, the right answer is 7.") == "7"


def test_an_answer_said_to_be_unknown_is_not_replaced_by_another_number() -> None:
    assert read_number("He has 5 apples. The answer cannot be determined.") is None
    assert read_number("He has 5 apples. The answer is unknown.") is None


def test_numbers_are_equal_by_value_and_never_nearly() -> None:
    assert same_number("18", "18.00")
    assert same_number("1/2", "0.5")
    assert same_number("1,200", "1200")
    assert not same_number("18", "18.0000001")
    assert not same_number("0.333333", "1/3")


def test_a_percentage_is_the_number_before_its_sign() -> None:
    assert same_number("50%", "50")
    assert not same_number("50%", "0.5")


def test_no_answer_equals_nothing_not_even_itself() -> None:
    assert not same_number(None, None)
    assert not same_number("know", "know")


@given(st.lists(st.sampled_from([*"0123456789.,-/$%={}\\ \nabx^", "\\boxed{", "answer is ", "\\frac{"])).map("".join))
def test_reading_never_raises_and_is_stable(text: str) -> None:
    number = read_number(text)
    assert number is None or read_number(number) == number


@given(st.text())
def test_any_unicode_can_be_read(text: str) -> None:
    read_number(text)


@given(st.fractions(max_denominator=10_000).filter(lambda value: abs(value) < 10**9))
def test_a_normal_form_reads_back_as_its_value(value: Fraction) -> None:
    assert read_number(f"The answer is {normal_form(value)}.") == normal_form(value)
    assert "." in normal_form(value) or Fraction(normal_form(value)) == value


@pytest.mark.parametrize(
    "piece",
    [
        "The answer is 1. ",
        r"\boxed{ answer is ",
        "1,111",
        " ",
        "1 and ",
        r"\frac{",
        "answer is 5 or ",
        "5! ",
        "not ",
        "wrong answer is ",
    ],
)
def test_a_long_text_is_read_in_linear_time(piece: str) -> None:
    read_number(piece * 20_000)

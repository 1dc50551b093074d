"""Reading a reply: its answer, its confidence, and nothing that it does not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reading import read_turn, split_confidence
from magdi_ray.debate.transcript import Ask, Turn
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTION = Question("q", "Janet has 16 eggs. How many?", "18")


def turn(text: str, *, confidence: float | None = None) -> Turn:
    reply = Reply(text, 7, 9, confidence=confidence, finish_reason="stop", model="m")
    return read_turn(Gsm8k(), QUESTION, Ask("ann", 1, (), shown=(0,)), reply)


@pytest.mark.parametrize(
    ("statement", "confidence"),
    [
        ("Confidence: 0.8", 0.8),
        ("confidence level is 80%", 0.8),
        ("My confidence is 1.0.", 1.0),
        ("**Confidence:** 0.9", 0.9),
        ('"confidence_level": "0.75"', 0.75),
        ("(confidence 0)", 0.0),
    ],
)
def test_a_stated_confidence_is_taken_out_of_the_text(statement: str, confidence: float) -> None:
    split = split_confidence(f"The answer is 18.\n{statement}")
    assert split.confidence == confidence
    assert split.text.startswith("The answer is 18.")
    assert not any(digit in split.text.replace("18", "") for digit in "0123456789")


@pytest.mark.parametrize(
    ("statement", "confidence"),
    [
        ("85", 0.85),
        ("9/10", 0.9),
        ("1/10", 0.1),
        ("0.5/1", 0.5),
        ("8 out of 10", 0.8),
        ("high (90)", 0.9),
        ("7", None),
        ("140", None),
    ],
)
def test_a_confidence_on_any_scale_is_never_read_as_the_answer(statement: str, confidence: float | None) -> None:
    split = split_confidence(f"9 * 2 = 18 dollars.\nConfidence: {statement}")
    assert split.text == "9 * 2 = 18 dollars."
    assert split.confidence == confidence


@pytest.mark.parametrize("text", ["", "I am confident.", "Confidence: high", "He sold 20% of 50."])
def test_what_is_no_confidence_is_left_alone(text: str) -> None:
    split = split_confidence(text)
    assert split.confidence is None
    assert split.text == text


def test_the_last_of_several_confidences_counts() -> None:
    assert split_confidence("Confidence: 0.2. No.\nConfidence: 0.9").confidence == 0.9


def test_a_confidence_is_never_read_as_the_answer() -> None:
    read = turn("I cannot say.\nConfidence: 0.8")
    assert (read.answer, read.status, read.confidence) == (None, "unparsed", 0.8)


def test_a_turn_keeps_the_reply_as_it_came() -> None:
    read = turn("It is 18.\nConfidence: 0.8")
    assert (read.text, read.answer, read.status) == ("It is 18.\nConfidence: 0.8", "18", "ok")
    assert (read.agent, read.round, read.shown, read.model) == ("ann", 1, (0,), "m")
    assert (read.tokens_in, read.tokens_out) == (7, 9)


def test_a_stated_confidence_goes_before_the_engines() -> None:
    stated, silent = turn("18\nConfidence: 0.8", confidence=0.3), turn("18", confidence=0.3)
    assert (stated.confidence, stated.confidence_source) == (0.8, "stated")
    assert (silent.confidence, silent.confidence_source) == (0.3, "token_probability")


def test_no_confidence_anywhere_is_none() -> None:
    assert (turn("18").confidence, turn("18").confidence_source) == (None, "none")


def test_an_empty_reply_never_takes_a_number_of_the_question() -> None:
    assert turn("").answer is None
    assert turn("").status == "unparsed"


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    read = turn(text)
    assert (read.status == "unparsed") == (read.answer is None)

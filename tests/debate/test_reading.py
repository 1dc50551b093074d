"""Reading a reply: its answer, its confidence, and nothing that it does not say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magdi_ray.agents.base import Message, Reply
from magdi_ray.debate.reading import REPAIR, merge_repair, read_turn, repair_messages, split_confidence
from magdi_ray.debate.transcript import Ask, Turn
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTION = Question("q", "Janet has 16 eggs. How many?", "18")


def said(text: str, *, confidence: float | None = None) -> Reply:
    return Reply(text, 7, 9, confidence=confidence, finish_reason="stop", model="m")


def turn(text: str, *, confidence: float | None = None) -> Turn:
    return read_turn(Gsm8k(), QUESTION, Ask("ann", 1, (), shown=(0,), role="critic"), said(text, confidence=confidence))


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
    assert (read.agent, read.round, read.shown, read.model, read.role) == ("ann", 1, (0,), "m", "critic")
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


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    read = turn(text)
    assert (read.status == "unparsed") == (read.answer is None)


def test_a_structured_reply_becomes_prose_that_reads_the_same() -> None:
    read = turn('```json\n{"reasoning": ["16 - 7 = 9", "9 * 2 = 18"], "answer": "$18.00", "confidence": "90%"}\n```')
    assert read.text == "16 - 7 = 9\n9 * 2 = 18\nThe answer is 18.\nConfidence: 0.9"
    assert (read.answer, read.confidence, read.confidence_source) == ("18", 0.9, "stated")
    plain = turn(read.text)
    assert (plain.text, plain.answer, plain.confidence) == (read.text, read.answer, read.confidence)
    assert Gsm8k().reasoning(split_confidence(read.text).text) == "16 - 7 = 9\n9 * 2 = 18"


@pytest.mark.parametrize(
    ("written", "confidence"),
    [("0.8", 0.8), ('"0.8"', 0.8), ('"80%"', 0.8), ('"8/10"', 0.8), ("85", 0.85), ("1e-05", 0.0), ("0", 0.0)],
)
def test_a_confidence_field_is_read_on_any_scale(written: str, confidence: float) -> None:
    read = turn(f'{{"answer": 18, "confidence": {written}}}', confidence=0.3)
    assert (read.confidence, read.confidence_source) == (confidence, "stated")


@pytest.mark.parametrize("written", ["7", "140", '"high"', "null", "-1", "NaN", "[]", "true"])
def test_a_confidence_field_that_says_nothing_is_not_stated(written: str) -> None:
    read = turn(f'{{"answer": 18, "confidence": {written}}}', confidence=0.3)
    assert (read.text, read.confidence, read.confidence_source) == ("The answer is 18.", 0.3, "token_probability")


@pytest.mark.parametrize("answer", ['"I do not know"', '"unknown"', "null", '"17 or 18 \\\\boxed{17 to 18}"'])
def test_an_answer_field_that_cannot_be_read_is_no_answer(answer: str) -> None:
    read = turn(f'{{"reasoning": "9 * 2 = 18", "answer": {answer}}}')
    assert (read.answer, read.status) == (None, "unparsed")
    assert read.text.startswith("9 * 2 = 18")
    assert "The answer is" not in read.text


def test_a_structured_reply_that_was_cut_off_takes_no_number_of_its_reasoning() -> None:
    assert turn('{"reasoning": "16 - 7 = 9 and 9 * 2').answer is None
    assert turn('{"reasoning": "9 * 2 = 18", "answer": 1').answer is None


def test_a_repair_asks_again_in_the_same_conversation() -> None:
    ask = Ask("ann", 0, (Message("user", "How many?"),))
    assert repair_messages(ask.messages, said("Hm.")) == (*ask.messages, Message("assistant", "Hm."), Message("user", REPAIR))


def test_a_repair_of_an_empty_reply_quotes_no_empty_message() -> None:
    [message] = repair_messages((Message("user", "How many?"),), said(" "))
    assert message == Message("user", f"How many?\n\n{REPAIR}")


def test_a_repaired_reply_has_the_first_ones_reasoning_and_the_seconds_answer() -> None:
    merged = merge_repair(said("9 * 2, let me see."), said("The answer is 18."))
    assert (merged.text, merged.tokens_in, merged.tokens_out) == ("9 * 2, let me see.\nThe answer is 18.", 14, 18)
    assert turn(merged.text).answer == "18"
    assert merge_repair(said(""), said("18")).text == "18"


@pytest.mark.parametrize("first", ['{"reasoning": "9 * 2", "answer": "dunno"}', "9 * 2"])
@pytest.mark.parametrize(
    "second", ['{"reasoning": "As above.", "answer": "18", "confidence": 0.9}', "The answer is 18.\nConfidence: 0.9"]
)
def test_repairs_mix_structured_and_plain_replies(first: str, second: str) -> None:
    read = turn(merge_repair(said(first), said(second)).text)
    assert (read.text, read.answer, read.confidence) == ("9 * 2\nThe answer is 18.\nConfidence: 0.9", "18", 0.9)

"""Letters, yes and no in free text: read where they are stated, never guessed."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from magdi_ray.tasks.choices import (
    answer_of,
    lettered,
    normal_letter,
    normal_yes_no,
    options_of,
    read_letter,
    read_yes_no,
    stem_of,
)

OPTIONS = ("bank", "library", "department store", "mall", "new york")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is (A).", "A"),
        ("Answer:\n\n**C**", "C"),
        ("c", "C"),
        ("(c)", "C"),
        ("C. department store", "C"),
        ("(C) It is large.", "C"),
        ("#### D", "D"),
        ("The final answer is $\\boxed{\\text{(C)}}$.", "C"),
        ('{"reasoning": "x", "answer": "C"}', "C"),
        ("The correct answer is B, because A is too big.", "B"),
        ("The answer is (B). I choose this because A is too big.", "B"),
        ("I would go with option D", "D"),
        ("Therefore, option B is the more plausible answer.", "B"),
        ("(A) is more plausible, as it is near.", "A"),
        ("Let me think.\nIt needs security.\nB", "B"),
        ("It is large.\n\n**C) department store**", "C"),
        ("The correct answer is:\n\n**B) library**\n\nBecause A is wrong.", "B"),
        ("So D is the correct one.", "D"),
        ("A bank is safe. The answer must be a place. So the answer is (E).", "E"),
    ],
)
def test_a_stated_letter_is_read(reply: str, letter: str) -> None:
    assert read_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is not A but C.", "C"),
        ("The answer is B (not A).", "B"),
        ("The answer is B rather than A.", "B"),
        ("First I think the answer is A. No wait, the answer is B.", "B"),
        ("The answer is A. Actually the answer is not A.", None),
        ("Option B is not the best answer.", None),
        ("Neither A nor B is the correct answer.", None),
        ("If option A is the correct answer, then we would see money.", None),
        ("Option A is not relevant, as a shop needs no security.", None),
        ("The answer is not a library.", None),
        ("The answer is anything but (A).", None),
        ("The answer is except A", None),
        ("The answer is everything except a library.", None),
        ("The answer is other than A.", None),
        ("The wrong answer is (A).", None),
        ("(A) is the wrong answer.", None),
        ("The wrong answer is A, the right answer is B.", "B"),
        ("The least likely answer is (A).", None),
        ("The answer is (A)? No, (B).", None),
        ("The answer is B, right?", "B"),
        ("The answer is (A), no wait, (B).", "B"),
        ("The answer is (A), wait, that is wrong.", None),
        ("The answer is (A). No, (B).", "B"),
        ("The answer is (A). Wait, that is wrong.", None),
        ("The answer is (B). Actually, banks use them too.", "B"),
        ("The answer is A if it is large, otherwise B.", None),
    ],
)
def test_what_is_denied_does_not_count_and_the_last_statement_wins(reply: str, letter: str | None) -> None:
    assert read_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n ",
        "Answer",
        "I don't know.",
        "A revolving door is used in many places.",
        "A and B are both possible.",
        "The answer is A or B.",
        "The answer is either (A) or (C).",
        "The answer is (C) and (E).",
        "(A) is wrong. (B) is wrong.",
        "(A) bank\n(B) library",
        "The answer cannot be determined.",
        "The answer is (Z).",
        "The answer is 42.",
        "The answer is none of the above.",
        "Vitamin C is the best choice for health, as nobody here will deny, whatever they know of it.",
        "A bank and a library are safe, but many doors revolve in the mall and we know little about the others.",
    ],
)
def test_several_letters_or_none_are_no_answer(reply: str) -> None:
    assert read_letter(reply, OPTIONS) is None


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("bank", "A"),
        ("A bank", "A"),
        ("The answer is A bank", "A"),
        ("The answer is A department store.", "C"),
        ("The answer is most likely a bank.", "A"),
        ("store", None),
        ("It is not a bank.", None),
        ("A bank or a library.", None),
    ],
)
def test_an_options_text_counts_where_exactly_one_is_stated(reply: str, letter: str | None) -> None:
    assert read_letter(reply, OPTIONS) == letter


def test_two_options_of_one_text_are_told_apart_by_letter_only() -> None:
    assert read_letter("The answer is bent.", ("bent", "bent", "crooked")) is None
    assert read_letter("The answer is (B) bent.", ("bent", "bent", "crooked")) == "B"


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Yes, they do.", "yes"),
        ("No, it floats. So the answer is yes.", "yes"),
        ("The answer is yes. Wait, the answer is no.", "no"),
        ("The answer is not yes but no.", "no"),
        ("The answer is no, a pear would float.", "no"),
        ("The answer (yes or no) is yes.", "yes"),
        ('{"answer": "no"}', "no"),
        ("It floats. So, no.", "no"),
        ("The answer is yes? No.", "no"),
        ("Yes, but actually no.", "no"),
        ("The answer is yes, actually no.", "no"),
        ("The answer is yes. No, wait, no.", "no"),
        ("The answer is no. No evidence exists.", "no"),
        ("The answer is no. No, pears float.", "no"),
        ("The answer is no, actually.", "no"),
    ],
)
def test_a_stated_yes_or_no_is_read(reply: str, word: str) -> None:
    assert read_yes_no(reply) == word


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I know it.",
        "Nobody said nothing.",
        "There is no evidence.",
        "No evidence exists.",
        "The answer is no one knows.",
        "Yes or no? Hard to say.",
        "The answer is not a simple yes or no.",
        "So the answer is yes and no, depending on it.",
        "The answer is not yes.",
        "Yes, some do. No, others do not.",
        "The answer is unclear, no doubt.",
        "The wrong answer is yes.",
        "The answer is anything but yes.",
        "The answer is yes if it rains, otherwise no.",
        "The answer is yes, unless it is rotten, then no.",
        "Yes if it rains, otherwise no.",
        "No, yes would be wrong.",
    ],
)
def test_a_no_that_is_no_answer_is_none(reply: str) -> None:
    assert read_yes_no(reply) is None


def test_a_question_carries_its_options() -> None:
    text = lettered(" Where? ", OPTIONS)
    assert text == "Where?\n(A) bank\n(B) library\n(C) department store\n(D) mall\n(E) new york"
    assert options_of(text) == OPTIONS
    assert options_of("Where?\nAnswer Choices: (A) bank (B) library") == ("bank", "library")
    assert stem_of("Where?\nAnswer Choices: (A) bank (B) library") == stem_of(text) == "Where?"
    assert options_of("Plan (A) or (C)?") == options_of("None") == ()


def test_an_echo_of_the_question_is_no_answer() -> None:
    question = lettered("What is the answer?", OPTIONS)
    assert answer_of(question, question) is None
    assert answer_of(question, f"{question}\nThe answer is (B).") == "B"


def test_normal_forms() -> None:
    assert [normal_letter(text) for text in ("(c)", "C.", " c ", "CD", "", None)] == ["C", "C", "C", None, None, None]
    assert [normal_yes_no(text) for text in ("Yes", "no.", "None", None)] == ["yes", "no", None, None]


def test_reading_is_total_and_linear_on_noise() -> None:
    parts = [
        "answer",
        " is ",
        "(A)",
        "A",
        "no",
        "yes",
        "not ",
        "\\boxed{",
        "}",
        "**",
        "\n",
        ".",
        "Option ",
        " or ",
        "?",
        "'",
        "\u2028",
    ]
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(parts, k=draw.randrange(40)))
        assert read_letter(text, OPTIONS) in {None, *"ABCDE"}
        assert read_yes_no(text) in {None, "yes", "no"}
    began = time.perf_counter()
    for text in (
        " " * 50_000,
        "\n" * 50_000,
        "answer " * 10_000,
        "Option A " * 10_000,
        "\\boxed{" * 10_000,
        "not " * 20_000,
        "wait " * 10_000,
    ):
        read_letter(text, OPTIONS)
        read_yes_no(text)
    assert time.perf_counter() - began < 20


def test_statements_in_published_explanations_agree_with_the_publishers_own_reading(data_dir: Path) -> None:
    agreed = read = 0
    for file in (data_dir / "debates" / "ford" / "debate_chatgpt_davinci" / "round0").glob("csqa_*.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            for message, parsed in zip(row["R"][2:], row["P"][2:], strict=True):
                answer = answer_of(lettered(row["Q"], options_of(row["O"])), message["content"])
                read += answer is not None and parsed != "None"
                agreed += answer is not None and answer == normal_letter(parsed)
    # In the other three the text is explicit ("option (A) compliance is the most plausible answer", parsed as C).
    assert (agreed, read) == (252, 255)

"""ARC-Challenge: its rows in every published shape, and options labelled by numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config.sections import FileTask
from magdi_ray.tasks.arc import Arc, read_row
from magdi_ray.tasks.load import load_questions

TASK = Arc()
TEXTS = ["fog", "rain", "drought", "tornado", "hail"]


def nested(labels: str, answer: Any = "") -> dict[str, Any]:
    choices = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False)]
    return {"id": "a1", "question": {"stem": "What results?", "choices": choices}, "answerKey": answer}


def flat(labels: str, answer: Any = "") -> dict[str, Any]:
    choices = {"text": TEXTS[: len(labels)], "label": list(labels)}
    return {"id": "a1", "question": "What results?", "choices": choices, "answerKey": answer}


@pytest.mark.parametrize("shape", [nested, flat])
@pytest.mark.parametrize(
    ("labels", "answer", "gold"),
    [("ABCD", "C", "C"), ("ABC", "A", "A"), ("ABCDE", "E", "E"), ("1234", "4", "D"), ("123", "1", "A"), ("ABCD", None, None)],
)
def test_every_shape_of_a_row_gives_the_same_question(shape: Any, labels: str, answer: str | None, gold: str | None) -> None:
    question = read_row(shape(labels, answer), "test")
    lines = [f"({letter}) {text}" for letter, text in zip("ABCDE", TEXTS[: len(labels)], strict=False)]
    assert question.text == "\n".join(["What results?", *lines])
    assert (question.id, question.gold, question.split, question.solution) == ("a1", gold, "test", None)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (nested("ABCD", "E"), "'E'"),
        (nested("ABCD", "1"), "'1'"),
        (nested("1234", "A"), "'A'"),
        (nested("AB", "A"), "choices"),
        (nested("ACBD", "A"), "choices"),
        (flat("A1B2", "A"), "choices"),
        ({"question": "What?", "answerKey": "A"}, "None"),
        ({"question": {"stem": " "}}, "' '"),
    ],
)
def test_a_bad_row_is_refused_in_words(row: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=r"required .*; found ") as error:
        read_row(row, "train")
    assert found in str(error.value)


def test_a_letter_or_the_options_text_is_an_answer_and_one_that_no_option_has_is_none() -> None:
    question = read_row(nested("123", "3"), "test")
    assert TASK.extract(question, "It stays dry. The answer is (C).") == "C"
    assert TASK.extract(question, "The answer is drought.") == "C"
    assert TASK.extract(question, "The answer is (D).") is None
    assert TASK.extract(question, TASK.prompt(question)) is None


@pytest.mark.parametrize(
    ("name", "count", "not_four"), [("ARC-Challenge-Dev", 299, 4), ("ARC-Challenge-Test", 1172, 7), ("train", 1055, 2)]
)
def test_all_published_questions_are_read(data_dir: Path, name: str, count: int, not_four: int) -> None:
    path = data_dir / "arc_challenge" / f"{name}.jsonl"
    questions = load_questions(FileTask(name="arc", path=str(path), bad_rows="skip"))
    assert len(questions) == count
    assert sum("\n(D) " not in q.text or "\n(E) " in q.text for q in questions) == not_four
    assert all(q.gold in tuple("ABCDE") for q in questions)

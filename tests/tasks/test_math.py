r"""MATH: its published rows, its prompt, its answers and what is left of a reply without them."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question, Task, group_same

pytest.importorskip("math_verify")
from magdi_ray.tasks.math import Math, read_row

TASK: Task = Math()
QUESTION = Question("q", "What is the positive root of $4x^2 = 1$?", r"\frac{1}{2}")
SOLUTION = r"We have $x = \pm\boxed{3}$; no, $x^2 = \frac14$, so $x = \boxed{\dfrac{1}{2}}$."
PUBLISHED = {"problem": "What is $x$?", "level": "Level 1", "type": "Algebra", "solution": SOLUTION}


@pytest.mark.parametrize(
    ("row", "named", "gold", "solution"),
    [
        (PUBLISHED, None, r"\frac{1}{2}", SOLUTION),
        (
            {**PUBLISHED, "answer": r"\frac12", "subject": "Algebra", "unique_id": "test/a/1.json"},
            "test/a/1.json",
            r"\frac{1}{2}",
            SOLUTION,
        ),
        ({"id": 7, "question": "What is $x$?", "answer": r"4319 \text{ dollars}", "type": "Algebra"}, "7", "4319", None),
        ({"id": 0, "question": "Which?", "answer": ""}, "0", None, None),
        ({"id": "x", "problem": "What?", "answer": 5}, "x", "5", None),
        ({"problem": "What is $x$?"}, None, None, None),
    ],
)
def test_every_published_layout_is_read(row: dict[str, Any], named: str | None, gold: str | None, solution: str | None) -> None:
    question = read_row(row, "test")
    assert (question.gold, question.solution, question.split) == (gold, solution, "test")
    assert question.id == named or (named is None and question.id.startswith("math-"))
    assert question.text == row.get("problem", row.get("question"))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({}, '"problem"; found None'),
        ({"problem": " ", "answer": "5"}, "' '"),
        ({"problem": "What?", "solution": "It is 5."}, "It is 5."),
        ({"problem": "What?", "solution": r"It is \boxed{5"}, "boxed"),
    ],
)
def test_a_bad_row_is_refused_in_words(row: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=r"required .*; found ") as error:
        read_row(row, "train")
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("reply", "reasoning"),
    [
        (r"We add. The answer is $\boxed{5}$.", "We add."),
        ("We add.\n\n**Answer:** $5$", "We add."),
        (r"We add. $$\boxed{\frac{1}{2}}$$", "We add."),
        ("We add.\n#### 5", "We add."),
        ("We add. So the answer is 5.\nThe final answer is $5$.", "We add."),
        ("We add. The answer is $(0, 1)$, $(2, 3)$ and $(4, 5)$.", "We add."),
        (
            "We add. The answer is 5, as every other number is too large.",
            "We add. The answer is 5, as every other number is too large.",
        ),
        (r"We add. So $x = \boxed{5}$.", r"We add. So $x = \boxed{5}$."),
        ("We add. The answer is 2 + 3 = 5.", "We add. The answer is 2 + 3 = 5."),
        (r"The answer is $\boxed{5}$.", ""),
        ("", ""),
    ],
)
def test_reasoning_is_the_reply_without_its_closing_statement(reply: str, reasoning: str) -> None:
    assert TASK.reasoning(reply) == reasoning


def test_the_prompt_holds_the_problem_asks_for_a_box_and_answers_nothing() -> None:
    prompt = TASK.prompt(QUESTION)
    assert QUESTION.text in prompt
    assert r"\boxed{}" in prompt
    assert TASK.extract(QUESTION, prompt) is TASK.extract(QUESTION, QUESTION.text) is None


@pytest.mark.parametrize(
    "piece",
    [
        "The answer is $1$. ",
        r"\boxed{ answer is ",
        "$",
        "$x",
        r"\(",
        "1,111",
        " ",
        r"\frac{",
        "? ",
        "a=",
        "{",
        "not $",
        r"not \boxed{{",
        "not $a$, ",
    ],
)
def test_a_long_text_is_read_in_linear_time(piece: str) -> None:
    began = time.perf_counter()
    TASK.extract(QUESTION, piece * 10_000)
    TASK.reasoning(piece * 10_000)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is not $5$.", None),
        ("The answer is $7$. The answer is not $5$.", None),
        ("The answer is not $5$ or $6$.", None),
        ("The answer is anything but $5$.", None),
        (r"It is not \boxed{6}.", None),
        (r"The answer is \boxed{5}, not \boxed{6}.", "5"),
        (r"The answer is not $\boxed{6}$ but $\boxed{7}$.", "7"),
        ("The answer is not $5$ but $7$.", "7"),
        ("The answer isn't $5$, it's $7$.", "7"),
        ("It is $7$, not $5$.", "7"),
        ("The answer is not prime.", "not prime"),
        ("The wrong answer is $5$. The answer is $6$.", "6"),
        ("The answer is $5$, no wait, $6$.", "6"),
        ("The answer is at least 5.", None),
        ("The answer is 2 pi.", r"2\pi"),
        ("The answer is about 2 million dollars.", "2000000"),
        (r"\boxed{2\text{ million}}", "2000000"),
        ("The answer is 6xy.", "6xy"),
    ],
)
def test_what_is_denied_taken_back_or_open_is_no_answer(reply: str, answer: str | None) -> None:
    assert TASK.extract(QUESTION, reply) == answer


def test_none_is_the_same_as_nothing() -> None:
    assert not TASK.same(None, None)
    assert not TASK.same("5", None)
    assert not TASK.same("", "")


def test_equivalent_answers_are_one_group() -> None:
    assert group_same(TASK, [r"\frac{1}{2}", "0.5", None, "2", r"\frac{2}{4}", "x=2"]) == [[0, 1, 4], [3, 5]]


def test_a_task_travels_to_workers_and_equals_itself() -> None:
    assert pickle.loads(pickle.dumps(TASK)) == TASK
    assert hash(Math()) == hash(TASK)


def test_a_task_that_cannot_compare_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="math-verify"):
        Math()


def published(data_dir: Path) -> list[tuple[dict[str, Any], Question]]:
    rows = json.loads((data_dir / "math" / "train_math_1000_20250414.json").read_text())["examples"]
    return [(row, read_row(row, "train")) for row in rows]


def test_every_published_gold_round_trips(data_dir: Path) -> None:
    rows = published(data_dir)
    assert [row["id"] for row, question in rows if question.gold is None] == [174, 499]
    for row, question in rows:
        if question.gold is not None:
            for reply in (
                TASK.state(question.gold),
                f"The answer is ${row['answer']}$.",
                f"{TASK.prompt(question)}\n\\boxed{{{row['answer']}}}",
            ):
                assert TASK.same(TASK.extract(question, reply), question.gold), (row["answer"], reply[-200:])
        assert TASK.extract(question, question.text) is None


def test_golds_of_other_problems_are_not_the_same(data_dir: Path) -> None:
    golds = [question.gold or "" for _, question in published(data_dir)]
    pairs = [(left, right) for left, right in zip(golds[:300], golds[300:600], strict=True) if left != right]
    assert [pair for pair in pairs if TASK.same(*pair)] == []

"""StrategyQA, CommonsenseQA and e-CARE: their published rows, their golds, their closing sentences."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.tasks import commonsenseqa, ecare, strategyqa
from magdi_ray.tasks.base import Question, Split, Task

STRATEGYQA = {"qid": "q1", "question": "Would a pear sink?", "answer": False}
COMMONSENSEQA = {
    "answerKey": "A",
    "id": "c1",
    "question": {"stem": "Where?", "choices": [{"label": x, "text": f"place {x}"} for x in "ABCDE"]},
}
ECQA = {
    "q_no": "e1",
    "q_text": "Where?",
    "q_ans": "two",
    **{f"q_op{i}": t for i, t in enumerate(["one", "two", "two", "six", "ten"], 1)},
}
ECARE = {"Q": "Otters swim. What was the cause?", "O": "(A) They eat. (B) They live.", "A": "(B)"}
ReadRow = Callable[[Mapping[str, Any], Split], Question]


@pytest.mark.parametrize(
    ("read_row", "row", "gold", "lines"),
    [
        (strategyqa.read_row, STRATEGYQA, "no", 1),
        (strategyqa.read_row, {"question": "Would it?", "answer": "Yes"}, "yes", 1),
        (strategyqa.read_row, {"question": "Would it?"}, None, 1),
        (commonsenseqa.read_row, COMMONSENSEQA, "A", 6),
        (commonsenseqa.read_row, {**COMMONSENSEQA, "answerKey": ""}, None, 6),
        (commonsenseqa.read_row, {"question": "Where?", "choices": {"label": [*"ABCDE"], "text": [*"vwxyz"]}}, None, 6),
        (commonsenseqa.read_row, ECQA, "B", 6),
        (ecare.read_row, ECARE, "B", 3),
        (ecare.read_row, {"Q": "Why?", "O": ECARE["O"]}, None, 3),
    ],
)
def test_a_published_row_is_a_self_contained_question(
    read_row: ReadRow, row: dict[str, Any], gold: str | None, lines: int
) -> None:
    question = read_row(row, "dev")
    assert (question.gold, question.split, len(question.text.splitlines())) == (gold, "dev", lines)
    assert question.id == (row.get("qid") or row.get("id") or row.get("q_no") or question.id)
    assert read_row(row, "test").id == question.id


@pytest.mark.parametrize(
    ("read_row", "row", "solution"),
    [
        (strategyqa.read_row, {**STRATEGYQA, "facts": ["Pears float. ", "So do figs."]}, "Pears float. So do figs."),
        (strategyqa.read_row, {**STRATEGYQA, "facts": []}, None),
        (strategyqa.read_row, {**STRATEGYQA, "facts": "Pears float."}, None),
        (commonsenseqa.read_row, {**ECQA, "taskB": "It is two.\nNot one.\n"}, "It is two.\nNot one."),
        (commonsenseqa.read_row, {**ECQA, "taskB": None}, None),
        (commonsenseqa.read_row, {**ECQA, "taskB": "half a pair \ud800"}, None),
        (commonsenseqa.read_row, COMMONSENSEQA, None),
        (ecare.read_row, ECARE, None),
    ],
)
def test_an_explanation_is_the_solution_only_where_one_was_published(
    read_row: ReadRow, row: dict[str, Any], solution: str | None
) -> None:
    assert read_row(row, "train").solution == solution


@pytest.mark.parametrize(
    ("read_row", "row", "found"),
    [
        (strategyqa.read_row, {**STRATEGYQA, "question": " "}, "' '"),
        (strategyqa.read_row, {**STRATEGYQA, "answer": "maybe"}, "'maybe'"),
        (strategyqa.read_row, {**STRATEGYQA, "answer": 1}, "found 1"),
        (commonsenseqa.read_row, {**COMMONSENSEQA, "answerKey": "F"}, "'F'"),
        (commonsenseqa.read_row, {"question": "Where?", "choices": "A"}, "'A'"),
        (commonsenseqa.read_row, {"question": {"stem": "Where?", "choices": [{"label": "A"}]}}, "label"),
        (commonsenseqa.read_row, {**ECQA, "q_ans": "three"}, "'three'"),
        (commonsenseqa.read_row, {**ECQA, "q_op3": ""}, "''"),
        (ecare.read_row, {**ECARE, "O": "None"}, "'None'"),
        (ecare.read_row, {**ECARE, "A": "(C)"}, "'(C)'"),
        (ecare.read_row, {}, "None"),
    ],
)
def test_a_bad_row_is_refused_in_words(read_row: ReadRow, row: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=r"required .*; found ") as error:
        read_row(row, "train")
    assert found in str(error.value)


def test_a_row_without_an_id_is_named_by_its_task_and_text() -> None:
    question = strategyqa.read_row({"question": "Would it?"}, "train")
    assert question.id.startswith("strategyqa-")
    assert len(question.id) == len("strategyqa-") + 12


def test_answers_are_the_same_in_any_spelling_and_none_is_nothing() -> None:
    letters, words = commonsenseqa.CommonsenseQa(), strategyqa.StrategyQa()
    assert letters.same("(c)", "C")
    assert words.same("Yes", "yes")
    assert not any(task.same(None, None) or task.same("x y", "x y") or task.same("A", None) for task in (letters, words))


@pytest.mark.parametrize(
    ("task", "reply", "reasoning"),
    [
        (commonsenseqa.CommonsenseQa(), "It is safe. So the answer is (C).", "It is safe."),
        (commonsenseqa.CommonsenseQa(), "The best answer is a place. The answer is (E) new york.", "The best answer is a place."),
        (commonsenseqa.CommonsenseQa(), "The answer is (C) because it is safe.", "The answer is (C) because it is safe."),
        (ecare.ECare(), "Think.\n#### B", "Think."),
        (strategyqa.StrategyQa(), "It floats.\n\n**Answer:** No", "It floats."),
        (strategyqa.StrategyQa(), "No, it floats.", "No, it floats."),
        (strategyqa.StrategyQa(), "The answer is no.", ""),
    ],
)
def test_reasoning_is_the_reply_without_its_closing_statement(task: Task, reply: str, reasoning: str) -> None:
    assert task.reasoning(reply) == reasoning


def test_a_prompt_holds_the_question_and_an_echo_of_it_answers_nothing() -> None:
    for task, row, read_row in (
        (strategyqa.StrategyQa(), STRATEGYQA, strategyqa.read_row),
        (commonsenseqa.CommonsenseQa(), COMMONSENSEQA, commonsenseqa.read_row),
        (ecare.ECare(), ECARE, ecare.read_row),
    ):
        question = read_row(row, "test")
        assert question.text in task.prompt(question)
        assert task.extract(question, task.prompt(question)) is None


def rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".json":
        yield from json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        yield from map(json.loads, path.read_text().splitlines())
    else:
        with path.open(newline="") as stream:
            yield from csv.DictReader(stream)


FORD = "debates/ford/debate_table_chatgpt_davinci_chagpt0301/round0"


@pytest.mark.parametrize(
    ("name", "read_row", "task", "count"),
    [
        ("strategyqa/train.json", strategyqa.read_row, strategyqa.StrategyQa(), 1601),
        ("strategyqa/dev.json", strategyqa.read_row, strategyqa.StrategyQa(), 229),
        ("commonsenseqa/train_rand_split.jsonl", commonsenseqa.read_row, commonsenseqa.CommonsenseQa(), 7718),
        ("commonsenseqa/dev_rand_split.jsonl", commonsenseqa.read_row, commonsenseqa.CommonsenseQa(), 1221),
        ("commonsenseqa/ecqa/cqa_data_val.csv", commonsenseqa.read_row, commonsenseqa.CommonsenseQa(), 1090),
        ("commonsenseqa/ecqa/cqa_data_test.csv", commonsenseqa.read_row, commonsenseqa.CommonsenseQa(), 2194),
        (f"{FORD}/ecare_agreed.jsonl", ecare.read_row, ecare.ECare(), 391),
        (f"{FORD}/ecare_candidate.jsonl", ecare.read_row, ecare.ECare(), 237),
    ],
)
def test_every_published_gold_round_trips(data_dir: Path, name: str, read_row: ReadRow, task: Task, count: int) -> None:
    questions = [read_row(row, "train") for row in rows(data_dir / name)]
    assert len({question.id for question in questions}) == count
    for question in questions:
        gold = question.gold or ""
        for reply in (task.state(gold), f"{task.prompt(question)}\n{task.state(gold)}"):
            assert task.same(task.extract(question, reply), gold)
        assert task.extract(question, question.text) is None


def test_ecqa_golds_are_those_of_commonsenseqa_where_both_have_the_question(data_dir: Path) -> None:
    known = {
        q.id: q for q in (commonsenseqa.read_row(row, "dev") for row in rows(data_dir / "commonsenseqa/dev_rand_split.jsonl"))
    }
    both = [
        q
        for q in (commonsenseqa.read_row(r, "dev") for r in rows(data_dir / "commonsenseqa/ecqa/cqa_data_test.csv"))
        if q.id in known
    ]
    assert both
    assert [q.id for q in both if known[q.id].gold != q.gold] == []

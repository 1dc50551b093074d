"""GSM8K: its file, its prompt and its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magdi_ray.config.sections import FileTask
from magdi_ray.errors import TaskError
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.gsm8k import Gsm8k, worked_solution
from magdi_ray.tasks.load import load_questions

TASK = Gsm8k()
QUESTION = Question("q", "Janet has 16 eggs and eats 3. How many are left?", "13")
VARIANTS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def load(path: Path, *, split: Split = "train", limit: int | None = None) -> list[Question]:
    if split == "train":
        return load_questions(FileTask(name="gsm8k", path=str(path), limit=limit))
    return load_questions(FileTask(name="gsm8k", test_path=str(path), test_limit=limit))


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_file_is_read_in_order_with_its_golds(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1+1 = <<1+1=2>>2\n#### 1,200"}, {"id": "x", "question": "b?", "answer": "#### -5"}]
    first, second = load(write(tmp_path / "q.jsonl", *rows), split="test")
    assert (first.text, first.gold, first.split) == ("a?", "1200", "test")
    assert (second.id, second.gold) == ("x", "-5")


@pytest.mark.parametrize(
    ("answer", "solution"),
    [
        ("She sells 9 * 2 = $<<9*2=18>>18.\nThat is all.\n#### 18", "She sells 9 * 2 = $18.\nThat is all."),
        ("2 < 3 < 4 and 4 > 3 > 2.\n#### 18", "2 < 3 < 4 and 4 > 3 > 2."),
        ("#### 18", None),
        ("18", None),
    ],
)
def test_the_solution_is_the_published_steps_without_calculator_notes_and_final_answer(answer: str, solution: str | None) -> None:
    assert worked_solution(answer) == solution


def test_a_question_without_an_id_is_named_by_its_text(tmp_path: Path) -> None:
    row = {"question": "a?", "answer": "#### 1"}
    [one] = load(write(tmp_path / "a.jsonl", row), split="train")
    [same] = load(write(tmp_path / "b.jsonl", row), split="test")
    assert one.id == same.id
    assert one.id.startswith("gsm8k-")
    assert len(one.id) == 18


def test_a_limit_takes_the_first_questions(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(5)]
    assert [q.gold for q in load(write(tmp_path / "q.jsonl", *rows), split="train", limit=2)] == ["0", "1"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", "one JSON object per line"),
        ("[1]", "a JSON object"),
        ('{"answer": "#### 1"}', '"question"'),
        ('{"question": "\\ud800?", "answer": "#### 1"}', '"question"'),
        ('{"question": "a?"}', "gold answer"),
        ('{"question": "a?", "answer": "18"}', "####"),
        ('{"question": "a?", "answer": "#### none"}', "####"),
        ('{"id": "x", "question": "a?", "answer": "#### 1"}', "also in line 1"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, complaint: str) -> None:
    path = write(tmp_path / "q.jsonl", {"id": "x", "question": "ok?", "answer": "#### 1"}, line)
    with pytest.raises(TaskError, match="line 2") as error:
        load(path, split="train")
    assert complaint in str(error.value)
    assert "To go on" in str(error.value)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="nothing at"):
        load(tmp_path / "none.jsonl", split="train")
    with pytest.raises(TaskError, match="empty"):
        load(write(tmp_path / "q.jsonl"), split="train")


def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question": "caf\xe9"}\n')
    with pytest.raises(TaskError, match="UTF-8"):
        load(tmp_path / "q.jsonl", split="train")


def test_an_empty_reply_has_no_answer_and_an_echo_of_the_question_neither() -> None:
    assert TASK.extract(QUESTION, "") is None
    assert TASK.extract(QUESTION, QUESTION.text) is None
    assert TASK.extract(QUESTION, f"{QUESTION.text} Thirteen, that is 13.") == "13"


@pytest.mark.parametrize(
    ("reply", "reasoning"),
    [
        ("16 - 3 = 13.\nThe answer is 13.", "16 - 3 = 13."),
        ("16 - 3 = 13. So the answer is 13.\n#### 13", "16 - 3 = 13."),
        ("Step.\n\n**Answer:** 13 eggs", "Step."),
        ("Step.\n$$\\boxed{13}$$", "Step."),
        ("Step.\nA: 13", "Step."),
        ("So she has $\\boxed{13}$ eggs.", "So she has $\\boxed{13}$ eggs."),
        ("All of this is reasoning, 13", "All of this is reasoning, 13"),
        ("The answer is 16 - 3 = 13.", "The answer is 16 - 3 = 13."),
        ("The answer is 13.", ""),
        ("", ""),
    ],
)
def test_reasoning_is_the_reply_without_its_closing_statement(reply: str, reasoning: str) -> None:
    assert TASK.reasoning(reply) == reasoning


def test_the_prompt_holds_the_question_and_says_how_to_answer() -> None:
    assert QUESTION.text in TASK.prompt(QUESTION)
    assert "The answer is" in TASK.prompt(QUESTION)


@pytest.mark.parametrize(("name", "count"), [("train", 7473), ("test", 1319)])
def test_every_published_gold_round_trips(data_dir: Path, name: str, count: int) -> None:
    questions = load(data_dir / "gsm8k" / f"{name}.jsonl", split="train")
    assert len(questions) == count
    for question in questions:
        assert question.solution
        assert "<<" not in question.solution
        assert "####" not in question.solution
        assert TASK.same(TASK.extract(question, TASK.state(question.gold or "")), question.gold)


def test_published_solutions_are_judged_as_published(data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "example_model_solutions.jsonl").open()]
    agreed = 0
    for row in rows:
        question = Question("q", row["question"])
        gold = TASK.extract(question, row["ground_truth"])
        for variant in VARIANTS:
            answer = TASK.extract(question, row[variant]["solution"])
            agreed += TASK.same(answer, gold) == row[variant]["is_correct"]
    assert agreed == 4 * len(rows) == 5276

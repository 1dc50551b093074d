"""The check of golds: what passes, what fails, what is only counted, and whose questions a file is taken for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.errors import TaskError
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.catalogue import CATALOGUE, KINDS
from magdi_ray.tasks.commonsenseqa import CommonsenseQa
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.load import MAKERS, READERS, TASKS
from magdi_ray.tasks.show import failure_lines
from magdi_ray.tasks.strategyqa import StrategyQa
from magdi_ray.tasks.verify import check_source, failure_of, other_answers, question_sources, recognise

LETTERED = Question("q", "Where?\n(A) here\n(B) there\n(C) nowhere", "B")
GSM8K = [{"id": f"q{i}", "question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(3)]
STRATEGYQA = [{"question": f"Is it {i}?", "answer": i == 0} for i in range(3)]
BOOLQ = [row | {"passage": "It is 0."} for row in STRATEGYQA]
FIVE = [{"label": letter, "text": f"place {letter}"} for letter in "ABCDE"]
NESTED = [{"id": "c", "question": {"stem": "Where?", "choices": FIVE}, "answerKey": "B"}]

EXCEPTIONS: dict[str, str] = {}
"""Published golds that need not come back, with the reason; docs/tasks.md lists them."""


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@dataclass(frozen=True, slots=True)
class Lax(Gsm8k):
    """Takes any two answers for the same."""

    def same(self, answer: str | None, gold: str | None) -> bool:
        return answer is not None and gold is not None


@dataclass(frozen=True, slots=True)
class Hasty(Gsm8k):
    """Reads the first number of a reply."""

    def extract(self, question: Question, reply: str) -> str | None:
        return next((word.strip(".:") for word in reply.split() if word.strip(".:").isdigit()), None)


def test_a_sound_gold_has_no_failure_and_a_broken_rule_is_named() -> None:
    question = Question("q", "1 + 2?", "3")
    assert failure_of(Gsm8k(), question, ["4"]) is None
    assert failure_of(StrategyQa(), Question("q", "Is it?", "yes"), ["no"]) is None
    lax, hasty = failure_of(Lax(), question, ["4"]), failure_of(Hasty(), question, ["4"])
    assert lax is not None
    assert (lax.rule, lax.read) == ("another answer is not the same", "4")
    assert hasty is not None
    assert (hasty.rule, hasty.read) == ("read the gold, in a reply", "1")


def test_a_letter_that_no_option_has_is_not_read_back() -> None:
    wrong = failure_of(CommonsenseQa(), Question("q", LETTERED.text, "E"), ["A"])
    assert wrong is not None
    assert (wrong.rule, wrong.gold, wrong.read) == ("read the gold, stated", "E", None)


@pytest.mark.parametrize(
    ("kind", "gold", "others"),
    [
        ("letter", "B", ["A", "C"]),
        ("yes or no", "no", ["yes"]),
        ("number", "-1.5", ["-0.5"]),
        ("number", "1/3", ["4/3"]),
        ("expression", "18", ["19"]),
        ("expression", "x^2", ["x^2+1"]),
    ],
)
def test_other_answers_are_near_the_gold_and_not_it(kind: Any, gold: str, others: list[str]) -> None:
    assert other_answers(kind, Question("q", LETTERED.text, gold)) == others


def test_rows_are_counted_as_what_they_are_and_only_unreadable_ones_fail(tmp_path: Path) -> None:
    rows = [*GSM8K, GSM8K[0], {"question": "no gold?"}, "", {"question": "bad?", "answer": "seven"}, "{oops"]
    report = check_source("gsm8k", str(write(tmp_path / "q.jsonl", rows)), limit=1)
    assert (report.rows, report.questions, report.failed) == (8, 3, 2)
    assert dict(report.left_out) == {"doubled": 1, "without a gold answer": 1, "empty": 1, "malformed": 2}
    assert [failure.question for failure in report.failures] == ["line 7"]
    assert "seven" in (report.failures[0].read or "")


def test_an_unreadable_row_is_named_by_its_line_or_its_file(tmp_path: Path) -> None:
    lines = check_source("gsm8k", str(write(tmp_path / "q.jsonl", [GSM8K[0], "{oops"])))
    assert failure_lines(lines, "q.jsonl")[0].startswith("q.jsonl, line 2: required one JSON object per line; found '{oops")
    for number, row in enumerate(({"problem": "1?", "solution": "\\boxed{1}"}, {"level": 2})):
        write(tmp_path / "math" / "algebra" / f"{number}.json", [row])
    [said] = failure_lines(check_source("math", str(tmp_path / "math")), "math")
    assert said.startswith("math, algebra/1.json: required ")


def test_progress_is_told_the_rows_read_so_far(tmp_path: Path) -> None:
    told: list[int] = []
    check_source("gsm8k", str(write(tmp_path / "q.jsonl", [GSM8K[0], "", GSM8K[1]])), progress=told.append)
    assert told == [1, 3]


@pytest.mark.parametrize(
    ("path", "rows", "task"),
    [
        ("a.jsonl", GSM8K, "gsm8k"),
        ("a.jsonl", STRATEGYQA, "strategyqa"),
        ("a.jsonl", BOOLQ, "boolq"),
        ("math/a.jsonl", GSM8K, "gsm8k"),
        ("strategy-qa/a.jsonl", BOOLQ, "strategyqa"),
        ("a.jsonl", NESTED, "commonsenseqa"),
        ("arc_challenge/a.jsonl", NESTED, "arc"),
        ("gsm8k/a.jsonl", NESTED, "commonsenseqa"),
        ("a.jsonl", [{"problem": "1+1?", "solution": "\\boxed{2}"}], "math"),
        ("a.jsonl", [{"problem": "What is $1+1$?", "answer": "2"}], "math"),
        ("a.jsonl", [{"question": "Half of 1?", "answer": "\\frac12"}], "math"),
        ("a.jsonl", [*GSM8K, "{oops", {"question": "1?", "answer": "x"}], "gsm8k"),
    ],
)
def test_a_file_is_recognised_by_its_rows_and_where_several_tasks_take_them_by_its_path(
    tmp_path: Path, path: str, rows: list[Any], task: str
) -> None:
    assert recognise(str(write(tmp_path / path, rows))).task == task


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "it is empty"),
        ([{"question": "1 + 1?", "ground_truth": "A: 2"}], "no gold answer of any task: question, ground_truth"),
        ([{"x": 1}], "its rows are those of no task: x"),
        (["{oops"], "those of no task: no fields"),
        ([{"question": "How many?", "answer": "It is 7."}], "not recognised; name it with --task"),
    ],
)
def test_a_file_of_no_task_is_told_why(tmp_path: Path, rows: list[Any], reason: str) -> None:
    found = recognise(str(write(tmp_path / "q.jsonl", rows)))
    assert found.task is None
    assert reason in found.reason


def test_a_directory_is_searched_for_files_saved_datasets_and_files_of_a_problem_each(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name in ("b/q.jsonl", "a.csv", "debates/q.jsonl", ".hidden/q.jsonl", "notes.txt"):
        write(tmp_path / name, GSM8K)
    datasets.Dataset.from_list(GSM8K).save_to_disk(str(tmp_path / "c"))
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(GSM8K)}).save_to_disk(str(tmp_path / "d"))
    for number in (1, 2):
        write(tmp_path / "e" / "algebra" / f"{number}.json", [{"problem": f"{number}?", "solution": "\\boxed{2}"}])
    found = [source.removeprefix(f"{tmp_path}/") for source in question_sources(tmp_path)]
    assert found == ["a.csv", "b/q.jsonl", "c", "d:dev", "e/algebra"]
    assert [Path(source).name for source in question_sources(tmp_path / "debates")] == ["q.jsonl"]
    with pytest.raises(TaskError, match="directory of question files"):
        list(question_sources(tmp_path / "none"))


def test_the_catalogue_holds_every_task_once() -> None:
    assert [entry.name for entry in CATALOGUE] == list(TASKS)
    assert set(KINDS) - set(MAKERS) == set(READERS)


def test_every_gold_of_the_published_files_comes_back(data_dir: Path) -> None:
    counts: dict[str, tuple[int, int]] = {}
    for source in question_sources(data_dir):
        if (found := recognise(source)).task is None:
            assert source.endswith("example_model_solutions.jsonl"), found.reason
            continue
        report = check_source(found.task, source)
        failed = {f"{Path(source).name} {failure.question}" for failure in report.failures}
        assert failed <= set(EXCEPTIONS), report.failures
        counts[source.removeprefix(f"{data_dir}/")] = (report.rows, report.questions)
    assert counts == {
        "arc_challenge/ARC-Challenge-Dev.jsonl": (299, 299),
        "arc_challenge/ARC-Challenge-Test.jsonl": (1172, 1172),
        "arc_challenge/train.jsonl": (1056, 1055),
        "commonsenseqa/dev_rand_split.jsonl": (1221, 1221),
        "commonsenseqa/ecqa/cqa_data_test.csv": (2194, 2194),
        "commonsenseqa/ecqa/cqa_data_val.csv": (1090, 1090),
        "commonsenseqa/train_rand_split.jsonl": (7718, 7718),
        "gsm8k/test.jsonl": (1319, 1319),
        "gsm8k/train.jsonl": (7473, 7473),
        "math/train_math_1000_20250414.json": (1000, 998),
        "strategyqa/dev.json": (229, 229),
        "strategyqa/train.json": (1601, 1600),
    }

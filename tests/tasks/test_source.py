"""Questions from anywhere: every kind of file gives the same questions, and a bad row is named by its line."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magdi_ray.config.sections import FileTask
from magdi_ray.errors import ConfigError, TaskError
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.checks import Digests, check_questions, checked, digest_of, text_digest
from magdi_ray.tasks.load import BadRow, iter_questions, load_questions
from magdi_ray.tasks.source import local_path, read_rows
from magdi_ray.tasks.store import count_stored, iter_stored, write_questions, write_splits

ROWS = [
    {"id": "q1", "question": 'Janet has 16 eggs\nand eats "3". How many?', "answer": "16 - 3 = 13\n#### 13"},
    {"id": "q2", "question": "How many legs have 2 cats, by sight?", "answer": "#### 8"},
]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_any(directory: Path, kind: str) -> Path:
    path = directory / f"questions.{kind}"
    match kind:
        case "jsonl":
            write_jsonl(path, ROWS)
        case "json":
            path.write_text(json.dumps(ROWS, indent=2))
        case "csv":
            write_csv(path, ROWS)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case "saved":
            pytest.importorskip("datasets").Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


def gsm8k(path: object, **settings: Any) -> FileTask:
    return FileTask(name="gsm8k", path=str(path), **settings)


def refusal(task: FileTask, **settings: Any) -> str:
    with pytest.raises(TaskError) as error:
        list(iter_questions(task, **settings))
    return str(error.value)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "saved"])
def test_every_kind_of_file_gives_the_same_questions(tmp_path: Path, kind: str) -> None:
    first, second = load_questions(gsm8k(write_any(tmp_path, kind)))
    assert (first.id, first.text, first.gold) == ("q1", ROWS[0]["question"], "13")
    assert (second.id, second.gold, second.split) == ("q2", "8", "train")


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("jsonl", ["line 1", "line 2"]),
        ("json", ["line 2", "line 7"]),
        ("csv", ["line 2", "line 5"]),
        ("parquet", ["row 1", "row 2"]),
        ("saved", ["row 1", "row 2"]),
    ],
)
def test_a_row_is_named_by_where_it_begins(tmp_path: Path, kind: str, places: list[str]) -> None:
    path = write_any(tmp_path, kind)
    assert [str(place) for place, _ in read_rows(str(path), split="train")] == [f"{path}, {place}" for place in places]


def test_columns_are_read_under_the_tasks_own_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "q.csv", [{"frage": "a?", "antwort": "#### 1", "nr": "7"}])
    columns = {"question": "frage", "answer": "antwort", "id": "nr"}
    [question] = load_questions(gsm8k(path, columns=columns))
    assert (question.id, question.text, question.gold) == ("7", "a?", "1")
    assert "required the columns ['fraeg']" in refusal(gsm8k(path, columns={"question": "fraeg"}))


def test_an_empty_field_of_a_csv_file_is_an_absent_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "q.csv", [{"id": "", "question": "a?", "answer": ""}])
    [question] = iter_questions(gsm8k(path), golds=False)
    assert question.id.startswith("gsm8k-")
    assert question.gold is None


def test_all_bad_rows_are_refused_at_once_by_fault_with_the_first_places(tmp_path: Path) -> None:
    same = {"id": "q1", "question": "new?", "answer": "#### 1"}
    text = {"question": "HOW many legs have 2 cats -- by sight", "answer": "#### 8"}
    path = write_jsonl(tmp_path / "q.jsonl", [*ROWS, same, text, "", "{oops", *[{"question": f"{i}?"} for i in range(7)], "", ""])
    said = refusal(gsm8k(path))
    assert "11 rows cannot be used" in said
    assert f"{path}, line 3: required an id that occurs once; found 'q1', also in line 1" in said
    assert f"{path}, line 4: required a question that occurs once" in said
    assert "1 empty:" in said
    assert "1 malformed:" in said
    assert "7 without a gold answer:" in said
    assert [f"line {line}:" in said for line in (7, 11, 12, 14)] == [True, True, False, False]
    assert "... and 2 more" in said
    assert "task.bad_rows=skip" in said


def test_skipped_rows_are_handed_over_with_place_and_reason(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [ROWS[0], ROWS[0], "", {"question": "no gold?"}, "[]", ROWS[1]])
    bad: list[BadRow] = []
    kept = list(iter_questions(gsm8k(path, bad_rows="skip"), skipped=bad.append))
    assert [question.id for question in kept] == ["q1", "q2"]
    found = [(row.place.number, row.fault) for row in bad]
    assert found == [(2, "doubled"), (3, "empty"), (4, "without a gold answer"), (5, "malformed")]
    assert all(row.reason.startswith("required") for row in bad)


def test_a_gold_answer_is_needed_where_it_labels_and_where_questions_are_held_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": "what is it?"}])
    assert [question.gold for question in iter_questions(gsm8k(path), golds=False)] == [None]
    assert "without a gold answer" in refusal(gsm8k(path))
    assert "without a gold answer" in refusal(FileTask(name="gsm8k", test_path=str(path)), golds=False)


def test_a_limit_counts_questions_and_reads_no_further(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [ROWS[0], "", ROWS[1], "{oops"])
    assert len(load_questions(gsm8k(path, bad_rows="skip", limit=2))) == 2
    assert "malformed" not in refusal(gsm8k(path, limit=2))


def test_a_sum_and_a_difference_of_the_same_numbers_are_two_questions(tmp_path: Path) -> None:
    rows = [{"question": f"What is 5 {sign} 3?", "answer": "#### 2"} for sign in "+-*/"]
    assert len(load_questions(gsm8k(write_jsonl(tmp_path / "q.jsonl", rows)))) == 4


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("q.json", '{"question": "a?"}', "JSON array"),
        ("q.json", '[{"question": "a?"} {"question": "b?"}]', "after line 1"),
        ("q.json", '[{"question": "a?"}', "where the array goes on or ends"),
        ("q.csv", 'question,answer\n"a?,#### 1\n', "unexpected end"),
        ("q.csv", "question,question\na?,b?\n", "twice"),
        ("q.csv", "question,answer\na?\n", "required 2 fields"),
        ("q.parquet", "no parquet", "required a .parquet file"),
        ("q.txt", "a?", "ends in one of .jsonl, .json, .csv, .parquet"),
        ("q.json", "[]", "is empty"),
        ("q.csv", "question,answer\n", "is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / name).write_text(content)
    said = refusal(gsm8k(tmp_path / name))
    assert complaint in said
    assert str(tmp_path / name) in said


def test_a_split_is_taken_from_a_saved_directory_by_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {"train": datasets.Dataset.from_list(ROWS[:1]), "validation": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    named = f"{tmp_path}/saved:validation"
    assert [q.id for q in load_questions(gsm8k(tmp_path / "saved"))] == ["q1"]
    assert [q.id for q in load_questions(FileTask(name="gsm8k", test_path=named))] == ["q2"]
    assert "it has train, validation" in refusal(FileTask(name="gsm8k", test_path=str(tmp_path / "saved")))
    assert local_path(named) == f"{tmp_path}/saved"
    (tmp_path / "other").mkdir()
    assert "save_to_disk" in refusal(gsm8k(tmp_path / "other"))


def test_a_hub_dataset_that_cannot_be_reached_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load(name: str, subset: str, split: str) -> Any:
        if name != "openai/gsm8k":
            raise ConnectionError("no way out")
        return datasets.Dataset.from_list([row | {"asked": f"{subset} {split}"} for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [q.id for q in load_questions(gsm8k("openai/gsm8k", subset="main"))] == ["q1", "q2"]
    [(_, row), _] = read_rows("openai/gsm8k:validation", split="test", subset="main")
    assert isinstance(row, dict)
    assert row["asked"] == "main validation"
    said = refusal(gsm8k("someone/else"))
    assert "no way out" in said
    assert "NAME:SPLIT" in said


def test_without_the_package_datasets_its_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r'pip install "magdi-ray\[datasets\]"'):
        list(read_rows("openai/gsm8k", split="train"))


def test_a_million_digests_are_found_again_in_little_memory() -> None:
    held = Digests()
    assert all(held.add(digest_of(str(number)), number) is None for number in range(100_000))
    assert [held.add(digest_of(str(number)), 0) for number in (0, 7, 99_999)] == [0, 7, 99_999]
    assert (len(held), digest_of("100000") in held, digest_of("5") in held) == (100_000, False, True)


def test_memory_does_not_grow_with_the_texts_of_the_questions(tmp_path: Path) -> None:
    with (tmp_path / "q.jsonl").open("w") as file:
        for number in range(2000):
            text = f"How much is {number} and {'x' * 4000}?"
            file.write(json.dumps({"question": text, "answer": f"#### {2 * number}"}) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in checked(iter_questions(gsm8k(tmp_path / "q.jsonl"))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2000
    assert peak < 1e6  # all texts take 8 MB


def test_stored_questions_are_counted_and_streamed_in_file_order(tmp_path: Path) -> None:
    questions = [Question("b", "b?", None, "train"), Question("a", "a?", "1", "test"), Question("c", "c?", "2", "train")]
    write_splits(tmp_path, questions)
    assert count_stored(tmp_path) == 3
    assert [question.id for question in iter_stored(tmp_path)] == ["a", "b", "c"]
    assert sorted(iter_stored(tmp_path), key=lambda q: q.id) == sorted(questions, key=lambda q: q.id)
    assert write_questions(tmp_path / "none.parquet", []) == 0


def test_questions_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(TaskError, match="no question"):
        check_questions([])
    with pytest.raises(TaskError, match="1 occur more than once, the first is 'q'"):
        check_questions([Question("q", "a?"), Question("q", "b?"), Question("q", "c?")])
    with pytest.raises(TaskError, match="1 held-out questions are also training questions, the first pair is 'q' and 't'"):
        check_questions([Question("q", "How many, then?"), Question("t", "how many then", split="test")])
    assert text_digest(Question("q", "A  b!")) == text_digest(Question("r", "a B"))

"""Every task reads its questions as their authors published them and as `datasets` writes them, nested columns included."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config.sections import FileTask
from magdi_ray.errors import TaskError
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import iter_questions

LETTERS = [{"label": letter, "text": f"place {letter}"} for letter in "ABCDE"]
FLAT = {"label": list("ABCDE"), "text": [f"place {letter}" for letter in "ABCDE"]}
NUMBERS = [{"label": number, "text": f"place {number}"} for number in "1234"]
OPTIONS = ["A)21", "B)21.5", "C)22", "D)22.5", "E)23"]
ECQA = {f"q_op{i}": f"place {i}" for i in range(1, 6)}

PUBLISHED: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "gsm8k": (
        "jsonl",
        [{"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}, {"question": "Many?", "answer": "#### 1,200"}],
        ["2", "1200"],
    ),
    "math": (
        "folder",
        [
            {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."},
            {"problem": "Half?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
        ],
        ["2", "\\frac{1}{2}"],
    ),
    "strategyqa": (
        "json",
        [
            {"qid": "s1", "term": "pear", "question": "Would a pear sink?", "answer": False, "facts": ["Pears float."]},
            {
                "qid": "s2",
                "term": "iron",
                "question": "Would iron sink?",
                "answer": True,
                "facts": [],
                "evidence": [[["a"], "b"]],
            },
        ],
        ["no", "yes"],
    ),
    "commonsenseqa": (
        "jsonl",
        [
            {"answerKey": "A", "id": "c1", "question": {"question_concept": "x", "choices": LETTERS, "stem": "Where?"}},
            {"answerKey": "E", "id": "c2", "question": {"question_concept": "x", "choices": LETTERS, "stem": "Where else?"}},
        ],
        ["A", "E"],
    ),
    "arc": (
        "jsonl",
        [
            {"id": "a1", "question": {"stem": "What?", "choices": LETTERS[:3]}, "answerKey": "C"},
            {"id": "a2", "question": {"stem": "How?", "choices": NUMBERS}, "answerKey": "4"},
        ],
        ["C", "D"],
    ),
    "boolq": (
        "jsonl",
        [
            {"question": "is it so", "title": "It", "answer": True, "passage": "It is so."},
            {"question": "is it not", "title": "It", "answer": False, "passage": "It is so."},
        ],
        ["yes", "no"],
    ),
    "svamp": (
        "json",
        [
            {"ID": "v1", "Body": "Tim has 3 figs.", "Question": "How many?", "Equation": "3.0", "Answer": 3.0, "Type": "Sum"},
            {"ID": "v2", "Body": "Kim has half a fig.", "Question": "How many?", "Equation": "0.5", "Answer": 0.5, "Type": "Sum"},
        ],
        ["3", "0.5"],
    ),
    "aqua": (
        "lines.json",
        [
            {"question": "How far?", "options": OPTIONS, "rationale": "So 23.\nThe answer is E.", "correct": "E"},
            {"question": "How near?", "options": OPTIONS, "rationale": "Obvious.", "correct": "A"},
        ],
        ["E", "A"],
    ),
    "ecare": (
        "jsonl",
        [
            {"Q": "It rains. What happened as a result?", "O": "(A) It is wet. (B) It is dry.", "A": "(A)", "P": ["None", "A"]},
            {"Q": "It snows. What happened as a result?", "O": "(A) It is hot. (B) It is white.", "A": "(B)", "P": ["None", "B"]},
        ],
        ["A", "B"],
    ),
}

HUB: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "gsm8k": PUBLISHED["gsm8k"][1:],
    "math": PUBLISHED["math"][1:],
    "strategyqa": (
        [
            {"qid": "s1", "question": "Would a pear sink?", "answer": False, "facts": ["Pears float.", "Figs too."]},
            {"qid": "s2", "question": "Would iron sink?", "answer": True, "facts": []},
        ],
        ["no", "yes"],
    ),
    "commonsenseqa": (
        [
            {"id": "c1", "question": "Where?", "question_concept": "x", "choices": FLAT, "answerKey": "A"},
            {"id": "c2", "question": "Where else?", "question_concept": "x", "choices": FLAT, "answerKey": "E"},
        ],
        ["A", "E"],
    ),
    "arc": (
        [
            {"id": "a1", "question": "What?", "choices": {key: held[:3] for key, held in FLAT.items()}, "answerKey": "C"},
            {"id": "a2", "question": "How?", "choices": {"label": list("1234"), "text": list("wxyz")}, "answerKey": "4"},
        ],
        ["C", "D"],
    ),
    "boolq": (
        [
            {"question": "is it so", "answer": True, "passage": "It is so."},
            {"question": "is it not", "answer": False, "passage": "It is so."},
        ],
        ["yes", "no"],
    ),
    "svamp": (
        [row | {"Answer": str(row["Answer"]), "question_concat": "..."} for row in PUBLISHED["svamp"][1]],
        PUBLISHED["svamp"][2],
    ),
    "aqua": PUBLISHED["aqua"][1:],
    "ecare": PUBLISHED["ecare"][1:],
}


def write(directory: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = directory / f"questions.{kind}"
    match kind:
        case "jsonl" | "lines.json":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "json":
            path.write_text(json.dumps(rows, indent=1))
        case "csv":
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        case "folder":
            for number, row in enumerate(rows, start=9):
                (path / "algebra").mkdir(parents=True, exist_ok=True)
                (path / "algebra" / f"{number}.json").write_text(json.dumps(row))
        case "saved":
            pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(path))
        case "parquet":
            pytest.importorskip("datasets").Dataset.from_list(rows).to_parquet(str(path))
    return path


def load(name: str, path: object) -> list[Question]:
    return list(iter_questions(FileTask.model_validate({"name": name, "path": str(path)})))


def test_every_task_of_files_is_among_these() -> None:
    names = set(FileTask.model_json_schema()["properties"]["name"]["enum"])
    assert names == set(PUBLISHED) == set(HUB)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_are_read(tmp_path: Path, name: str) -> None:
    kind, rows, golds = PUBLISHED[name]
    questions = load(name, write(tmp_path, kind, rows))
    assert [question.gold for question in questions] == golds


@pytest.mark.parametrize("kind", ["saved", "parquet"])
@pytest.mark.parametrize("name", HUB)
def test_what_datasets_writes_gives_the_same_questions(tmp_path: Path, name: str, kind: str) -> None:
    rows, golds = HUB[name]
    questions = load(name, write(tmp_path, kind, rows))
    assert [question.gold for question in questions] == golds
    kind, rows, _ = PUBLISHED[name]
    published = load(name, write(tmp_path, kind, rows))
    assert [question.id for question in published] == [question.id for question in questions]


@pytest.mark.parametrize("kind", ["csv", "saved", "parquet"])
def test_ecqa_is_read_as_commonsenseqa(tmp_path: Path, kind: str) -> None:
    row = {"": "0", "q_no": "e1", "q_concept": "x", "q_text": "Where?", **ECQA, "q_ans": "place 2", "taskB": "It is\nthere."}
    [question] = load("commonsenseqa", write(tmp_path, kind, [row]))
    assert (question.id, question.gold, question.solution) == ("e1", "B", "It is\nthere.")


@pytest.mark.parametrize("kind", ["saved", "parquet"])
@pytest.mark.parametrize(
    ("name", "row", "column", "names", "gold"),
    [
        ("commonsenseqa", HUB["commonsenseqa"][0][0], "answerKey", list("ABCDE"), "D"),
        ("boolq", HUB["boolq"][0][0], "answer", ["False", "x", "y", "True"], "yes"),
        ("strategyqa", HUB["strategyqa"][0][0], "answer", ["no", "x", "y", "yes"], "yes"),
    ],
)
def test_a_column_of_classes_is_read_by_their_names(
    tmp_path: Path, kind: str, name: str, row: dict[str, Any], column: str, names: list[str], gold: str
) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list([row | {column: 3}]).cast_column(column, datasets.ClassLabel(names=names))
    path = tmp_path / f"q.{kind}"
    if kind == "saved":
        made.save_to_disk(str(path))
    else:
        made.to_parquet(str(path))
    assert [question.gold for question in load(name, path)] == [gold]


@pytest.mark.parametrize(("name", "column"), [("commonsenseqa", "answerKey"), ("boolq", "answer"), ("strategyqa", "answer")])
def test_a_bare_number_for_a_letter_or_a_yes_is_refused(tmp_path: Path, name: str, column: str) -> None:
    row = HUB[name][0][0] | {column: 1}
    with pytest.raises(TaskError, match="found 1"):
        load(name, write(tmp_path, "parquet", [row]))


@pytest.mark.parametrize("held", ["examples", "data", "anything"])
def test_the_one_list_of_objects_in_a_json_object_holds_the_rows(tmp_path: Path, held: str) -> None:
    rows = PUBLISHED["gsm8k"][1]
    whole = {"metadata": {"names": ["a]"], "data": [{}]}, "empty": [], "notes": ["[", "}"], held: rows, "version": 2}
    (tmp_path / "q.json").write_text(json.dumps(whole, indent=1))
    assert [question.gold for question in load("gsm8k", tmp_path / "q.json")] == ["2", "1200"]


@pytest.mark.parametrize(
    "whole", [{"a": [{}], "b": [{}]}, {"a": []}, {"a": [{}, 1]}, {}, {"question": "1 + 1?", "answer": "#### 2"}]
)
def test_an_object_with_no_such_list_or_several_is_refused(tmp_path: Path, whole: Any) -> None:
    (tmp_path / "q.json").write_text(json.dumps(whole))
    with pytest.raises(TaskError, match=r"lists of objects.*instead of a JSON array"):
        load("gsm8k", tmp_path / "q.json")


def test_rows_within_an_object_are_named_by_their_lines(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(
        '{"metadata": 1,\n"data": [\n{"question": "1 + 1?", "answer": "#### 2"},\n{"question": " "}]}'
    )
    with pytest.raises(TaskError, match=r"q\.json, line 4: required a text"):
        load("gsm8k", tmp_path / "q.json")


def test_an_object_with_something_behind_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('{"data": [{"question": "1 + 1?", "answer": "#### 2"}]} ]')
    with pytest.raises(TaskError, match="behind the object"):
        load("gsm8k", tmp_path / "q.json")


def test_a_file_a_problem_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "folder", PUBLISHED["math"][1])
    (path / "algebra" / "10.json").write_bytes(b'{"problem": "caf\xe9"}')
    with pytest.raises(TaskError, match=r"algebra/10\.json, file 2: required a text"):
        load("math", path)

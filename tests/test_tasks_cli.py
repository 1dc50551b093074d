"""`magdi tasks`: what is printed, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from magdi_ray.cli.tasks import tasks_app
from magdi_ray.errors import TaskError
from magdi_ray.tasks.load import TASKS

GSM8K = [{"id": f"q{i}", "question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(30)]


def tasks(*arguments: object, code: int = 0, columns: int = 200) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(tasks_app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def refused(*arguments: object) -> str:
    """The words of an error for people, which the command line prints, with exit code 2."""
    result = CliRunner().invoke(tasks_app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, TaskError), result.output
    return str(result.exception)


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_list_names_every_task_its_files_and_its_hub_name() -> None:
    said = tasks("list")
    assert all(name in said for name in TASKS)
    assert "allenai/ai2_arc (ARC-Challenge)" in " ".join(said.split())
    rows = json.loads(tasks("list", "--json"))
    assert [row["name"] for row in rows] == list(TASKS)
    assert set(rows[0]) == {"name", "asks", "answer", "published", "hub"}


def test_a_directory_is_checked_whole_with_a_line_a_file(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "train.jsonl", [*GSM8K, GSM8K[0], {"question": "no gold?"}])
    write(tmp_path / "other.jsonl", [{"x": 1}])
    said = tasks("check", "--data", tmp_path)
    assert "gsm8k/train.jsonl gsm8k 32 30 1 1 0" in " ".join(said.split())
    assert "no question file: other.jsonl (its rows are those of no task: x, ...)" in said


def test_every_figure_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    choices = [{"label": letter, "text": f"place {letter}"} for letter in "ABCDE"]
    rows = [{"id": f"c{i}", "question": {"stem": f"Where is {i}?", "choices": choices}, "answerKey": "B"} for i in range(300)]
    write(tmp_path / "commonsenseqa" / "train_rand_split.jsonl", [*rows, {"question": 1}])
    said = tasks("check", "--data", tmp_path, columns=80, code=1)
    assert "task rows questions no gold doubled failed" in " ".join(said.split())
    assert "commonsenseqa 301 300 0 0 1" in " ".join(said.split())


def test_failures_are_listed_up_to_a_limit_and_end_with_exit_code_1(tmp_path: Path) -> None:
    bad = [{"question": f"{i}?", "answer": "seven"} for i in range(5)]
    path = write(tmp_path / "q.jsonl", [*GSM8K, *bad])
    said = tasks("check", "--path", path, "--limit", 2, code=1)
    assert "q.jsonl gsm8k 35 30 0 0 5" in " ".join(said.split())
    assert f"{path}, line 31: required " in said
    assert "; found 'seven'" in said
    assert "line 33" not in said
    assert "... and 3 more" in said


def test_only_the_files_of_a_task_are_checked_where_one_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", GSM8K)
    write(tmp_path / "b.jsonl", [{"question": "Is it?", "answer": True}])
    said = tasks("check", "--data", tmp_path, "--task", "strategyqa")
    assert "b.jsonl" in said
    assert "a.jsonl" not in said
    assert "b.jsonl strategyqa" in " ".join(tasks("check", "--path", tmp_path / "b.jsonl", "--task", "strategyqa").split())


def test_a_hub_dataset_is_checked_by_name_subset_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load(name: str, subset: str, split: str) -> Any:
        assert (name, subset, split) == ("openai/gsm8k", "main", "test")
        return datasets.Dataset.from_list(GSM8K)

    monkeypatch.setattr(datasets, "load_dataset", load)
    said = tasks("check", "--path", "openai/gsm8k:test", "--subset", "main")
    assert "openai/gsm8k:test gsm8k 30 30 0 0 0" in " ".join(said.split())


def test_what_cannot_be_checked_is_refused_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"x": 1}])
    assert "Either --data DIR or --path FILE" in refused("check")
    assert "Either --data DIR or --path FILE" in refused("check", "--data", tmp_path, "--path", path)
    assert "--task must be one of gsm8k" in refused("check", "--data", tmp_path, "--task", "chess")
    assert "found 'gsm8'. Did you mean gsm8k?" in refused("check", "--data", tmp_path, "--task", "gsm8")
    assert "the questions of tiny are generated" in refused("check", "--data", tmp_path, "--task", "tiny")
    assert "is on this machine. Leave it out" in refused("check", "--data", tmp_path, "--subset", "main")
    assert "is on this machine. Leave it out" in refused("check", "--path", path, "--subset", "main")
    assert "its rows are those of no task: x" in refused("check", "--data", tmp_path)
    assert "none of" in refused("check", "--path", path, "--task", "gsm8k")
    assert "directory of question files" in refused("check", "--data", tmp_path / "none")


def test_a_file_says_by_what_its_task_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", GSM8K)
    known = f"{path}: recognised as gsm8k by its rows"
    assert known in tasks("check", "--path", path)
    assert known not in tasks("check", "--path", path, "--task", "gsm8k")


def test_a_gsm8k_file_without_its_answers_is_not_taken_for_mathematics(tmp_path: Path) -> None:
    bare = [{"question": row["question"], "answer": "It is two."} for row in GSM8K]
    path = write(tmp_path / "q.jsonl", bare)
    assert refused("check", "--path", path) == (
        f"{path}: questions of a known task are required; found none: not recognised; name it with --task"
    )
    write(tmp_path / "sound.jsonl", GSM8K)
    assert "no question file: q.jsonl (not recognised; name it with --task)" in tasks("check", "--data", tmp_path)
    assert "q.jsonl math 30 30 0 0 0" in " ".join(tasks("check", "--data", tmp_path, "--task", "math").split())


def test_a_source_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text("[1, oops")
    said = refused("check", "--path", path)
    assert said.count(str(path)) == 1
    assert "found none: after " in said


def test_one_file_is_counted_as_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "q.jsonl", GSM8K)
    runner = CliRunner()
    assert "(1 file)" in runner.invoke(tasks_app, ["check", "--data", str(tmp_path / "a")]).output
    assert "(2 files)" in runner.invoke(tasks_app, ["check", "--data", str(tmp_path)]).output


@pytest.mark.parametrize("columns", [None, "80"])
def test_a_table_that_is_piped_holds_whole_names_unless_columns_says_otherwise(tmp_path: Path, columns: str | None) -> None:
    name = f"{'arc_challenge_' * 6}/ARC-Challenge-Dev.jsonl"
    write(tmp_path / name, GSM8K)
    said = CliRunner(env={"COLUMNS": columns}).invoke(tasks_app, ["check", "--data", str(tmp_path)]).stdout
    table = "".join(line.split()[0] for line in said.partition(f"{name}: recognised")[0].splitlines()[3:] if line.strip())
    assert table == name
    assert (f"{name} gsm8k" in " ".join(said.split())) is (columns is None)

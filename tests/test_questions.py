"""The questions of a run: checked before anything starts, stored as they come, and what is left out is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config import RunConfig, load_config
from magdi_ray.errors import ConfigError, TaskError
from magdi_ray.pipeline import plan
from magdi_ray.preflight import _check_questions
from magdi_ray.runs import Run
from magdi_ray.stages import all_questions, make_questions
from magdi_ray.tasks.store import iter_stored

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
HELD_OUT = {"question": "How many legs have 2 cats?", "answer": "#### 8"}


def config_of(directory: Path, *rows: dict[str, Any] | str, settings: str = "", labels: str = "gold") -> RunConfig:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (directory / "train.jsonl").write_text(text)
    (directory / "test.jsonl").write_text(json.dumps(HELD_OUT))
    task = f"task={{name: gsm8k, path: {directory}/train.jsonl, test_path: {directory}/test.jsonl{settings}}}"
    return load_config(TINY, [task, f"graph.labels={labels}", "evaluate.splits=[test]"])


def stored(config: RunConfig, directory: Path) -> tuple[dict[str, Any], Path]:
    stage = directory / "questions"
    stage.mkdir()
    return make_questions(config, Run(directory), stage), stage


def test_questions_are_stored_one_file_a_split(tmp_path: Path) -> None:
    facts, stage = stored(config_of(tmp_path, {"id": "a", "question": "1 + 1?", "answer": "#### 2"}), tmp_path)
    assert facts == {"train": 1, "test": 1}
    assert sorted(path.name for path in stage.iterdir()) == ["test.parquet", "train.parquet"]
    assert [(q.split, q.gold) for q in iter_stored(stage)] == [("test", "8"), ("train", "2")]


def test_rows_that_are_left_out_are_counted_and_listed_with_place_and_reason(tmp_path: Path) -> None:
    row = {"id": "a", "question": "1 + 1?", "answer": "#### 2"}
    config = config_of(tmp_path, row, row, "{oops", {"question": "no gold?"}, settings=", bad_rows: skip")
    facts, stage = stored(config, tmp_path)
    assert facts["train"] == 1
    assert facts["rows left out"] == 3
    listed = [json.loads(line) for line in (stage / "skipped.jsonl").read_text().splitlines()]
    found = [(line["split"], line["place"], line["fault"]) for line in listed]
    assert found == [
        ("train", "line 2", "doubled"),
        ("train", "line 3", "malformed"),
        ("train", "line 4", "without a gold answer"),
    ]
    assert all("required" in line["reason"] for line in listed)
    assert all(facts[f"rows left out: {line['fault']}"] == 1 for line in listed)


def test_questions_without_a_gold_answer_are_kept_where_the_vote_labels(tmp_path: Path) -> None:
    rows = [{"question": "What is it?"}, {"question": "1 + 1?", "answer": "#### 2"}]
    facts, _ = stored(config_of(tmp_path, *rows, labels="vote"), tmp_path)
    assert facts == {"train": 2, "test": 1, "without a gold answer": 1}
    with pytest.raises(TaskError, match="1 without a gold answer"):
        list(all_questions(config_of(tmp_path, *rows)))


def test_a_training_question_that_is_also_held_out_is_refused_before_anything_starts(tmp_path: Path) -> None:
    leak = HELD_OUT | {"question": "how many legs have 2 cats"}
    with pytest.raises(TaskError, match="1 held-out questions are also training questions"):
        _check_questions(config_of(tmp_path, leak), measures=False)


def test_an_evaluated_split_without_gold_answers_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"question": "1 + 1?", "answer": "#### 2"})
    _check_questions(config, measures=True)
    other = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"splits": ("dev",)})})
    with pytest.raises(ConfigError, match=r"evaluate\.splits names 'dev'.*magdi distill CONFIG"):
        _check_questions(other, measures=True)
    _check_questions(other, measures=False)  # who only distils needs no gold answer


def test_another_content_of_a_saved_directory_runs_the_stage_again(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    config = config_of(tmp_path)
    shaped = []
    for number in (2, 3):
        rows = [{"question": f"1 + {number}?", "answer": f"#### {number + 1}"}]
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
        task = config.task.model_copy(update={"path": f"{tmp_path}/saved:train"})
        shaped.append(plan(config.model_copy(update={"task": task}))[0].shaped_by["files"])
    assert shaped[0] != shaped[1]
    assert all(len(hashes) == 2 and all(hashes) for hashes in shaped)

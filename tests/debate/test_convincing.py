"""Convincing samples: read from the published files, and only where they convinced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.debate.convincing import Sample, check_agents, read_convincing
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()


def record(before: Any, after: Any, answer: Any = "2", **taught: Any) -> dict[str, Any]:
    sample = {"question": "1 + 1?", "answer": answer, "gold_explanation": "One and one are two.", **taught}
    return {"train_sample": sample, "prediction_pre": {"answer": before}, "prediction_post": {"answer": after}}


def samples(tmp_path: Path, *records: Any, most: int = 9) -> tuple[Sample, ...]:
    (tmp_path / "bard.json").write_text(json.dumps(records))
    return read_convincing(tmp_path, TASK, most=most)["bard"]


def test_a_sample_is_the_question_the_human_explanation_and_the_right_answer(tmp_path: Path) -> None:
    assert samples(tmp_path, record("3", "2")) == (Sample("1 + 1?", "One and one are two.", "2"),)


def test_only_what_turned_wrong_into_right_counts(tmp_path: Path) -> None:
    kept, *others = samples(tmp_path, record("2.0", "2"), record("3", "4"), record("dunno", 2), record("3", "dunno"))
    assert (kept.answer, others) == ("2", [])


def test_at_most_so_many_are_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = samples(tmp_path, *(record("3", "2", question=f"{n}?") for n in range(4)), most=2)
    assert [sample.question for sample in found] == ["0?", "1?"]


def test_numbers_of_options_are_read_as_letters(tmp_path: Path) -> None:
    [sample] = samples(tmp_path, record("1", "2", question="Where?", options=["sea", "bank"]))
    assert (sample.question, sample.answer) == ("Where?\n(A) sea\n(B) bank", "B")


@pytest.mark.parametrize("folder", ["SQA", "ECQA", "GSM8k"])
def test_every_published_record_convinced(data_dir: Path, folder: str) -> None:
    found = read_convincing(data_dir / "debates/reconcile_convincing" / folder, TASK, most=9)
    assert {name: len(taught) for name, taught in found.items()} == {"bard": 4, "chatgpt": 4, "claude": 4}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "not valid JSON"),
        ("{}", "must hold an array"),
        ("[3]", "record 0: the record"),
        (json.dumps([record("3", "2"), record(None, "2")]), "record 1: prediction_pre.answer"),
        (json.dumps([record("3", "2", gold_explanation="")]), "record 0: train_sample.gold_explanation"),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_record(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bard.json").write_text(text)
    with pytest.raises(ConfigError, match=complaint) as error:
        read_convincing(tmp_path, TASK, most=1)
    assert "bard.json" in str(error.value)


def test_a_directory_without_files_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="found none at"):
            read_convincing(place, TASK, most=1)


def test_samples_of_nobody_at_the_table_are_refused() -> None:
    check_agents({"bard": (), "gpt": ()}, ["ann", "bard"])
    check_agents({}, ["ann"])
    with pytest.raises(ConfigError, match=r"found bard\.json, gpt\.json, but the agents are ann, bob"):
        check_agents({"gpt": (), "bard": ()}, ["ann", "bob"])

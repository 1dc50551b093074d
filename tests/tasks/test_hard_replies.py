"""Replies that are hard to read, as a table of what a careful person reads in them: `hard_replies.yaml`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import TASKS

TABLE: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("hard_replies.yaml").read_text(encoding="utf-8"))["rows"]


def task_of(row: dict[str, Any]) -> Task:
    if row["task"] == "math":
        pytest.importorskip("math_verify")
    return TASKS[row["task"]]()


@pytest.mark.parametrize("row", TABLE, ids=[f"{row['task']}-{row['why']}" for row in TABLE])
def test_a_hard_reply_is_read_as_a_careful_person_reads_it(row: dict[str, Any]) -> None:
    task, question = task_of(row), Question("q", row["question"])
    reply = row.get("again", "") * row.get("times", 0) + row["reply"]
    answer = task.extract(question, reply)
    if row["expected"] is None:
        assert answer is None
    else:
        assert task.same(answer, row["expected"]), f"read {answer!r}"


def test_the_table_is_long_and_says_nothing_twice() -> None:
    assert len(TABLE) >= 200
    replies = Counter((row["task"], row["question"], row.get("again"), row["reply"]) for row in TABLE)
    assert [reply for reply, count in replies.items() if count > 1] == []

"""Recorded solutions with their publisher's verdicts: where ours differ, `docs/answers.md` says which and why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

VARIANTS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
PAGE = Path(__file__).parent.parent.parent / "docs" / "answers.md"
LISTED = re.compile(r"^\| (?P<line>[0-9]+) \| (?P<variant>\w+) \| .*\S.* \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def verdicts(data_dir: Path) -> dict[tuple[int, str], bool]:
    """Whether we agree, by line of the file (from 1) and model."""
    task, agreed = Gsm8k(), {}
    with (data_dir / "gsm8k" / "example_model_solutions.jsonl").open(encoding="utf-8") as lines:
        for number, row in enumerate(map(json.loads, lines), start=1):
            question = Question("q", row["question"])
            gold = task.extract(question, row["ground_truth"])
            for variant in VARIANTS:
                answer = task.extract(question, row[variant]["solution"])
                agreed[number, variant] = task.same(answer, gold) == row[variant]["is_correct"]
    return agreed


def test_our_judgement_agrees_with_the_publishers(verdicts: dict[tuple[int, str], bool]) -> None:
    assert len(verdicts) == 5276
    assert sum(verdicts.values()) / len(verdicts) >= 0.995
    assert f"{sum(verdicts.values()):,} of {len(verdicts):,}" in PAGE.read_text(encoding="utf-8")


def test_the_page_lists_exactly_the_disagreements(verdicts: dict[tuple[int, str], bool]) -> None:
    listed = {(int(match["line"]), match["variant"]) for match in LISTED.finditer(PAGE.read_text(encoding="utf-8"))}
    assert listed == {key for key, agreed in verdicts.items() if not agreed}

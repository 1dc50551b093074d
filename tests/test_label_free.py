"""Distillation without gold answers: whatever they are, the same student comes out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from magdi_ray.config import load_config
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import write_mags
from magdi_ray.pipeline import run_pipeline
from magdi_ray.runs import Run
from tests.distill.conftest import make_mag

DEBATES = [make_mag(number, ("18", "7", "18", "7", "7", "7") if number % 3 else ("18", "18", "18")) for number in range(24)]
SHAPE = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


def published(mags: list[Mag], gold: str | None) -> list[Mag]:
    """The same debates, their questions with another gold answer, and with a worked solution that ends in it."""
    solution = None if gold is None else f"It is {gold}."
    return [replace(mag, question=replace(mag.question, gold=gold, solution=solution)) for mag in mags]


def student(folder: Path, gold: str | None, source: str) -> str:
    """The hash of the weights that a run comes to."""
    file = folder / "graphs.parquet"
    folder.mkdir()
    write_mags(file, [replace(mag, labels="vote") for mag in published(DEBATES, gold)])
    objectives = [{"name": "next_token"}, {"name": "interaction", "weight": 0.1}, {"name": "contrast"}]
    config = {
        "name": "free",
        "task": {"name": "gsm8k"},
        "graph": {"labels": "vote", "source": {"format": "mag", "path": str(file), "test": 4}},
        "distil": {
            "student": {"model": SHAPE, "tuning": {"type": "full"}, "max_length": 256},
            "recipe": {"name": "x", "labels": {"source": source, "weight": "agreement"}, "objectives": objectives},
            "train": {"max_steps": 3, "tokens_per_step": 200, "learning_rate": 1e-3, "warmup_steps": 1},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run = Run(folder / "run")
    run_pipeline(load_config(folder / "config.yaml"), run, until="student")
    return hashlib.sha256((run.path("student") / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.cluster
def test_the_student_of_a_vote_is_the_same_whatever_the_gold_answers_are(ray_cluster: None, tmp_path: Path) -> None:
    learned = {student(tmp_path / f"gold-{gold}", gold, "vote") for gold in ("18", "7", None)}
    assert len(learned) == 1
    assert student(tmp_path / "taught", "18", "gold") not in learned

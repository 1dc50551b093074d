"""Training on real Ray Train workers with real DeepSpeed over gloo: the result does not depend on how the work is spread."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from magdi_ray.config.distil import DeepSpeedConfig, DevConfig, LoraTuning, ScalingConfig, StudentConfig, TrainConfig
from magdi_ray.config.recipes import Interaction, NextToken, RecipeConfig, resolve_recipe
from magdi_ray.config.sections import FileTask
from magdi_ray.distill.job import Job
from magdi_ray.distill.train import distill
from magdi_ray.distill.watch.steplog import read_dev
from magdi_ray.errors import EngineError
from magdi_ray.graph.store import write_mags

from .conftest import Workbench, make_mag

pytestmark = pytest.mark.cluster

CYCLE = (("18", "7", "18", "18", "18", "7"), ("18", "18", "18"), ("18", "6", "6"), ("4", "9", "5", "4", "18", "4"))
STEPS = 8


def level4(**interaction: Any) -> RecipeConfig:
    """Level 4 without dropout, so that workers draw nothing at random."""
    chosen = resolve_recipe("level4")
    changes = {"dropout": 0.0, "hidden": 16, **interaction}
    objectives = tuple(o.model_copy(update=changes) if isinstance(o, Interaction) else o for o in chosen.objectives)
    return chosen.model_copy(update={"objectives": objectives})


Train = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def train(bench: Workbench, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train with some settings, once each: (facts, directory with student/ and log.jsonl)."""
    root = tmp_path_factory.mktemp("training")
    write_mags(root / "graphs.parquet", [make_mag(i, CYCLE[i % 4]) for i in range(24)])

    @cache
    def run(  # type: ignore[no-untyped-def]
        name: str,
        *,
        workers: int = 1,
        zero: int = 0,
        lora: bool = False,
        frozen: bool = False,
        dev: DevConfig | None = None,
        recipe: str | None = None,
        learning_rate: float = 3e-3,
        steps: int = STEPS,
    ):
        directory = root / name
        directory.mkdir(exist_ok=True)
        tuning = {"tuning": LoraTuning(type="lora", r=4, dropout=0.0)} if lora else {"tuning": {"type": "full"}}
        job = Job(
            graphs=str(root / "graphs.parquet"),
            tokens=str(root / "tokens"),
            output=str(directory / "student"),
            log=str(directory / "log.jsonl"),
            tensorboard=str(directory / "tensorboard"),
            task=FileTask(name="gsm8k"),
            student=StudentConfig(model=str(bench.directory), max_length=256, **tuning),
            model=str(bench.directory),
            recipe=resolve_recipe(recipe) if recipe else level4(embeddings="frozen" if frozen else "live"),  # type: ignore[arg-type]
            train=TrainConfig(
                max_steps=steps,
                tokens_per_step=300,
                tokens_per_micro_batch=2000,
                learning_rate=learning_rate,
                lr_scheduler_type="constant",
                warmup_steps=2,
            ),
            deepspeed=DeepSpeedConfig(zero_stage=zero),
            dev=dev,
            seed=5,
            inputs={},
        )
        facts = distill(job, ScalingConfig(num_workers=workers), storage=directory / "storage")
        return facts, directory

    return run


def curve(directory: Path, name: str = "loss") -> torch.Tensor:
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return torch.tensor([line[name] for line in lines if "event" not in line])


def weights(directory: Path, file: str = "model.safetensors") -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(directory / "student" / file).items())])


def test_the_loss_falls_and_every_part_of_it_is_logged(train: Train) -> None:
    facts, directory = train("one")
    parts = {name: curve(directory, name) for name in ("loss", "next_token", "interaction", "contrast")}
    weighted = parts["next_token"] + parts["interaction"] + 0.1 * parts["contrast"]
    torch.testing.assert_close(parts["loss"], weighted, atol=1e-5, rtol=1e-5)
    assert len(parts["loss"]) == facts["steps"] == STEPS
    assert parts["next_token"][-1] < parts["next_token"][0] - 0.1
    assert list((directory / "tensorboard").glob("events*"))


def test_two_workers_give_the_loss_curve_of_one(train: Train) -> None:
    alone, together = train("one"), train("two", workers=2)
    assert together[0]["workers"] == 2
    torch.testing.assert_close(curve(together[1]), curve(alone[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(weights(together[1]), weights(alone[1]), atol=1e-4, rtol=0)


def test_frozen_embeddings_train_the_graph_network_but_another_student(train: Train) -> None:
    live, frozen = train("one"), train("frozen", workers=2, frozen=True)
    assert float(curve(frozen[1], "interaction")[-1]) < float(curve(frozen[1], "interaction")[0])
    assert float((weights(live[1]) - weights(frozen[1])).abs().max()) > 1e-3


def test_dev_figures_are_measured_on_graphs_that_are_not_learned_from(train: Train) -> None:
    dev = DevConfig(every_steps=3, graphs=4, accuracy_questions=3, max_tokens=8)
    facts, directory = train("dev", workers=2, zero=3, lora=True, dev=dev)
    measured = read_dev(directory / "log.jsonl", "level4")
    assert (facts["graphs"], facts["dev_graphs"], facts["result"]) == (20, 4, "last")
    assert [line["step"] for line in measured] == [0, 3, 6, STEPS]
    assert measured[-1]["loss"] == facts["dev_loss"] < measured[0]["loss"]
    assert {line["answered"] for line in measured} == {3}


def test_training_stops_when_the_dev_loss_falls_no_more_and_gives_the_best_student(train: Train) -> None:
    dev = DevConfig(every_steps=1, graphs=4, accuracy_questions=0, patience=2, student="best")
    facts, directory = train("patience", dev=dev, learning_rate=0.3)
    measured = read_dev(directory / "log.jsonl", "level4")
    lowest = min(measured, key=lambda line: line["loss"])
    assert facts["stopped_early"]
    assert facts["steps"] == lowest["step"] + 2 < STEPS
    assert (facts["best_step"], facts["best_loss"]) == (lowest["step"], lowest["loss"])
    _, same = train("patience-short", dev=dev, learning_rate=0.3, steps=max(1, lowest["step"]))
    torch.testing.assert_close(weights(directory), weights(same), atol=1e-6, rtol=0)


def test_the_gradient_of_each_objective_is_logged_and_does_not_depend_on_the_workers(train: Train) -> None:
    alone, together = train("one"), train("two", workers=2)
    for name in ("next_token", "interaction", "contrast"):
        norms = curve(alone[1], f"grad_norm/{name}")
        assert bool((norms > 0).all())
        torch.testing.assert_close(curve(together[1], f"grad_norm/{name}"), norms, atol=1e-5, rtol=1e-4)


def test_preference_raises_correct_replies_above_incorrect_ones(train: Train) -> None:
    facts, directory = train("dpo", workers=2, recipe="dpo")
    losses = curve(directory, "preference")
    assert float(losses[0]) == pytest.approx(0.6931, abs=1e-3)
    assert float(losses[-1]) < float(losses[0]) - 0.01
    assert facts["supervised_tokens"] > 0


def test_a_worker_that_fails_is_reported_in_its_own_words(bench: Workbench, ray_cluster: None, tmp_path: Path) -> None:
    write_mags(tmp_path / "graphs.parquet", [make_mag(1, ("5", "6", "7"))])
    job = Job(
        graphs=str(tmp_path / "graphs.parquet"),
        tokens=str(tmp_path / "tokens"),
        output=str(tmp_path / "student"),
        log=str(tmp_path / "log.jsonl"),
        tensorboard=str(tmp_path / "tensorboard"),
        task=FileTask(name="gsm8k"),
        student=StudentConfig(model=str(bench.directory), tuning={"type": "full"}),
        model=str(bench.directory),
        recipe=RecipeConfig(name="plain", objectives=(NextToken(name="next_token"),)),
        train=TrainConfig(epochs=1),
        deepspeed=DeepSpeedConfig(),
        seed=0,
        inputs={},
    )
    with pytest.raises(EngineError, match="nothing to train on"):
        distill(job, ScalingConfig(), storage=tmp_path / "storage")

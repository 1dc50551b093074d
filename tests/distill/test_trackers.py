"""Trackers: found missing before anything starts, and one run for one training, however often it is resumed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config.distil import MlflowConfig, TrackConfig, WandbConfig
from magdi_ray.distill.watch.steplog import StepLog
from magdi_ray.distill.watch.trackers import TensorBoard, check_trackers, openers, parameters, run_name, training_id
from magdi_ray.errors import ConfigError

from .test_steplog import FIGURES, job_in

WANDB, MLFLOW = TrackConfig(wandb=WandbConfig()), TrackConfig(mlflow=MlflowConfig())


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in packages else None)


@pytest.mark.parametrize(("track", "package"), [(WANDB, "wandb"), (MLFLOW, "mlflow")])
def test_a_missing_package_is_said_with_the_pip_line(monkeypatch: pytest.MonkeyPatch, track: TrackConfig, package: str) -> None:
    installed(monkeypatch)
    with pytest.raises(ConfigError, match=rf'pip install "magdi-ray\[{package}\]"'):
        check_trackers(track, keys=False)


def test_a_missing_key_is_said_and_offline_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        check_trackers(WANDB)
    check_trackers(WANDB, keys=False)
    check_trackers(TrackConfig(wandb=WandbConfig(mode="offline")))
    monkeypatch.setenv("WANDB_API_KEY", "k")
    check_trackers(WANDB)


def test_it_must_be_said_where_mlflow_is(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="tracking_uri"):
        check_trackers(MLFLOW)
    check_trackers(TrackConfig(mlflow=MlflowConfig(tracking_uri="http://tracking:5000")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    check_trackers(MLFLOW)


def test_nothing_configured_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch)
    check_trackers(TrackConfig())
    assert list(openers(job_in(tmp_path), start=0)) == ["TensorBoard", "Prometheus"]
    assert list(openers(job_in(tmp_path, track=TrackConfig(wandb=WandbConfig(), mlflow=MlflowConfig())), start=0)) == [
        *("TensorBoard", "Prometheus", "Weights & Biases", "MLflow")
    ]


def test_a_training_is_known_by_its_job_and_named_after_run_and_recipe(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    assert training_id(job) == training_id(job_in(tmp_path / "elsewhere"))
    assert len({training_id(job), training_id(job_in(tmp_path, seed=2)), training_id(job_in(tmp_path, run="demo-2"))}) == 3
    assert run_name(job) == "demo-1/level4"


def test_settings_are_flat_and_objectives_are_under_their_names(tmp_path: Path) -> None:
    found = parameters(job_in(tmp_path))
    assert found["train.max_steps"] == 3
    assert found["recipe.objectives.contrast.margin"] == 1.0
    assert not any(isinstance(value, dict) for value in found.values())


def scalars(directory: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(name)]


def test_tensorboard_hides_what_a_crash_undid(tmp_path: Path) -> None:
    first = TensorBoard(str(tmp_path), start=0)
    for step in range(4):
        first.log(step, {"loss": 1.0})
    first.writer.flush()
    first.writer.close()
    second = TensorBoard(str(tmp_path), start=2)
    for step in range(2, 5):
        second.log(step, {"loss": 2.0})
    second.close({"steps": 5})
    assert scalars(tmp_path, "loss") == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]


def resumed_training(job: Any) -> None:
    """Three steps, a crash, and the last two of them again."""
    log = StepLog(job, start=0, total=3)
    for number in range(2):
        log.write(number, FIGURES)
    log = StepLog(job, start=1, total=3)
    for number in (1, 2):
        log.write(number, FIGURES | {"loss": 1.0})
    log.end(3, {"steps": 3, "peak_memory": [1, 2]})


def test_mlflow_holds_one_run_for_a_resumed_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    job = job_in(tmp_path, track=TrackConfig(mlflow=MlflowConfig(tracking_uri=uri, experiment="eggs")))
    resumed_training(job)
    client = tracking.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("eggs").experiment_id])
    assert (run.info.run_name, run.info.status) == ("demo-1/level4", "FINISHED")
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")] == [
        *((0, 2.0), (1, 2.0), (1, 1.0), (2, 1.0))
    ]
    assert run.data.params["recipe.objectives.contrast.margin"] == "1.0"
    assert run.data.tags["result.steps"] == "3"


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    job = job_in(tmp_path, track=TrackConfig(wandb=WandbConfig(mode="offline")))
    resumed_training(job)
    kept = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert kept
    assert all(name.endswith(training_id(job)) for name in kept)

"""Where the figures of a training are sent while it runs, besides the run's log. Knows no torch and no Ray.

One signature: `log(step, figures)` and `close(summary)`. TensorBoard and the cluster's metrics always; Weights & Biases and
MLflow where they are configured, imported only then. A training that is resumed goes on in the same W&B and MLflow run.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from magdi_ray.config.base import content_hash
from magdi_ray.config.distil import MlflowConfig, TrackConfig, WandbConfig
from magdi_ray.distill.job import Job
from magdi_ray.distill.watch.view import parts_of
from magdi_ray.errors import ConfigError
from magdi_ray.observe.meter import Meter, meter
from magdi_ray.observe.where import named
from magdi_ray.storage import is_url

TRAINING_TAG = "magdi.training"
"""The MLflow tag a resumed training finds its run by."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Retries and seconds, where the environment does not say otherwise: all workers wait while MLflow tries, else for minutes."""

BATCH = 100
"""MLflow takes no more parameters in one request."""

LONGEST = 500
"""Characters of a parameter's value; the smallest limit among MLflow's stores."""

SHOWN = {
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "seconds": "step_seconds",
    "tokens_per_second": "tokens_per_second",
    "graphs_per_second": "graphs_per_second",
}
"""Figures of a step that Prometheus is told, and what they are called there."""


class Tracker(Protocol):
    """One place that figures are sent to."""

    name: str
    """What people call it."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Send figures. Steps never fall, but for a training that is resumed."""
        ...

    def close(self, summary: dict[str, Any]) -> None:
        """Send the facts of a training that ended, and flush."""
        ...


def check_trackers(track: TrackConfig, *, keys: bool = True) -> None:
    """Find out what a tracker lacks before any worker starts. Imports none of them.

    `keys`: also what is read from the environment, which only a run needs.

    Raises:
        ConfigError: a package is not installed, a key is not set, or it is not said where MLflow is.
    """
    for section, package in ((track.wandb, "wandb"), (track.mlflow, "mlflow")):
        if section is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"distil.track.{package} needs the package {package}, which is not installed here: "
                f'pip install "magdi-ray[{package}]", on every machine that trains.'
            )
    if not keys:
        return
    if track.wandb is not None and track.wandb.mode == "online" and not os.environ.get("WANDB_API_KEY", "").strip():
        raise ConfigError(
            "distil.track.wandb needs the environment variable WANDB_API_KEY, which is not set. Set it where the run is started, "
            "and on every machine of a cluster: export WANDB_API_KEY=...; or set mode: offline."
        )
    if track.mlflow is not None and not (track.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "").strip()):
        raise ConfigError(
            "It is not said where MLflow is: give distil.track.mlflow.tracking_uri, or set the environment variable "
            "MLFLOW_TRACKING_URI where the run is started and on every machine of a cluster."
        )


def openers(job: Job, *, start: int, total: int | None = None) -> dict[str, Callable[[], Tracker]]:
    """What opens each tracker of a job, by its name, for a training that begins or goes on at step `start` of `total`."""
    found: dict[str, Callable[[], Tracker]] = {
        "TensorBoard": lambda: TensorBoard(job.tensorboard, start=start),
        "Prometheus": lambda: Prometheus(job, start=start, total=total),
    }
    if (wandb := job.track.wandb) is not None:
        found["Weights & Biases"] = lambda: WeightsAndBiases(wandb, job)
    if (mlflow := job.track.mlflow) is not None:
        found["MLflow"] = lambda: Mlflow(mlflow, job)
    return found


def training_id(job: Job) -> str:
    """What a training is found by when it is resumed: 32 hexadecimal digits, the same for the same job of the same run."""
    return content_hash([job.run, job.recipe.name, job.identity])[:32]


def run_name(job: Job) -> str:
    """What people see."""
    return f"{job.run}/{job.label}"


def parameters(job: Job) -> dict[str, Any]:
    """The settings of a training, flat: {"train.learning_rate": 5e-6, "recipe.objectives.contrast.margin": 1.0}."""
    sections = ("task", "student", "recipe", "train", "dev", "deepspeed", "seed")
    return {"model": job.model, **dict(_flat(job.model_dump(mode="json", include=set(sections)), ()))}


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            yield from _flat(item, (*path, item.get("name", str(place)) if isinstance(item, dict) else str(place)))
    else:
        yield ".".join(path), value


class TensorBoard:
    """An event file in a directory. What an interrupted training wrote from its new start on is hidden."""

    name = "TensorBoard"

    def __init__(self, directory: str, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(directory, purge_step=start)  # type: ignore[no-untyped-call]

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def close(self, summary: dict[str, Any]) -> None:
        table = [f"| {name} | {value} |" for name, value in _flat(summary, ())]
        self.writer.add_text("summary", "\n".join(["| | |", "|---|---|", *table]))  # type: ignore[no-untyped-call]
        self.writer.close()  # type: ignore[no-untyped-call]


class Prometheus:
    """The newest figures, in the metrics every node of the cluster offers; see `observe.figures.DISTIL`."""

    name = "Prometheus"

    def __init__(self, job: Job, *, start: int, total: int | None = None, meter: Meter = meter) -> None:
        self.job, self.meter = job, meter
        self._set({"started_timestamp_seconds": time.time(), "started_at_step": start, "steps": start})
        if total is not None:
            self._set({"planned_steps": total})

    def log(self, step: int, figures: dict[str, float]) -> None:
        if "loss" not in figures:
            self._set({f"dev_{name}": figures[f"dev/{name}"] for name in ("loss", "accuracy") if f"dev/{name}" in figures})
            return
        self._set({"steps": step + 1, "last_step_timestamp_seconds": time.time()})
        self._set({name: figures[found] for found, name in SHOWN.items() if found in figures})
        for term, loss in {"all": figures["loss"], **parts_of(figures)}.items():
            self._set({"loss": loss}, term=term)

    def close(self, summary: dict[str, Any]) -> None:
        """The last figures stay as they are until the process ends."""

    def _set(self, values: Mapping[str, float], **labels: str) -> None:
        _set(self.meter, self.job, values, **labels)


def checkpointed(job: Job, step: int, *, meter: Meter = meter) -> None:
    """Tell Prometheus that a checkpoint made after `step` steps is whole on storage."""
    _set(meter, job, {"checkpoint_timestamp_seconds": time.time(), "checkpoint_step": step})


def _set(meter: Meter, job: Job, values: Mapping[str, float], **labels: str) -> None:
    for name, value in values.items():
        meter.set(f"distil_{name}", value, where=named(job.run, "distil"), training=job.label, **labels)


class WeightsAndBiases:
    """A run of Weights & Biases; a resumed training continues it."""

    name = "Weights & Biases"

    def __init__(self, config: WandbConfig, job: Job) -> None:
        import wandb  # type: ignore[import-not-found]  # an extra

        self.run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=run_name(job),
            id=training_id(job),
            resume="allow",
            mode=config.mode,
            dir=None if is_url(job.log) else Path(job.log).parent,
            config=parameters(job),
            settings=wandb.Settings(console="off"),
        )
        # Its own step may never fall, so it would drop what a resumed training does again.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.run.log({"step": step, **figures})

    def close(self, summary: dict[str, Any]) -> None:
        self.run.summary.update({f"result/{name}": value for name, value in _flat(summary, ())})
        self.run.finish()


class Mlflow:
    """A run of MLflow; a resumed training finds it by a tag. Uses the client alone, which leaves no state in the process."""

    name = "MLflow"

    def __init__(self, config: MlflowConfig, job: Job) -> None:
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        from mlflow.entities import Metric, Param  # type: ignore[import-not-found]  # an extra
        from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]  # an extra

        self._metric = Metric
        self.client: Any = MlflowClient(tracking_uri=config.tracking_uri)
        found = self.client.get_experiment_by_name(config.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(config.experiment)
        wanted = f"tags.`{TRAINING_TAG}` = '{training_id(job)}'"
        earlier: Sequence[Any] = self.client.search_runs([experiment], filter_string=wanted, max_results=1)
        if earlier:
            self.id = earlier[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        tags = {TRAINING_TAG: training_id(job)}
        self.id = self.client.create_run(experiment, tags=tags, run_name=run_name(job)).info.run_id
        # Only now: a parameter can be written once, and how a training is carried out may differ when it is resumed.
        params = [Param(name, str(value)[:LONGEST]) for name, value in parameters(job).items()]
        for first in range(0, len(params), BATCH):
            self.client.log_batch(self.id, params=params[first : first + BATCH])

    def log(self, step: int, figures: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[self._metric(name, value, now, step) for name, value in figures.items()])

    def close(self, summary: dict[str, Any]) -> None:
        for name, value in _flat(summary, ()):
            self.client.set_tag(self.id, f"result.{name}", str(value)[:LONGEST])
        self.client.set_terminated(self.id, status="FINISHED")

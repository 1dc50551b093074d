"""What a training is told and what it counts: plain data that travels between the driver, the workers and the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from magdi_ray.config.base import Section, content_hash
from magdi_ray.config.distil import CheckpointConfig, DeepSpeedConfig, DevConfig, StudentConfig, TrackConfig, TrainConfig
from magdi_ray.config.recipes import RecipeConfig
from magdi_ray.config.sections import TaskConfig

HEADS = "training_heads.safetensors"
"""File beside a student's weights: scorer and graph network, which only training needs."""


class Job(Section):
    """Everything a training worker is told."""

    graphs: str
    """Directory of MAG parquet files; this, `tokens` and `output` are places: paths all machines share, or URLs (`storage`)."""
    tokens: str
    """Directory the tokenised graphs are kept in, for every training of the run that reads them alike."""
    output: str
    """Directory the finished student is written to."""
    log: str
    """File of one JSON line a step; or the URL of a directory, in which every start of the training has a file of its own."""
    tensorboard: str
    """Directory or URL of its event files."""
    task: TaskConfig
    student: StudentConfig
    model: str
    """Where the student's weights are (a student made from scratch has been written to disk by now)."""
    recipe: RecipeConfig
    train: TrainConfig
    dev: DevConfig | None = None
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    track: TrackConfig = TrackConfig()
    run: str = ""
    """What trackers call the run."""
    seed: int
    attempt: int = 0
    """Of the run, counted from 1 (`lease`): what an attempt before this one still writes is told apart by it. 0: there is one."""
    number: int = 0
    """Which training of its recipe it is, counted from 0: `distil.seeds` of them differ in `seed` alone."""
    inputs: dict[str, str]
    """Content hashes of what is read, so that a checkpoint is never continued on other graphs or other weights."""

    @property
    def label(self) -> str:
        """The recipe, and which of its trainings: "level2", "level2-1"."""
        return f"{self.recipe.name}-{self.number}" if self.number else self.recipe.name

    @property
    def identity(self) -> str:
        """Hash of everything that shapes the result, and of nothing else: a training is continued under this name.

        Where files lie, how many workers there are and which ZeRO stage spreads them is no part of it.
        """
        parts = (self.task, self.student, self.recipe, self.train, self.dev, self.seed, self.inputs)
        return content_hash(list(parts))


@dataclass(slots=True)
class TrainState:
    """How far a training is: what a checkpoint keeps beside the weights and the optimiser's state. Equal on all workers."""

    step: int = 0
    """Steps done. Data order and random draws are functions of the seed and of this number."""
    seconds: float = 0.0
    """Spent in steps and measurements, over all attempts; what a crash threw away is not counted."""
    worker_seconds: float = 0.0
    tokens: int = 0
    """Forwarded through the student, prompts and padding included."""
    resumed: int = 0
    """How often the training was taken up from a checkpoint."""
    dev_loss: float | None = None
    """The newest measurement."""
    dev_accuracy: float | None = None
    best_loss: float | None = None
    """The lowest dev loss so far, and the step it was measured after."""
    best_step: int | None = None
    without_gain: int = 0
    """Measurements in a row that were no new lowest."""

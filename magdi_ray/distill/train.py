"""Distillation on Ray Train: workers, failures and checkpoints are Ray's; the loop is `distill.loop`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from magdi_ray.cluster import root_cause
from magdi_ray.config.distil import ScalingConfig
from magdi_ray.distill.job import Job
from magdi_ray.distill.loop import run_training
from magdi_ray.errors import EngineError

STEP_FILE = "step.txt"
TAG = "state"


class RayCheckpoints:
    """DeepSpeed checkpoints handed to Ray Train, which keeps the newest on shared storage."""

    def restore(self, engine: Any) -> int:
        """Load the checkpoint Ray Train holds for this run, if any."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0
        with checkpoint.as_directory() as directory:
            loaded, _ = engine.load_checkpoint(directory, tag=TAG, load_module_strict=False)
            if loaded is None:
                raise EngineError(f"The checkpoint {checkpoint.path} holds no DeepSpeed state for this worker.")
            return int((Path(directory) / STEP_FILE).read_text())

    def save(self, engine: Any, step: int) -> None:
        """Every worker saves its own files; Ray merges them into one directory."""
        import ray.train

        directory = Path(tempfile.mkdtemp(prefix="magdi-checkpoint-"))
        try:
            engine.save_checkpoint(str(directory), tag=TAG, exclude_frozen_parameters=True)
            (directory / STEP_FILE).write_text(str(step))
            checkpoint = ray.train.Checkpoint.from_directory(str(directory))
            ray.train.report({"step": step}, checkpoint=checkpoint, checkpoint_dir_name=f"step-{step:08d}")
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(settings["threads"])
    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    job = Job.model_validate_json(settings["job"])
    facts = run_training(job, RayCheckpoints())
    if ray.train.get_context().get_world_rank() == 0:
        Path(settings["facts"]).write_text(json.dumps(facts), encoding="utf-8")


def distill(job: Job, scaling: ScalingConfig, *, storage: Path) -> dict[str, Any]:
    """Train one student on Ray Train and return the facts of the training.

    An earlier attempt at the same job (same settings, same inputs, same workers) under `storage` is continued from
    its last checkpoint.

    Raises:
        EngineError: a worker failed more than `scaling.max_failures` times; carries its error.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train import ScalingConfig as RayScalingConfig
    from ray.train.torch import TorchTrainer

    name = f"{job.recipe.name}-{job.identity[:12]}-w{scaling.workers[1]}z{job.deepspeed.zero_stage}"
    storage.mkdir(parents=True, exist_ok=True)
    facts = storage / f"{name}.facts.json"
    facts.unlink(missing_ok=True)
    # A driver cannot know what its workers have: each is told by what it reserved.
    environment = {} if scaling.use_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    resources = {"CPU": scaling.num_cpus} | ({"GPU": 1} if scaling.use_gpu else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job.model_dump_json(), "facts": str(facts), "threads": max(1, int(scaling.num_cpus))},
        scaling_config=RayScalingConfig(num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            failure_config=FailureConfig(max_failures=scaling.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.checkpoints.keep),
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps whatever happened in a worker; the person needs the worker's own words
        traceback.print_exc(file=sys.stdout)  # the whole of it, into the run's ray.log
        raise EngineError(f"Training of {job.recipe.name!r} failed: {root_cause(error)}") from error
    return json.loads(facts.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

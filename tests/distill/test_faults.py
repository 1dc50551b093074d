"""Real processes are killed and real storage fails in the middle of a training; its curve is that of an undisturbed one."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from magdi_ray.config.distil import CheckpointConfig, DeepSpeedConfig, ScalingConfig, StudentConfig, TrainConfig
from magdi_ray.config.recipes import Interaction, RecipeConfig, resolve_recipe
from magdi_ray.config.sections import FileTask
from magdi_ray.distill.checkpoint.state import INDEX, is_whole
from magdi_ray.distill.checkpoint.storage import attempt_name, step_name
from magdi_ray.distill.job import Job
from magdi_ray.distill.train import distill
from magdi_ray.graph.store import write_mags

from .conftest import Workbench, make_mag

pytestmark = pytest.mark.cluster

ANSWERS = (("18", "7", "18", "18", "18", "7"), ("18", "6", "6"))
STEPS, EVERY = 24, 4

WHOLE_JOB = """
import sys
from pathlib import Path
from magdi_ray.cluster import ray_session
from magdi_ray.config.distil import ScalingConfig
from magdi_ray.distill.job import Job
from magdi_ray.distill.train import distill
job, storage, temp = sys.argv[1:]
with ray_session(num_cpus=2, temp_dir=temp):
    distill(Job.model_validate_json(job), ScalingConfig(num_workers=2), storage=Path(storage))
"""


def recipe() -> RecipeConfig:
    """Level 4 without dropout, so that workers draw nothing at random."""
    chosen = resolve_recipe("level4")
    changes = {"dropout": 0.0, "hidden": 16}
    objectives = tuple(o.model_copy(update=changes) if isinstance(o, Interaction) else o for o in chosen.objectives)
    return chosen.model_copy(update={"objectives": objectives})


@pytest.fixture(scope="module")
def make_job(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """The same training for every test, in a directory of its own."""
    root = tmp_path_factory.mktemp("faults")
    write_mags(root / "graphs.parquet", [make_mag(i, ANSWERS[i % 2]) for i in range(8)])

    def make(directory: Path, *, zero: int = 0, **checkpoints: Any) -> Job:
        return Job(
            graphs=str(root / "graphs.parquet"),
            tokens=str(root / "tokens"),
            output=str(directory / "student"),
            log=str(directory / "log.jsonl"),
            tensorboard=str(directory / "tensorboard"),
            task=FileTask(name="gsm8k"),
            student=StudentConfig(model=str(bench.directory), max_length=256, tuning={"type": "full"}),
            model=str(bench.directory),
            recipe=recipe(),
            train=TrainConfig(max_steps=STEPS, tokens_per_step=150, learning_rate=1e-3, warmup_steps=2),
            deepspeed=DeepSpeedConfig(zero_stage=zero),
            checkpoints=CheckpointConfig(every_steps=EVERY, every_minutes=None, **checkpoints),
            seed=5,
            inputs={},
        )

    return make


def lines(directory: Path) -> list[dict[str, Any]]:
    """What the log holds so far; a line that a kill cut off is no line."""
    log = directory / "log.jsonl"
    found = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [json.loads(line) for line in found if line.startswith("{") and line.endswith("}")]


def step_lines(directory: Path) -> list[dict[str, Any]]:
    return [line for line in lines(directory) if "loss" in line and "event" not in line]


def curve(directory: Path) -> torch.Tensor:
    """The last loss written for each step."""
    losses = {line["step"]: line["loss"] for line in step_lines(directory)}
    assert sorted(losses) == list(range(STEPS))
    return torch.tensor([losses[step] for step in range(STEPS)])


def wait_for(condition: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    """What a condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError(condition)


def whole_checkpoints(storage: Path) -> list[Path]:
    return [path for path in sorted(storage.glob("*/*/step-*")) if is_whole(path)]


def in_the_middle(directory: Path, storage: Path) -> bool:
    """A checkpoint is on storage, steps were done after it, and most are still to come."""
    steps = [line["step"] for line in step_lines(directory)]
    found = whole_checkpoints(storage)
    return bool(found) and bool(steps) and EVERY <= int(found[0].name[5:]) <= steps[-1]


def workers() -> list[psutil.Process]:
    """Ray Train's workers under this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def undisturbed(make_job: Callable[..., Job], ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The curve of one worker that nothing happens to."""
    directory = tmp_path_factory.mktemp("undisturbed")
    facts = distill(make_job(directory), ScalingConfig(), storage=directory / "storage")
    assert facts["resumed_at_step"] == 0
    assert len(step_lines(directory)) == STEPS
    return curve(directory)


def assert_as_undisturbed(directory: Path, storage: Path, undisturbed: torch.Tensor) -> None:
    """The same curve, a student, and nothing half written left behind."""
    torch.testing.assert_close(curve(directory), undisturbed, atol=1e-4, rtol=0)
    assert (directory / "student" / "model.safetensors").exists()
    assert all(is_whole(path) for path in storage.glob("*/*/step-*"))


def test_a_killed_worker_is_replaced_and_the_curve_is_that_of_an_undisturbed_training(
    make_job: Callable[..., Job], undisturbed: torch.Tensor, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    with ThreadPoolExecutor() as pool:
        training = pool.submit(distill, make_job(tmp_path, zero=2), ScalingConfig(num_workers=2), storage=storage)
        wait_for(lambda: in_the_middle(tmp_path, storage) or training.done())
        two = workers()
        two[-1].send_signal(signal.SIGKILL)
        facts = training.result()
    assert (len(two), facts["workers"]) == (2, 2)
    assert facts["resumed_at_step"] >= EVERY
    assert_as_undisturbed(tmp_path, storage, undisturbed)


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    """The driver, its Ray and its workers, all at once and none with a chance to say a word."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for sign in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that nobody notices that another is gone
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(sign)
    process.wait()
    psutil.wait_procs(family, timeout=20)


def test_a_killed_job_of_two_workers_is_continued_by_one(
    make_job: Callable[..., Job], undisturbed: torch.Tensor, tmp_path: Path
) -> None:
    storage, temp = tmp_path / "storage", tempfile.mkdtemp(prefix="magdi-ray-")
    command = [sys.executable, "-c", WHOLE_JOB, make_job(tmp_path, zero=3).model_dump_json(), str(storage), temp]
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": os.getcwd()})
        try:
            wait_for(lambda: in_the_middle(tmp_path, storage) or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "output.txt").read_text()[-3000:]
        finally:
            kill_everything(process)
    shutil.rmtree(temp, ignore_errors=True)
    newest = whole_checkpoints(storage)[-1]
    half = shutil.copytree(newest, newest.with_name(step_name(STEPS - 1)))
    next(path for path in half.iterdir() if path.name != INDEX).write_bytes(b"cut off")
    facts = distill(make_job(tmp_path), ScalingConfig(num_workers=1), storage=storage)
    assert facts["workers"] == 1
    assert facts["resumed_at_step"] == int(newest.name[5:]) >= EVERY
    assert_as_undisturbed(tmp_path, storage, undisturbed)


def test_storage_that_fails_once_costs_nothing(make_job: Callable[..., Job], undisturbed: torch.Tensor, tmp_path: Path) -> None:
    """A checkpoint's file is a pipe: its upload hangs until the training was seen to stand still, and then breaks."""
    job = make_job(tmp_path, storage=f"dir::file://{tmp_path / 'elsewhere'}")
    elsewhere = Path(f"{tmp_path / 'elsewhere'}{tmp_path / 'elsewhere'}")  # fsspec's `dir` takes a path for one below itself
    place = elsewhere / f"{job.recipe.name}-{job.identity[:12]}" / attempt_name(0) / step_name(2 * EVERY)
    pipe = tmp_path / "broken" / "rank-00000-00000.safetensors"
    place.parent.mkdir(parents=True)
    pipe.parent.mkdir()
    place.symlink_to(pipe.parent)  # a directory would be tidied away at the start
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with ThreadPoolExecutor() as pool:
        training = pool.submit(distill, job, ScalingConfig(max_failures=0), storage=tmp_path / "storage")
        wait_for(lambda: select.select([reader], [], [], 0)[0] or training.done())
        time.sleep(0.5)
        before = [line["step"] for line in step_lines(tmp_path)]
        pipe.unlink()
        os.close(reader)
        facts = training.result()
    assert before == list(range(2 * EVERY))  # no further step was done before the checkpoint was safe
    assert is_whole(place)
    assert facts["resumed_at_step"] == 0
    assert [line["step"] for line in step_lines(tmp_path)] == list(range(STEPS))
    assert_as_undisturbed(tmp_path, elsewhere, undisturbed)

"""When a checkpoint is due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from magdi_ray.config.distil import CheckpointConfig
from magdi_ray.distill.loop import Clock


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_every_so_many_steps_count_from_the_first_step_of_all() -> None:
    clock = Clock(CheckpointConfig(every_steps=4, every_minutes=None))
    assert [step for step in range(1, 13) if clock.due(step, "cpu")] == [4, 8, 12]


def test_minutes_count_from_the_last_checkpoint(alone: None) -> None:
    clock = Clock(CheckpointConfig(every_minutes=0.001))
    assert not clock.due(1, "cpu")
    time.sleep(0.07)
    assert clock.due(2, "cpu")
    clock.restart()
    assert not clock.due(3, "cpu")


def test_whichever_comes_first_counts(alone: None) -> None:
    clock = Clock(CheckpointConfig(every_steps=2, every_minutes=60))
    assert [clock.due(step, "cpu") for step in (1, 2, 3)] == [False, True, False]


def test_without_either_no_checkpoint_is_kept() -> None:
    clock = Clock(CheckpointConfig(every_steps=None, every_minutes=None))
    assert not clock.enabled
    assert not any(clock.due(step, "cpu") for step in range(1, 100))

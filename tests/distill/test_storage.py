"""Checkpoints on a local directory and on an fsspec file system: whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest
import torch

from magdi_ray.config.distil import CheckpointConfig
from magdi_ray.distill import train
from magdi_ray.distill.checkpoint.state import INDEX, save_tensors
from magdi_ray.distill.checkpoint.storage import Shelf, attempt_name, step_name
from magdi_ray.distill.job import TrainState
from magdi_ray.storage import open_storage


@pytest.fixture(params=["{}", "file://{}", "dir::file://{}"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """pyarrow reaches the first two itself, and the third through fsspec."""
    filesystem, path = open_storage(request.param.format(tmp_path / "storage"))
    return Shelf(filesystem, f"{path}/run".lstrip("/") if "dir" in request.param else f"{path}/run")


def put(shelf: Shelf, directory: Path, *steps: int) -> None:
    save_tensors(directory, {"a": torch.ones(3), "b": torch.ones(3)}, limit=20)
    for step in steps:
        shelf.put(directory, step_name(step))


def cut(shelf: Shelf, step: int, file: str) -> None:
    with shelf.filesystem.open_output_stream(f"{shelf.path}/{step_name(step)}/{file}") as stream:
        stream.write(b"{")


def test_the_newest_whole_checkpoint_is_found_and_half_ones_go(shelf: Shelf, tmp_path: Path) -> None:
    put(shelf, tmp_path / "local", 3, 99_999_999, 100_000_000, 100_000_001)
    cut(shelf, 100_000_000, "tensors-00001.safetensors")
    cut(shelf, 100_000_001, INDEX)
    assert shelf.tidy() == step_name(99_999_999)
    assert shelf.names() == [step_name(3), step_name(99_999_999)]


def test_an_empty_shelf_holds_nothing(shelf: Shelf) -> None:
    assert (shelf.names(), shelf.tidy()) == ([], None)
    shelf.remove(step_name(3))


def test_a_copy_that_fails_once_is_made_again(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, calls = pyarrow.fs.copy_files, []

    def flaky(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise OSError("the disk is away")
        copy(*args, **options)

    monkeypatch.setattr("pyarrow.fs.copy_files", flaky)
    put(shelf, tmp_path / "local", 3)
    assert (len(calls) > 2, shelf.is_whole(step_name(3))) == (True, True)


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], train.RayCheckpoints]:
    """Checkpoints as on the only worker of an attempt at a run."""
    monkeypatch.setattr(train.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(train.dist, "broadcast_object_list", lambda chosen, src: None)
    monkeypatch.setattr(train.dist, "barrier", lambda: None)

    def begin(number: int) -> train.RayCheckpoints:
        filesystem, path = open_storage(str(tmp_path / attempt_name(number)))
        storage = SimpleNamespace(storage_filesystem=filesystem, experiment_fs_path=path)
        monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_storage=lambda: storage))
        kept = CheckpointConfig(keep=2)
        job = SimpleNamespace(run=tmp_path.name, label="level4", identity="0" * 12, checkpoints=kept, attempt=number)
        return train.RayCheckpoints(job)  # type: ignore[arg-type]

    return begin


@pytest.fixture
def checkpoints(attempt: Callable[[int], train.RayCheckpoints]) -> train.RayCheckpoints:
    return attempt(1)


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), float(step))}


def test_the_best_weights_replace_those_before(checkpoints: train.RayCheckpoints) -> None:
    assert checkpoints.load_best(TrainState(step=2)) is None
    for step in (2, 4):
        checkpoints.keep_best(weights(step), TrainState(step=step, best_step=step))
    checkpoints.keep_best(None, TrainState(step=6, best_step=6))  # as on another worker
    assert checkpoints.best.names() == [step_name(4)]
    assert torch.equal(checkpoints.load_best(TrainState(best_step=4))["w"], weights(4)["w"])  # type: ignore[index]


def test_a_resumed_training_has_the_best_weights_of_its_checkpoint(
    checkpoints: train.RayCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = TrainState(step=6, best_step=4)
    monkeypatch.setattr(train, "load_state", lambda engine, directory: saved)
    checkpoints.keep_best(weights(4), TrainState(step=4, best_step=4))
    put(checkpoints.shelf, tmp_path / "local", 6)
    assert checkpoints.restore(None) is saved
    checkpoints.keep_best(weights(8), TrainState(step=8, best_step=8))
    assert torch.equal(checkpoints.load_best(TrainState(best_step=8))["w"], weights(8)["w"])  # type: ignore[index]
    assert checkpoints.restore(None) is saved
    assert torch.equal(checkpoints.load_best(TrainState(best_step=4))["w"], weights(4)["w"])  # type: ignore[index]
    assert checkpoints.load_best(TrainState(best_step=8)) is None  # undone by the resume: not another's in its place


def test_an_attempt_goes_on_from_what_an_earlier_one_left_and_its_best_weights(
    attempt: Callable[[int], train.RayCheckpoints], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = attempt(1)
    before.keep_best(weights(4), TrainState(step=4, best_step=4))
    put(before.shelf, tmp_path / "local", 6)
    read = list[Path]()
    monkeypatch.setattr(train, "load_state", lambda engine, at: read.append(at) or TrainState(step=6, best_step=4))
    after = attempt(2)
    assert after.restore(None).step == 6
    assert [path.parent for path in read] == [Path(before.shelf.path)]
    before.shelf.discard()
    assert torch.equal(after.load_best(TrainState(best_step=4))["w"], weights(4)["w"])  # type: ignore[index]


def test_an_attempt_thought_dead_takes_nothing_from_its_successor(
    attempt: Callable[[int], train.RayCheckpoints], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, after = attempt(1), attempt(2)
    put(after.shelf, tmp_path / "local", 6)
    put(dead.shelf, tmp_path / "local", 20, 30)
    dead.shelf.keep({step_name(30)})
    dead.shelf.tidy()
    assert after.shelf.names() == [step_name(6)]
    put(attempt(3).shelf, tmp_path / "local", 8)
    monkeypatch.setattr(train, "load_state", lambda engine, at: TrainState(step=int(at.name[-2:])))
    assert dead.restore(None).step == 30  # never what a later one wrote


def test_what_cannot_be_deleted_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(*open_storage(str(tmp_path)))
    for step in (1, 2):
        put(shelf, tmp_path / f"local-{step}", step)

    def forbidden(self: Shelf, name: str) -> None:
        raise PermissionError(name)

    monkeypatch.setattr(Shelf, "remove", forbidden)
    shelf.keep({step_name(2)})
    assert shelf.names() == [step_name(1), step_name(2)]

"""Distillation on Ray Train: workers, failures and checkpoints are Ray's; the loop is `distill.loop`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from magdi_ray.cluster import joins_cluster, root_cause
from magdi_ray.config.distil import ScalingConfig
from magdi_ray.config.resources import ANYWHERE, TrainingPlace
from magdi_ray.distill.checkpoint.state import load_state, load_tensors, save_state, save_tensors
from magdi_ray.distill.checkpoint.storage import Shelf, attempt_name, earlier_shelves, step_name, step_of
from magdi_ray.distill.job import Job, TrainState
from magdi_ray.distill.loop import run_training
from magdi_ray.distill.tokenising import tokenise_graphs
from magdi_ray.distill.watch.trackers import checkpointed
from magdi_ray.errors import EngineError, MagdiError
from magdi_ray.observe.logs import begin_work
from magdi_ray.storage import fetched, is_url, make_directory, open_storage, read_text, write_text

BEST = "best"


class RayCheckpoints:
    """`loop.Checkpoints` on the storage of the Ray Train run this worker belongs to.

    Rank 0 alone decides and removes; the others are told. Two shelves: the newest checkpoints, and under `best/` the weights
    with the lowest dev loss. Ray is told of every checkpoint, but never asked which there are and never the one to remove
    them: what it knows is always on storage too, and what was uploaded right before a kill is only there.

    Every attempt at the run has shelves of its own, and reads those before: one that was taken for ended and still writes can
    neither overwrite nor remove what a later one counts on.
    """

    def __init__(self, job: Job) -> None:
        import ray.train

        # One name for all starts of an attempt, so that what a kill left behind is written over.
        own = f"magdi-checkpoint-{job.run}-{_name(job)}-{dist.get_rank()}"
        self.scratch = Path(tempfile.gettempdir()) / f"{own}-{job.attempt:08d}"
        for left in self.scratch.parent.glob(f"{own}-*"):
            if left.name < self.scratch.name:
                shutil.rmtree(left, ignore_errors=True)
        self.keep, self.job = job.checkpoints.keep, job
        storage = ray.train.get_context().get_storage()
        self.shelf = Shelf(storage.storage_filesystem, storage.experiment_fs_path)
        self.best = Shelf(storage.storage_filesystem, f"{storage.experiment_fs_path}/{BEST}")
        self.needed_best: int | None = None
        """Step of the best weights that the newest checkpoint counts on."""

    def restore(self, engine: Any) -> TrainState:
        """Load the newest whole checkpoint, of this attempt or one before, and remove half ones. `TrainState()` without any."""
        chosen: list[tuple[str, str] | None] = [self._newest() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(chosen, src=0)
        state = TrainState()
        if chosen[0] is not None:
            shelf, name = Shelf(self.shelf.filesystem, chosen[0][0]), chosen[0][1]
            with self._local(shelf, name) as directory:
                state = load_state(engine, directory)
            if shelf.path != self.shelf.path and state.best_step is not None and dist.get_rank() == 0:
                self._take_over_best(Shelf(shelf.filesystem, f"{shelf.path}/{BEST}"), step_name(state.best_step))
        self._depend_on(state.best_step)  # what came after the checkpoint will come again
        return state

    def _newest(self) -> tuple[str, str] | None:
        """Shelf and name of the newest whole checkpoint."""
        if (own := self.shelf.tidy()) is not None:  # also before a later one of an attempt that was thought dead
            return self.shelf.path, own
        found = [(shelf.path, name) for shelf in earlier_shelves(self.shelf) for name in shelf.names() if shelf.is_whole(name)]
        return max(found, key=lambda one: (step_of(one[1]), one[0]), default=None)

    def _take_over_best(self, shelf: Shelf, name: str) -> None:
        if shelf.is_whole(name):
            with self._local(shelf, name) as directory:
                self.best.put(directory, name)

    def save(self, engine: Any, state: TrainState) -> None:
        """Every worker uploads its own files into one directory; older ones go when all of them are there.

        Raises:
            OSError: storage still fails after some attempts. Ray then starts the workers again, from the checkpoint before.
        """
        import ray.train

        directory = self.scratch
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)  # fails where another user has one of that name, who could put links into it
        try:
            save_state(engine, directory, state)
            ray.train.report(
                {"step": state.step},
                checkpoint=ray.train.Checkpoint.from_directory(str(directory)),
                checkpoint_dir_name=step_name(state.step),
                checkpoint_upload_fn=self._upload,
            )
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        dist.barrier()
        self._depend_on(state.best_step)
        if dist.get_rank() == 0:
            self.shelf.keep(set(self.shelf.names()[-self.keep :]))
            checkpointed(self.job, state.step)
            for shelf in earlier_shelves(self.shelf):
                shelf.discard()

    def _upload(self, checkpoint: Any, name: str) -> Any:
        import ray.train

        return ray.train.Checkpoint(self.shelf.put(Path(checkpoint.path), name), filesystem=self.shelf.filesystem)

    def keep_best(self, weights: dict[str, Tensor] | None, state: TrainState) -> None:
        """Keep these weights in place of the best so far, which stay until these are whole on storage.

        Those the newest checkpoint counts on also stay: a training resumed from it may not find these again.
        """
        if weights is None:
            return
        step = state.step if state.best_step is None else state.best_step
        with tempfile.TemporaryDirectory(prefix="magdi-best-") as directory:
            save_tensors(Path(directory), weights)
            self.best.put(Path(directory), step_name(step))
        self.best.keep({step_name(number) for number in (step, self.needed_best) if number is not None})

    def load_best(self, state: TrainState) -> dict[str, Tensor] | None:
        """The weights kept after `state.best_step` on rank 0; None elsewhere, and where they are not whole."""
        if dist.get_rank() != 0 or state.best_step is None or not self.best.is_whole(step_name(state.best_step)):
            return None
        with self._local(self.best, step_name(state.best_step)) as directory:
            return load_tensors(directory)

    def _depend_on(self, best_step: int | None) -> None:
        self.needed_best = best_step
        if dist.get_rank() == 0:
            self.best.keep(set() if best_step is None else {step_name(best_step)})

    @contextmanager
    def _local(self, shelf: Shelf, name: str) -> Iterator[Path]:
        """The files of a checkpoint on this machine; downloaded once for all its workers where storage is elsewhere."""
        import ray.train

        with ray.train.Checkpoint(f"{shelf.path}/{name}", filesystem=shelf.filesystem).as_directory() as directory:
            yield Path(directory)


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(settings["threads"])
    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    job = Job.model_validate_json(settings["job"])
    begin_work(job.run, "distil")
    facts = run_training(job, fetched(settings["tokens"]), RayCheckpoints(job))
    if ray.train.get_context().get_world_rank() == 0:
        write_text(settings["facts"], json.dumps(facts))


def distill(job: Job, scaling: ScalingConfig, *, storage: str | Path, place: TrainingPlace = ANYWHERE) -> dict[str, Any]:
    """Train one student on Ray Train and return the facts of the training.

    An earlier attempt at the same job (`job.identity`), with any number of workers and any ZeRO stage, is continued from its
    newest whole checkpoint. Checkpoints lie in `job.checkpoints.storage`, or in `storage`; `forget` deletes them once the student
    is safe.

    Args:
        job: what to train.
        scaling: on how many workers.
        place: on which nodes.
        storage: a directory all machines share, or a URL.

    Raises:
        EngineError: workers failed more than `scaling.max_failures` times, or once in a way that will not get better; carries
            the worker's error.
    """
    filesystem, path = _place(job, storage)
    home = str(storage) if is_url(str(storage)) else str(Path(storage).resolve())
    facts = f"{home}/{_name(job)}/facts-{job.attempt:08d}.json"
    settings: dict[str, Any] = {"job": job.model_dump_json(), "tokens": tokenise_graphs(job), "facts": facts}
    settings |= {"threads": max(1, int(scaling.num_cpus))}
    make_directory(filesystem, f"{path}/{_name(job)}")
    run = _run_config(attempt_name(job.attempt), f"{path}/{_name(job)}", filesystem, scaling)
    _forget_record(run)
    trainer = _trainer_class()(
        train_worker,
        train_loop_config=settings,
        scaling_config=_ray_scaling(scaling, place),
        run_config=run,
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps whatever happened in a worker; the person needs the worker's own words
        traceback.print_exc(file=sys.stdout)  # the whole of it, into the run's ray.log
        own = getattr(error, "controller_failure", error)
        raise EngineError(f"Training of {job.label!r} failed: {root_cause(own)}") from error
    text = read_text(facts)
    if text is None:
        raise EngineError(f"Training of {job.label!r} ended, but {facts} is not there. Was the run's directory moved meanwhile?")
    return json.loads(text)  # type: ignore[no-any-return]


def forget(job: Job, *, storage: str | Path) -> None:
    """Delete the checkpoints of a training whose student is kept elsewhere by now. Nothing is done where there are none."""
    for filesystem, path in (_place(job, storage), open_storage(str(storage))):
        Shelf(filesystem, path).remove(_name(job))


def _place(job: Job, storage: str | Path) -> tuple[Any, str]:
    """Where a run's checkpoints lie. Storage of one's own choosing may serve many runs, of which two may be equal."""
    filesystem, path = open_storage(job.checkpoints.storage or str(storage))
    return filesystem, f"{path}/{job.run}" if job.checkpoints.storage and job.run else path


def _name(job: Job) -> str:
    return f"{job.label}-{job.identity[:12]}"


def _trainer_class() -> Any:
    """Ray's trainer; on a Ray of one's own without the watch over its controller.

    The watch frees a cluster's machines when the controller dies. It asks the dashboard, which a local Ray has none of, and every
    training would wait twelve seconds for it at its end.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class LocalTrainer(TorchTrainer):  # type: ignore[misc, unused-ignore]
        def _create_default_callbacks(self) -> list[Any]:
            return [one for one in super()._create_default_callbacks() if not isinstance(one, PlacementGroupCleanerCallback)]

    return TorchTrainer if joins_cluster() else LocalTrainer


def _ray_scaling(scaling: ScalingConfig, place: TrainingPlace) -> Any:
    """With [min, max] workers Ray starts them again, from the newest checkpoint, whenever their number changes."""
    from ray.train import ScalingConfig as RayScalingConfig

    resources = {"CPU": scaling.num_cpus} | ({"GPU": 1} if scaling.use_gpu else {})
    return RayScalingConfig(
        num_workers=scaling.num_workers,
        use_gpu=scaling.use_gpu,
        resources_per_worker=resources | place.custom,
        accelerator_type=place.accelerator,
        label_selector=place.labels or None,
        placement_strategy=place.strategy,
    )


def _run_config(name: str, path: str, filesystem: Any, scaling: ScalingConfig) -> Any:
    from ray.train import FailureConfig, RunConfig
    from ray.train.v2.api.callback import UserCallback

    class GiveUpOnOwnErrors(UserCallback):  # type: ignore[misc, unused-ignore]
        """An error written for a person will be the same at the next attempt: what a callback raises is not tried again."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002 - Ray's signature
            for error in worker_exceptions.values():
                if isinstance(cause := getattr(error, "_base_exc", error), MagdiError):
                    raise cause

    # A driver cannot know what its workers have: each is told by what it reserved.
    environment = {} if scaling.use_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return RunConfig(
        name=name,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(max_failures=scaling.max_failures),
        callbacks=[GiveUpOnOwnErrors()],
        worker_runtime_env={"env_vars": environment},
    )


def _forget_record(run: Any) -> None:
    """Delete Ray Train's record of an earlier attempt: it refuses to start where the record was cut off by a kill or names a
    checkpoint that is gone, and `RayCheckpoints.restore` does not need it."""
    from pyarrow.fs import FileType

    context = run.storage_context
    if context.storage_filesystem.get_file_info(context.checkpoint_manager_snapshot_path).type != FileType.NotFound:
        context.storage_filesystem.delete_file(context.checkpoint_manager_snapshot_path)

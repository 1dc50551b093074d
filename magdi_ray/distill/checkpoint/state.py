"""The whole state of a training in files that depend neither on the number of workers nor on the ZeRO stage.

For every trained parameter: its float32 master weight and AdamW's two moments, each whole and under the parameter's name. Beside
them `checkpoint.json`, written last: every file with its size (so that a half copy is recognised), AdamW's step counters, the
learning-rate schedule and the `TrainState`. Nothing is pickled. Knows nothing of Ray and of storage; needs torch.distributed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from magdi_ray.distill.checkpoint.masters import masters_of, trained_shape
from magdi_ray.distill.job import TrainState
from magdi_ray.errors import EngineError

INDEX = "checkpoint.json"
SHARD_BYTES = 2 << 30
"""A file grows no further than this, unless a single tensor is larger."""
KINDS = ("weight", "exp_avg", "exp_avg_sq")


class Shards:
    """Writes named tensors into numbered safetensors files of bounded size; holds one file's worth in memory."""

    def __init__(self, directory: Path, prefix: str, *, limit: int = SHARD_BYTES) -> None:
        self.directory, self.prefix, self.limit = directory, prefix, limit
        self.files: dict[str, int] = {}
        self.held: dict[str, Tensor] = {}
        self.size = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor, copied to the CPU: the caller may change it afterwards."""
        size = tensor.numel() * tensor.element_size()
        if self.held and self.size + size > self.limit:
            self._write()
        self.held[name] = tensor.detach().to("cpu", copy=True).contiguous()
        self.size += size

    def _write(self) -> None:
        name = f"{self.prefix}-{len(self.files):05d}.safetensors"
        save_file(self.held, self.directory / name)
        self.files[name] = (self.directory / name).stat().st_size
        self.held, self.size = {}, 0

    def close(self) -> dict[str, int]:
        """Write what is left. Returns every file with its bytes."""
        if self.held:
            self._write()
        return self.files


def missing_files(index: str | bytes, sizes: Mapping[str, int]) -> list[str]:
    """Files an index names that are absent or have another size, given the sizes of those that are there.

    An index that cannot be read names itself: it was cut off.
    """
    try:
        files = json.loads(index)["files"]
    except (ValueError, KeyError, TypeError):
        return [INDEX]
    return sorted(name for name, size in files.items() if sizes.get(name) != size)


def is_whole(directory: Path) -> bool:
    """Whether a directory holds everything its index names."""
    index = directory / INDEX
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()} if directory.is_dir() else {}
    return index.exists() and not missing_files(index.read_bytes(), sizes)


def save_tensors(directory: Path, tensors: Mapping[str, Tensor], *, limit: int = SHARD_BYTES) -> None:
    """Write tensors, and the index over them last."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = Shards(directory, "tensors", limit=limit)
    for name, tensor in tensors.items():
        shards.add(name, tensor)
    (directory / INDEX).write_text(json.dumps({"files": shards.close()}), encoding="utf-8")


def load_tensors(directory: Path) -> dict[str, Tensor]:
    """What `save_tensors` wrote."""
    with ExitStack() as stack:
        return {name: read() for name, read in _readers(stack, directory, _read_index(directory)["files"]).items()}


def save_state(engine: Any, directory: Path, state: TrainState, *, limit: int = SHARD_BYTES) -> None:
    """Write the state of a training. Collective: every rank calls it and writes its share of the parameters.

    The ranks may write to one directory or to one each; together their files are the checkpoint. One parameter is gathered at
    a time, so no more memory is needed than one file takes.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    directory.mkdir(parents=True, exist_ok=True)
    masters = masters_of(engine)
    shards = Shards(directory, f"rank-{rank:05d}", limit=limit)
    for number, (name, parameter) in enumerate(_trained(engine)):
        owner = number % world
        for kind in KINDS:
            tensor = masters.read(parameter, kind, owner=owner)
            if rank == owner:
                shards.add(f"{kind}/{name}", tensor)
    files: list[dict[str, int]] = [{} for _ in range(world)]
    dist.all_gather_object(files, shards.close())
    if rank == 0:
        index = {
            "state": asdict(state),
            "schedule": {key: value for key, value in engine.lr_scheduler.state_dict().items() if key != "lr_lambdas"},
            "steps": {name: masters.read_step(parameter) for name, parameter in _trained(engine)},
            "shapes": {name: list(trained_shape(parameter)) for name, parameter in _trained(engine)},
            "files": {name: size for part in files for name, size in part.items()},
        }
        (directory / INDEX).write_text(json.dumps(index), encoding="utf-8")
    dist.barrier()


def load_state(engine: Any, directory: Path) -> TrainState:
    """Put a saved state into an engine, under whatever number of ranks and ZeRO stage it has now. Collective.

    `directory` holds the files of all ranks. Every rank reads, by memory map, only tensors of which it keeps a part.

    Raises:
        EngineError: files are missing, or the checkpoint is of a model with other parameters.
    """
    index = _read_index(directory)
    _check_shapes(engine, index["shapes"], directory)
    masters = masters_of(engine)
    with ExitStack() as stack:
        readers = _readers(stack, directory, index["files"])
        for name, parameter in _trained(engine):
            if masters.keeps(parameter):
                for kind in KINDS:
                    masters.write(parameter, kind, readers[f"{kind}/{name}"]())
    masters.write_steps({parameter: index["steps"][name] for name, parameter in _trained(engine)})
    masters.refresh()
    engine.lr_scheduler.load_state_dict(index["schedule"] | {"lr_lambdas": [None] * len(engine.lr_scheduler.lr_lambdas)})
    # The schedule sets the rates of the optimiser only when it steps; the next step must already use the restored ones.
    for group, rate in zip(engine.lr_scheduler.optimizer.param_groups, engine.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    dist.barrier()
    known = {field.name for field in fields(TrainState)}
    return TrainState(**{key: value for key, value in index["state"].items() if key in known})


def _trained(engine: Any) -> Iterable[tuple[str, nn.Parameter]]:
    """Tied weights appear once, under their first name."""
    return ((name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad)


def _readers(stack: ExitStack, directory: Path, files: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
    """Tensor name -> function that reads it."""
    readers: dict[str, Callable[[], Tensor]] = {}
    for file in files:
        handle = stack.enter_context(safe_open(directory / file, framework="pt"))
        for name in handle.keys():  # noqa: SIM118 - a safetensors handle cannot be iterated over
            readers[name] = lambda handle=handle, name=name: handle.get_tensor(name)  # type: ignore[misc]
    return readers


def _read_index(directory: Path) -> dict[str, Any]:
    if not is_whole(directory):
        raise EngineError(f"A whole checkpoint is required; {directory} lacks files or holds cut ones. Delete it.")
    return json.loads((directory / INDEX).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _check_shapes(engine: Any, found: Mapping[str, list[int]], directory: Path) -> None:
    wanted = {name: list(trained_shape(parameter)) for name, parameter in _trained(engine)}
    different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if different:
        name = different[0]
        raise EngineError(
            f"The checkpoint {directory} is of another model: {len(different)} parameters differ, {name!r} has shape "
            f"{found.get(name)} there and {wanted.get(name)} here. Continue with the settings it was made with, or delete it."
        )

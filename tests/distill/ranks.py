"""Ranks of a process group on this machine, each a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def start(work: Callable[..., None], world: int, *arguments: Any, join: bool = True) -> Any:
    """`work(rank, world, *arguments)` on every rank of a process group over gloo, with one thread each.

    Returns what waits for them where `join` does not.
    """
    # They meet in a file: a port that was free may be taken by the time it is used.
    meeting = Path(tempfile.mkdtemp(prefix="magdi-ranks-")) / "meeting"
    return mp.spawn(_rank, (world, meeting, work, arguments), nprocs=world, join=join)


def _rank(rank: int, world: int, meeting: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "CUDA_VISIBLE_DEVICES": ""}
    # DeepSpeed asks for an address even where it finds the group made, and does not use it.
    os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=f"file://{meeting}")
    work(rank, world, *arguments)
    dist.barrier()
    dist.destroy_process_group()

"""This machine: processors, memory, shared memory, disks, open files and GPUs, with the bounds that Ray puts on them.

Linux is looked at in full; elsewhere what /proc and /dev/shm would tell is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from magdi_ray.doctor.check import Finding, failed, ok, size, warning

GIB = 1 << 30
LEAST_MEMORY = 2 * GIB
"""Available memory under which Ray, with one worker that imports torch, hardly starts."""
KILL_SHARE = 0.95
"""Of the memory: beyond it Ray ends workers (RAY_memory_usage_threshold). Of a disk: beyond it Ray stores nothing more on it
(RAY_local_fs_capacity_threshold)."""
NEAR_SHARE = 0.90
LEAST_DISK = 5 * GIB
"""Free space under which a run's checkpoints, or a model from the hub, may not find room."""
STORE_SHARE = 0.3
"""Of the available memory: Ray's object store, where nothing else is said."""
STORE_ON_DISK = 10 * 10**9
"""Where /dev/shm is smaller than the object store, Ray cuts the store to it, but to no less than so many bytes: those it would
rather keep on a disk."""
LEAST_FILES = 1024
GOOD_FILES = 8192
"""Open files under which Ray itself warns."""
SHARED = "/dev/shm"  # noqa: S108 - it is looked at, nothing is kept there
CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60


class Space(NamedTuple):
    """Of one file system, in bytes; `free` is what is free to an ordinary user."""

    total: int
    used: int
    free: int


class Memory(NamedTuple):
    """In bytes."""

    total: int
    available: int
    limited: bool
    """By a container (cgroup) rather than by the machine."""


class Card(NamedTuple):
    """One GPU, as nvidia-smi tells."""

    name: str
    driver: str
    total: int
    """Bytes."""
    free: int


def check_cores(cores: int) -> Iterator[Finding]:
    """Ray's own processes, a worker and the driver are at work side by side."""
    if cores < 2:
        yield warning("CPUs", "1 core", "Ray, its workers and the command share it: expect a run to be slow.")
    else:
        yield ok("CPUs", f"{cores} cores")


def read_memory(proc: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> Memory | None:
    """What this process may have: the machine's memory, or its container's. None where there is no /proc."""
    if not proc.is_file():
        return None
    fields = dict(line.split(":", 1) for line in proc.read_text(encoding="ascii").splitlines() if ":" in line)
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = _number(cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes")
    if limit is None or limit >= min(total, UNLIMITED):
        return Memory(total, available, limited=False)
    used = _number(cgroup / "memory.current", cgroup / "memory" / "memory.usage_in_bytes") or 0
    stat = next((f for f in (cgroup / "memory.stat", cgroup / "memory" / "memory.stat") if f.is_file()), None)
    lines = stat.read_text(encoding="ascii").splitlines() if stat else []
    # Cached files are given up when memory is short.
    cached = next((int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "total_inactive_file "))), 0)
    return Memory(limit, max(0, min(available, limit - used + cached)), limited=True)


def _number(*files: Path) -> int | None:
    """The number in the first of some files that is there; None for none, and for "max"."""
    for file in files:
        if file.is_file():
            text = file.read_text(encoding="ascii").strip()
            return int(text) if text.isdigit() else None
    return None


def check_memory(memory: Memory | None) -> Iterator[Finding]:
    """There is room for Ray and its workers, well below where it ends them."""
    if memory is None:
        return
    whose = " (the container's limit)" if memory.limited else ""
    found = f"{size(memory.available)} of {size(memory.total)} available{whose}"
    used = 1 - memory.available / max(1, memory.total)
    if used >= KILL_SHARE:
        yield failed("memory", found, f"Ray ends workers above {KILL_SHARE:.0%}: end other programs, or take a larger machine.")
    elif memory.available < LEAST_MEMORY:
        yield warning("memory", found, f"{size(LEAST_MEMORY)} and more are needed: end other programs, or take a larger machine.")
    else:
        yield ok("memory", found)


def check_shared_memory(memory: Memory | None, shared: Path = Path(SHARED), space: Space | None = None) -> Iterator[Finding]:
    """Ray's object store fits into /dev/shm; else Ray puts it on a disk."""
    if memory is None or not shared.is_dir():
        return
    space = space or disk_usage(shared)
    wanted = min(STORE_SHARE * memory.available, max(STORE_ON_DISK, 0.95 * space.total))
    if space.free < wanted:
        yield warning(
            SHARED,
            f"{size(space.free)} free, but Ray's object store takes {size(wanted)}: it would lie on a disk, and be slow",
            f"Make it larger (docker run --shm-size={wanted / GIB:.0f}g; Kubernetes: an emptyDir with medium Memory).",
        )
    else:
        yield ok(SHARED, f"{size(space.free)} free; Ray's object store takes {size(wanted)} of it")


def existing(path: Path) -> Path:
    """A path, or the nearest directory above it that is there."""
    path = path.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def disk_usage(path: Path) -> Space:
    """Space of the file system on which a path lies, or would lie."""
    return Space(*shutil.disk_usage(path))


def check_disk(name: str, path: Path, usage: Callable[[Path], Space] = disk_usage, *, ray: bool = False) -> Iterator[Finding]:
    """There is room where a path lies. `ray`: Ray keeps its objects there too, and refuses a disk that is nearly full."""
    space = usage(existing(path))
    used = 1 - space.free / max(1, space.total)
    found = f"{path}: {size(space.free)} free of {size(space.total)}, {used:.0%} used"
    where = " or name another directory with RAY_TMPDIR" if ray else " or choose another one"
    if ray and used >= KILL_SHARE:
        yield failed(name, found, f"Ray stores nothing more on a disk above {KILL_SHARE:.0%}: free some,{where}.")
    elif space.free < LEAST_DISK / 10 or used >= 0.99:
        yield failed(name, found, f"This disk is full: free some,{where}.")
    elif space.free < LEAST_DISK or (ray and used >= NEAR_SHARE):
        bound = f"Ray stores nothing more on a disk above {KILL_SHARE:.0%}" if ray else "Checkpoints and models take gigabytes"
        yield warning(name, found, f"{bound}: free some,{where}.")
    else:
        yield ok(name, found)


def check_inodes(name: str, path: Path, counted: Callable[[Path], tuple[int, int]] | None = None) -> Iterator[Finding]:
    """A file system can hold more files (`counted`: of a path, all inodes and free ones). Some count none; those have room."""
    total, free = (counted or _inodes)(existing(path))
    if total and free < 1000:
        yield failed(name, f"{path}: room for {free} more files, though bytes may be free", "Remove files that are not needed.")


def _inodes(path: Path) -> tuple[int, int]:
    status = os.statvfs(path)
    return status.f_files, status.f_favail


def check_open_files(soft: int, hard: int) -> Iterator[Finding]:
    """A process may open as many files and sockets as Ray's processes do. Negative numbers mean: no bound."""
    allowed = max(soft, hard) if hard >= 0 and soft >= 0 else -1  # Ray takes what the hard limit allows
    found = f"{soft if soft >= 0 else 'any number'} (at most {hard if hard >= 0 else 'any number'})"
    if 0 <= allowed < LEAST_FILES:
        yield failed("open files", found, "Ray needs thousands: raise the limit (ulimit -n 65536, or nofile in limits.conf).")
    elif 0 <= allowed < GOOD_FILES or 0 <= soft < LEAST_FILES:
        yield warning("open files", found, "Ray may run out of them: ulimit -n 65536")
    else:
        yield ok("open files", found)


def open_file_limits() -> tuple[int, int]:
    """Soft and hard limit of this process."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (soft if soft != resource.RLIM_INFINITY else -1), (hard if hard != resource.RLIM_INFINITY else -1)


def read_cards(program: str | None = None, *, limit_s: float = 8.0) -> list[Card] | str:
    """This machine's NVIDIA GPUs; a text where there should be some and nvidia-smi cannot say."""
    program = program or shutil.which("nvidia-smi")
    if program is None:
        devices = sorted(Path("/dev").glob("nvidia[0-9]*")) if sys.platform == "linux" else []
        return f"{len(devices)} GPU devices in /dev, but no nvidia-smi" if devices else []
    query = ["--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - found on the PATH, without a shell
            [program, *query], capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"nvidia-smi gave no answer within {limit_s:g} s"
    except OSError as error:
        return f"{program} cannot be run: {error.strerror}"
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return f"nvidia-smi fails: {said[0] if said else f'exit code {done.returncode}'}"
    return [card for line in done.stdout.splitlines() if (card := _card(line)) is not None]


def _card(line: str) -> Card | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 4:
        return None
    total, free = (int(number) << 20 if number.isdigit() else 0 for number in fields[2:])  # "[N/A]": one memory with the CPU
    return Card(fields[0], fields[1], total, free)


def check_gpus(cards: list[Card] | str, *, wanted: float, elsewhere: bool) -> Iterator[Finding]:
    """There are the GPUs a run asks for, and others do not fill them. `elsewhere`: it runs on a cluster, not here."""
    if isinstance(cards, str):
        yield (failed if wanted and not elsewhere else warning)("GPUs", cards, "Install or repair the NVIDIA driver.")
        return
    if wanted > len(cards) and not elsewhere:
        todo = "Lower what asks for GPUs (use_gpu, num_gpus, num_workers), or point RAY_ADDRESS to a cluster that has them."
        yield failed("GPUs", f"{len(cards)}, but a stage of this run takes {wanted:g} at once", todo)
        return
    if not cards:
        yield ok("GPUs", "none")
        return
    full = [card for card in cards if card.total and card.free < 0.8 * card.total]
    found = f"{len(cards)} x {cards[0].name}, driver {cards[0].driver}, {size(min(card.free for card in cards))} free or more"
    if full:
        yield warning("GPUs", f"{found}; {len(full)} of them in use", "Another program holds their memory: see nvidia-smi.")
    else:
        yield ok("GPUs", found)


def ray_directory(environment: Mapping[str, str]) -> Path:
    """Where Ray keeps its sessions."""
    return Path(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp") / "ray"  # noqa: S108 - Ray's own default


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where models from the hub are kept."""
    home = Path(environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()

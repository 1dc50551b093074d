"""The machine: full disks, small memories, few open files, missing GPUs, each told from one that will do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from magdi_ray.doctor import machine
from magdi_ray.doctor.check import Finding
from magdi_ray.doctor.machine import GIB, Card, Memory, Space


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def disk(used_share: float, total: int = 1000 * GIB, *, ray: bool = False) -> Finding:
    space = Space(total, int(total * used_share), int(total * (1 - used_share)))
    (finding,) = machine.check_disk("disk", Path("/nowhere/run"), lambda _: space, ray=ray)
    return finding


@pytest.mark.parametrize(
    ("used", "ray", "state"),
    [(0.5, True, "ok"), (0.92, True, "warning"), (0.96, True, "failed"), (0.96, False, "ok"), (0.997, False, "failed")],
)
def test_a_disk_that_fills_is_named_before_ray_refuses_it(used: float, ray: bool, state: str) -> None:
    assert disk(used, ray=ray).state == state


def test_a_small_disk_is_named_with_its_numbers() -> None:
    finding = disk(0.5, total=4 * GIB)
    assert finding.state == "warning"
    assert finding.found == "/nowhere/run: 2.0 GiB free of 4.0 GiB, 50% used"


def test_a_real_disk_of_64_kib_that_is_full_is_found(tiny_disk: Path) -> None:
    (tiny_disk / "blob").write_bytes(b"x" * 60_000)
    (finding,) = machine.check_disk("run's disk", tiny_disk / "runs" / "a")
    assert finding.state == "failed"
    assert "full" in finding.todo


def test_a_disk_without_inodes_is_named_and_one_that_counts_none_is_not() -> None:
    (finding,) = machine.check_inodes("disk", Path("/"), lambda _: (100_000, 3))
    assert (finding.state, "room for 3 more files" in finding.found) == ("failed", True)
    assert list(machine.check_inodes("disk", Path("/"), lambda _: (0, 0))) == []


def test_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 12582912 kB\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path) == Memory(16 * GIB, 12 * GIB, limited=False)
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path) == Memory(4 * GIB, 2 * GIB, limited=True)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path) == Memory(16 * GIB, 12 * GIB, limited=False)


def test_memory_that_ray_would_end_workers_in_is_named() -> None:
    states = [
        next(machine.check_memory(Memory(16 * GIB, available, limited=False))).state
        for available in (8 * GIB, int(1.5 * GIB), int(0.5 * GIB))
    ]
    assert states == ["ok", "warning", "failed"]


def test_docker_s_64_mib_of_shared_memory_are_too_few_for_ray(tmp_path: Path) -> None:
    memory = Memory(32 * GIB, 30 * GIB, limited=True)
    (finding,) = machine.check_shared_memory(memory, tmp_path, Space(64 << 20, 0, 64 << 20))
    assert finding.state == "warning"
    assert "--shm-size=9g" in finding.todo
    (finding,) = machine.check_shared_memory(memory, tmp_path, Space(16 * GIB, 0, 16 * GIB))
    assert finding.state == "ok"


def test_few_open_files_are_named() -> None:
    limits = [(256, 512), (1024, 4096), (1024, 65536), (20000, 20000), (-1, -1)]
    assert [next(machine.check_open_files(*limit)).state for limit in limits] == ["failed", "warning", "ok", "ok", "ok"]


def gpus(cards: list[Card] | str, wanted: float, *, elsewhere: bool = False) -> Finding:
    (finding,) = machine.check_gpus(cards, wanted=wanted, elsewhere=elsewhere)
    return finding


def test_missing_gpus_are_named_unless_the_run_goes_to_a_cluster() -> None:
    assert gpus([], 8).found == "0, but a stage of this run takes 8 at once"
    assert gpus([], 8).state == "failed"
    assert gpus([], 8, elsewhere=True).state == "ok"
    assert gpus([], 0).state == "ok"


def test_gpus_that_others_fill_are_named() -> None:
    free, full = Card("H200", "580.1", 140 * GIB, 139 * GIB), Card("H200", "580.1", 140 * GIB, 2 * GIB)
    assert gpus([free, free], 2).state == "ok"
    assert gpus([free, full], 2).state == "warning"
    assert "1 of them in use" in gpus([free, full], 2).found


def smi(tmp_path: Path, script: str) -> str:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_nvidia_smi_is_read_and_its_failure_is_named(tmp_path: Path) -> None:
    found = machine.read_cards(smi(tmp_path, 'echo "NVIDIA H200, 580.95.05, 143771, 143000"'))
    assert found == [Card("NVIDIA H200", "580.95.05", 143771 << 20, 143000 << 20)]
    said = machine.read_cards(smi(tmp_path, 'echo "NVIDIA-SMI has failed: no driver"; exit 9'))
    assert said == "nvidia-smi fails: NVIDIA-SMI has failed: no driver"
    assert machine.read_cards(smi(tmp_path, "exec sleep 20"), limit_s=0.3) == "nvidia-smi gave no answer within 0.3 s"
    assert gpus(said, 1).state == "failed"


def test_a_path_that_is_yet_to_be_made_lies_where_its_nearest_parent_does(tmp_path: Path) -> None:
    assert machine.existing(tmp_path / "a" / "b") == tmp_path
    assert machine.ray_directory({"RAY_TMPDIR": "/big"}) == Path("/big/ray")
    assert machine.hub_cache({"HF_HOME": "/hf"}) == Path("/hf/hub")

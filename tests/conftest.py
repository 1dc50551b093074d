"""Fixtures every test may use: the recorded data, and one real local Ray for the whole session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from magdi_ray.lease import Lease
from tests.browsing import browser  # noqa: F401 - a fixture

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A training of seconds would spend most of them waiting: every checkpoint and the end are seen when Ray looks at its workers.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process for every training; nobody takes machines away here

ROOT = Path(__file__).parent.parent
LONGEST = (
    *("test_debates.py", "test_pipeline.py", "test_faults.py", "test_train.py", "test_endpoint.py"),
    *("test_zero.py", "test_pool.py", "test_dataset.py", "test_limiter.py", "test_doctor_command.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file stays in one of several processes, and the others would wait for one that began last."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def leases_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each has a thread, which would go on to renew it until the last test."""
    taken: list[Lease] = []
    acquire = Lease.acquire

    def remembering(self: Lease) -> int:
        taken.append(self)
        return acquire(self)

    monkeypatch.setattr(Lease, "acquire", remembering)
    yield
    for lease in taken:
        lease.release()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Published questions and debates; tests that need them are skipped where they are absent."""
    path = Path(os.environ.get("MAGDI_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no recorded data at {path}; set MAGDI_DATA")
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: models this small gain nothing by more, and tests run side by side."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local Ray with 4 logical CPUs, started once."""
    import ray

    from magdi_ray.cluster import ray_session

    temp = tempfile.mkdtemp(prefix="magdi-ray-")  # short: Ray's sockets live below it
    with ray_session(num_cpus=4, temp_dir=temp):
        assert ray.is_initialized()
        yield
    shutil.rmtree(temp, ignore_errors=True)

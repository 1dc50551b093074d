"""Ray as stages see it: whose words an error has, and what ends with a stage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest

from magdi_ray.agents.limiter import start_limiter
from magdi_ray.cluster import ending_actors, on_own_node, quiet_ray_data, root_cause

pytestmark = pytest.mark.cluster


def test_an_error_within_ray_data_is_told_in_the_workers_own_words(ray_cluster: None) -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    class Refusing:  # in here, so that workers get it and need no tests of ours
        async def __call__(self, batch: dict[str, Any]) -> Any:
            raise ValueError("the books are closed:\n come tomorrow")
            yield batch

    with pytest.raises(Exception, match="UDF failed") as raised:
        ray.data.range(4).map_batches(Refusing, compute=ActorPoolStrategy(size=1), num_cpus=0.1).materialize()
    assert root_cause(raised.value) == "ValueError: the books are closed:\n come tomorrow"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_files_that_a_disk_refuses_for_a_moment_are_written_again(ray_cluster: None, tmp_path: Path, number: int) -> None:
    import ray.data
    from fsspec.implementations.local import LocalFileSystem
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    refused = tmp_path / "refused"

    class Refusing(FSSpecHandler):
        def open_output_stream(self, path: str, metadata: Any) -> Any:
            if not refused.exists():
                refused.touch()
                raise OSError(number, os.strerror(number))
            return super().open_output_stream(path, metadata)

    quiet_ray_data()
    ray.data.range(4).write_parquet(str(tmp_path / "out"), filesystem=PyFileSystem(Refusing(LocalFileSystem())))
    assert refused.exists()
    assert pq.read_table(tmp_path / "out").num_rows == 4


def test_an_actor_that_a_stage_cannot_do_without_is_wanted_on_the_drivers_node(ray_cluster: None) -> None:
    import ray

    wanted = on_own_node()
    assert (wanted.node_id, wanted.soft) == (ray.get_runtime_context().get_node_id(), True)


def test_an_actor_ends_with_its_stage_also_while_somebody_holds_it(ray_cluster: None) -> None:
    import ray
    from ray.exceptions import RayActorError

    with ending_actors() as until_end:
        actor = until_end(start_limiter({}))
        ray.get(actor.read.remote())

    def ask_on() -> None:  # Ray is told to end it, and does so when it can
        for _ in range(300):
            ray.get(actor.read.remote(), timeout=30)
            time.sleep(0.1)

    with pytest.raises(RayActorError):
        ask_on()


GARBAGE = """
import gc, sys, threading, time
import ray
from magdi_ray.cluster import ray_session

held = []

def drop():  # each reference in a cycle, for whichever thread looks for such next
    while held:
        cycle = [held.pop()]
        cycle.append(cycle)
        del cycle
        time.sleep(0.001)

with ray_session(num_cpus=1, temp_dir=sys.argv[1]):
    gc.set_threshold(2)
    held += [ray.put(1) for _ in range(8000)]
    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
assert held, "nothing was left to collect when Ray ended"
time.sleep(0.5)
print("goes on")
"""


def test_a_process_in_which_another_thread_collects_garbage_survives_the_end_of_ray() -> None:
    with TemporaryDirectory(prefix="magdi-ray-") as short:
        done = subprocess.run([sys.executable, "-c", GARBAGE, short], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "goes on"), done.stderr


ENDED = """
import os, signal, sys
from magdi_ray.cluster import ray_session

signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with ray_session(num_cpus=1, temp_dir=sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
except KeyboardInterrupt:
    print("interrupted")
import ray
try:
    ray.put(1)
except ray.exceptions.RaySystemError:
    print("no Ray")
"""


def test_a_session_leaves_sigterm_as_it_was_and_no_ray_comes_after_it() -> None:
    with TemporaryDirectory(prefix="magdi-ray-") as short:
        done = subprocess.run([sys.executable, "-c", ENDED, short], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n") == ["interrupted", "no Ray", ""], done.stderr


UNDER_WAY = """
import sys, threading, time
import ray.data
from magdi_ray.cluster import ray_session

with ray_session(num_cpus=2, temp_dir=sys.argv[1]):
    def slowly(row):
        time.sleep(0.05)
        return row

    rows = iter(ray.data.range(2000, override_num_blocks=500).map(slowly, num_cpus=0.5).iter_rows())
    next(rows)
    working = [thread for thread in threading.enumerate() if type(thread).__name__ == "StreamingExecutor"]
    assert working, "nothing is under way"
assert not any(thread.is_alive() for thread in working)
print("goes on")
"""


def test_work_of_ray_data_that_is_under_way_ends_before_ray_does() -> None:
    with TemporaryDirectory(prefix="magdi-ray-") as short:
        done = subprocess.run([sys.executable, "-c", UNDER_WAY, short], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "goes on"), done.stderr

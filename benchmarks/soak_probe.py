"""What runs inside the processes of a served student while it is soaked: counts that only they know. Sent to them by value.

It reads the insides of Ray Serve's replica and of transformers' continuous batching, as they are in the versions this project is
tested with; what another version calls otherwise is left out of the figures.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

NAMESPACE = "serve"


def inside(replica: Any, collected: bool) -> dict[str, float]:
    """The counts of one Serve replica: of a front door, or of a copy of the student.

    `collected`: after garbage was collected and what malloc has free was given back; then also the MB that are resident.
    """
    found: dict[str, float] = {}
    if collected:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        found["resident"] = psutil.Process().memory_info().rss / 1e6
    found["blocks"] = sys.getallocatedblocks()
    served = replica._replica_impl._user_callable_wrapper._callable
    agent = getattr(served, "_agent", None)
    if agent is not None:
        processor = agent._desk._manager.batch_processor
        found["under_way"] = agent.in_flight
        found["waiting"] = len(processor.scheduler.waiting_requests)
        found["rows"] = len(processor.scheduler.active_requests)
        found["pages"] = pages_held(processor.cache)
        found["tokens"] = agent.tokens_generated
    app = getattr(served, "_asgi_app", None)
    door = getattr(getattr(app, "state", None), "door", None)
    if door is not None:
        found["draws"], found["bodies"] = door.draws.taken, door.bodies.taken
    return found


def pages_held(cache: Any) -> int:
    """Pages of the cache that rows hold; those that are kept for their prefix alone are free for the asking, and not counted."""
    return sum(len(pages) for allocator in cache.cache_allocators.values() for pages in list(allocator.block_table.values()))


class Probe:
    """Asks the replicas of the application `student` on the cluster that this process has joined."""

    def __init__(self) -> None:
        import ray

        self._actors: dict[str, Any] = {}
        for row in ray.util.list_named_actors(all_namespaces=True):
            for deployment in ("student", "door"):
                if row["name"].startswith(f"SERVE_REPLICA::student#{deployment}#"):
                    self._actors[deployment] = ray.get_actor(row["name"], namespace=row["namespace"])

    def ask(self, *, collected: bool = False) -> dict[str, float]:
        """Counts of both, such as `student pages`."""
        import ray

        refs = {name: actor.__ray_call__.remote(inside, collected) for name, actor in self._actors.items()}
        return {f"{name} {what}": value for name, ref in refs.items() for what, value in ray.get(ref, timeout=20).items()}


@contextmanager
def probing(address: str) -> Iterator[Probe]:
    """Join a cluster for as long as the body runs; it must not end before: Ray would end this process."""
    import ray
    from ray import cloudpickle

    ray.init(address=address, namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        yield Probe()
    finally:
        ray.shutdown()

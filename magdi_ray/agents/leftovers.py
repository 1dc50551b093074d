"""Engines that nobody asks any more: a driver that is killed leaves its Serve applications on the cluster, with all they reserve.

An application's name says which of Ray's jobs deployed it (`pool.unique_app`); Ray knows which of its jobs are over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from magdi_ray.agents.pool import retire_engines

OWNER = re.compile(r"^(?:debate|evaluate)-.+-j(?P<job>[0-9a-f]{8})-[0-9a-f]{8}$")


def deployed_by(jobs: Collection[str], applications: Collection[str]) -> list[str]:
    """Those of the applications that one of these jobs of Ray has deployed; other people's have other names."""
    return [name for name in applications if (match := OWNER.match(name)) and match["job"] in jobs]


@contextmanager
def no_engines_left() -> Iterator[None]:
    """Retire the engines of drivers that are gone, and in the end, however it comes, those that this driver still has.

    The last matters on a cluster that goes on, where a stage was interrupted while it retired its own.
    """
    import ray
    from ray import serve

    retire_engines(deployed_by(_ended_jobs(), serve.status().applications))
    try:
        yield
    finally:
        if ray.is_initialized():
            own = ray.get_runtime_context().get_job_id()
            retire_engines(deployed_by([own], serve.status().applications), wait=False)


def _ended_jobs() -> set[str]:
    import ray

    return {job["JobID"] for job in ray._private.state.jobs() if job["IsDead"]}

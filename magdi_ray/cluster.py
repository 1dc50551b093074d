"""A Ray session: joined where one is running, started where none is, ended only by whoever started it.

Knows nothing of the stages. The only module that calls `ray.init`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Set for the driver and every worker."""

COORDINATION = 2

QUIET = ("ray", "ray.data", "ray.serve", "ray.train", "ray.tune")


@contextmanager
def ray_session(*, num_cpus: int | None = None, temp_dir: str | None = None, quiet: bool = True) -> Iterator[None]:
    """Run the body inside Ray.

    An initialised Ray, or the cluster named by RAY_ADDRESS, is used and left running; otherwise a local one is started with
    `num_cpus` logical CPUs and shut down at the end, with its Serve applications. None takes the machine's cores and
    `COORDINATION` more, for readers, writers and controllers that mostly wait: without them a pool that fills the machine
    would wait for its own input.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    started = not ray.is_initialized()
    if started:
        local = "RAY_ADDRESS" not in os.environ
        ray.init(
            address="local" if local else os.environ["RAY_ADDRESS"],
            num_cpus=(num_cpus or cores() + COORDINATION) if local else None,
            include_dashboard=False if local else None,
            logging_level=logging.ERROR if quiet else logging.INFO,
            log_to_driver=not quiet,
            runtime_env={"env_vars": worker_environment()},
            _temp_dir=temp_dir if local else None,
        )
    for name in QUIET if quiet else ():
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        if started:
            from ray import serve

            serve.shutdown()
            ray.shutdown()


def worker_environment() -> dict[str, str]:
    """Environment variables of every worker. DeepSpeed is told to use the CPU where there is no GPU."""
    import torch

    variables = {key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()}
    if not torch.cuda.is_available():
        variables["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")
    for key in ("HF_HUB_OFFLINE", "MAGDI_DATA"):
        if key in os.environ:
            variables[key] = os.environ[key]
    return variables


def available() -> tuple[float, float]:
    """CPUs and GPUs a run could use: the running cluster's, or this machine's where none is running. Starts nothing."""
    import ray
    import torch

    if ray.is_initialized():
        resources = ray.cluster_resources()
        return resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return float(cores()), float(torch.cuda.device_count())


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

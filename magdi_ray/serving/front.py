"""The front door put together from an endpoint's arguments: API, keys, votes, playground. Knows no Ray."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from magdi_ray.agents.weights import base_and_adapter
from magdi_ray.config.serving import Endpoint, StudentArgs
from magdi_ray.distill.job import HEADS
from magdi_ray.errors import RunError
from magdi_ray.serving.access import open_log
from magdi_ray.serving.backend import AHEAD, Backend, Teachers
from magdi_ray.serving.door import DoorSettings, create_api, require_key
from magdi_ray.serving.ensemble import Ensemble
from magdi_ray.serving.keys import open_keys
from magdi_ray.serving.metrics import open_recorder
from magdi_ray.serving.playground.debates import RunDebates
from magdi_ray.serving.playground.routes import PageConfig, playground_router
from magdi_ray.tasks.base import Task
from magdi_ray.tasks.load import task_named

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

logger = logging.getLogger(__name__)


def front_door(args: StudentArgs, backend: Backend, teachers: Teachers | None) -> FastAPI:
    """The HTTP interface of a student.

    Raises:
        ConfigError: the keys cannot be read, or there is no such task.
    """
    task = None if args.task is None else task_named(args.task)
    settings = DoorSettings(
        model_name=args.model_name,
        endpoint=Endpoint.model_validate(args.model_dump(include=set(Endpoint.model_fields))),
        adapters=tuple(args.adapters),
        created=int(time.time()),
        version=args.version,
        debate_tokens=args.debate_tokens,
        proxied=True,
        capacity=capacity_of(args),
    )
    open_log(args.access_log)
    return create_api(
        backend,
        settings,
        keys=open_keys(args),
        ensemble=None if task is None else Ensemble(backend, task, teachers),
        extra_routes=[playground(args, task)] if args.playground else [],
        recorder=open_recorder(),
    )


def capacity_of(args: StudentArgs) -> int:
    """Replies that one front door has under way at once: what all copies decode and take in, and `max_queued` behind them."""
    return max(1, (AHEAD * args.replicas[1] * args.max_batch_size + args.max_queued) // args.doors)


def playground(args: StudentArgs, task: Task | None) -> APIRouter:
    """The page at `/`, with the run's questions where there is a run."""
    page = PageConfig(
        model=args.model_name,
        task=args.task,
        max_samples=args.max_samples,
        escalate=args.escalate,
        verifier=has_heads(args),
        default_max_tokens=args.default_max_tokens,
        keys=bool(args.api_keys_file or args.api_keys_env),
    )
    return playground_router(debates_of(args, task), page=page, require_key=require_key)


def debates_of(args: StudentArgs, task: Task | None) -> RunDebates | None:
    """The run's questions and debates; None where there is no run, or none that this machine sees."""
    if args.run is None or task is None:
        return None
    try:
        return RunDebates(Path(args.run), task)
    except RunError as error:
        logger.warning("The playground shows no questions: %s", error)
        return None


def has_heads(args: StudentArgs) -> bool | None:
    """Whether the student was taught with a head that judges replies; None where its files are not here."""
    if args.engine == "vllm":
        return False  # it gives no hidden states
    base, adapter = base_and_adapter(args.model)
    directory = Path(adapter or base)
    if not directory.is_dir():
        return None
    try:
        with safe_open(directory / HEADS, framework="numpy") as heads:
            return bool(list(heads.keys()))
    except (OSError, SafetensorError):
        return False

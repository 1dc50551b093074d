"""The student as a Serve application: front doors that speak HTTP, copies of the model behind them, the teachers beside them.

`build` is the import path of Serve config files (`serve/student.yaml`); `deploy` does the same from Python.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from magdi_ray.agents.pool import copies, retire_engines, wait_until_running
from magdi_ray.agents.weights import base_and_adapter, check_model_directory, resolve_model
from magdi_ray.cluster import root_cause
from magdi_ray.config.engines import TransformersEngine, located_model, model_files
from magdi_ray.config.load import parse_section
from magdi_ray.config.resources import Place
from magdi_ray.config.serving import StudentArgs
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.placement import remote_options
from magdi_ray.runs import file_hash
from magdi_ray.serving.backend import AHEAD, GRACE_SECONDS
from magdi_ray.serving.keys import open_keys
from magdi_ray.tasks.load import task_named

logger = logging.getLogger(__name__)

APPLICATION = "student"
"""Name of the Serve application."""

UNBOUNDED = 100_000
"""Requests a front door holds: it says itself when there are too many, in words that clients understand."""

LOOK_SECONDS = 0.5
"""Between two looks whether a new version's copy is there."""


class StudentDoor:
    """The ingress: HTTP in, handles out. It holds no weights, so one serves many copies."""

    def __init__(self, args: StudentArgs, student: DeploymentHandle[Any], room: DeploymentHandle[Any] | None) -> None:
        self._args, self._student, self._room = args, student, room

    def __serve_build_asgi_app__(self) -> FastAPI:
        from magdi_ray.serving.escalation import RoomTeachers
        from magdi_ray.serving.front import front_door

        api = front_door(self._args, self._backend(), None if self._room is None else RoomTeachers(self._room))
        api.router.lifespan_context = self._opened
        return api

    @asynccontextmanager
    async def _opened(self, _: FastAPI) -> AsyncIterator[None]:
        """Take no request before a copy of the same version runs: a version that cannot start must not take over at the door."""
        while self._args.engine == "transformers" and self._args.replicas[0] > 0:
            try:
                if await self._student.which.remote() == self._args.version:
                    break
            except (RayError, RayServeException):
                logger.info("The copy that was asked for its version is gone; another one is asked.", exc_info=True)
            await asyncio.sleep(LOOK_SECONDS)
        yield

    def _backend(self) -> Any:
        if self._args.engine == "vllm":
            from magdi_ray.serving.vllm import VllmCopies

            return VllmCopies(self._args, self._student)
        from magdi_ray.serving.copies import Copies

        return Copies(self._student)


def build(args: dict[str, Any]) -> serve.Application:
    """The Serve application for `StudentArgs` given as plain data.

    Raises:
        ConfigError: an argument is missing, unknown or out of range; or files are missing: the model's, an adapter's, the keys'.
    """
    student = parse_section(args, "The student's arguments", StudentArgs)
    check_files(student)
    student = located(student)
    student = student.model_copy(update={"version": version_of(student)})
    room = None
    if student.escalate:
        from magdi_ray.serving.escalation import room_application

        room = room_application(student)
    door = serve.deployment(serve.ingress()(StudentDoor)).options(
        name="door",
        num_replicas=student.doors,
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0, **remote_options(Place(labels=student.resources.serve.labels))},
        max_ongoing_requests=UNBOUNDED,
        **_drained(student),
    )
    application: serve.Application = door.bind(student, copies_of(student), room)
    return application


def located(args: StudentArgs) -> StudentArgs:
    """The same endpoint with local files named absolutely: what serves works in directories of its own."""
    places: dict[str, Any] = {"model": located_model(args.model)}
    for name in ("api_keys_file", "access_log", "run", "escalations"):
        place = getattr(args, name)
        places[name] = place if place is None or "://" in place else str(Path(place).resolve())
    adapters = {name: located_model(adapter) for name, adapter in args.adapters.items()}
    return args.model_copy(update={**places, "adapters": adapters})


def version_of(args: StudentArgs) -> str:
    """What is served: the version that was given, and the content of the weights' files."""
    files = [file_hash(resolve_model(path))[:16] for path in (*model_files(args.model), *args.adapters.values())]
    return "-".join(filter(None, [args.version, *files]))


def copies_of(args: StudentArgs) -> serve.Application:
    """The deployment of the student itself."""
    if args.engine == "vllm":
        from magdi_ray.serving.vllm import vllm_server

        return vllm_server(args)
    from magdi_ray.serving.replica import StudentReplica

    engine = TransformersEngine(
        type="transformers",
        model=args.model,
        dtype=args.dtype,
        batching="continuous",
        max_batch_size=args.max_batch_size,
        context_length=args.context_length,
    )
    deployment = serve.deployment(StudentReplica).options(
        name="student",
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus, **remote_options(args.resources.serve)},
        # How many may wait is the front door's affair (`capacity_of`): Serve also counts those that it is just about to hand on.
        max_ongoing_requests=AHEAD * args.max_batch_size,
        max_surge_percent=args.max_surge_percent,
        max_constructor_retry_count=2,
        **_drained(args),
        **copies(args.replicas, full=args.max_batch_size, downscale_delay_s=args.downscale_delay_s),
    )
    application: serve.Application = deployment.bind(
        engine.located(),
        adapters=args.adapters,
        num_cpus=args.num_cpus,
        num_gpus=args.num_gpus,
        stream_interval_s=args.stream_interval_ms / 1000,
        version=args.version,
    )
    return application


def _drained(args: StudentArgs) -> dict[str, float]:
    """A process that is retired ends when its last request has."""
    return {"graceful_shutdown_timeout_s": args.request_timeout_s + GRACE_SECONDS, "graceful_shutdown_wait_loop_s": 0.1}


def check_files(args: StudentArgs) -> None:
    """Check that what is to be served is there, and the keys with it.

    Raises:
        ConfigError: what is missing, and where it was looked for; or there is no such task.
    """
    check_model_directory(args.model)
    if args.adapters and base_and_adapter(args.model)[1] is not None:
        raise ConfigError(
            f"adapters are put on a base, but {args.model} is an adapter itself. Name its base as the model, and it among the "
            "adapters."
        )
    for adapter in args.adapters.values():
        check_model_directory(f"{args.model}:{adapter}")
    open_keys(args)
    if args.task is not None:
        task_named(args.task)


def start_http(host: str, port: int) -> None:
    """Open Serve's HTTP port. Its address is fixed when Serve starts: one that runs without applications is started again; one
    that serves a student already keeps the address it has.

    Raises:
        ConfigError: Serve is busy with other applications on this cluster.
        EngineError: the port did not open.
    """
    running = set(serve.status().applications)
    if APPLICATION in running:
        return
    if others := sorted(running):
        raise ConfigError(f"Ray Serve already runs {', '.join(others)} here. Retire them, or serve on another cluster.")
    serve.shutdown()
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    except RayError as error:
        raise EngineError(
            f"Ray Serve did not open {host}:{port}: {root_cause(error)} Look whether the machine is overloaded, and try again."
        ) from error


def deploy(args: StudentArgs, *, timeout_s: float = 1800.0) -> None:
    """Serve a student, at first or in the place of one that is served already, and return when it runs.

    The successor of a running version takes over request by request: none of them fails.

    Raises:
        ConfigError: files are missing.
        EngineError: the model cannot start. What was served before goes on.
    """
    running = APPLICATION in serve.status().applications
    application = build(args.model_dump(mode="json"))
    target = serve.RunTarget(target=application, name=APPLICATION, route_prefix="/", logging_config={"enable_access_log": False})
    try:
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        wait_until_running([APPLICATION], timeout_s=timeout_s)
    except BaseException:
        if not running:
            retire_engines([APPLICATION], wait=False)
        raise

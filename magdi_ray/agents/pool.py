"""Engines as long-lived Ray Serve deployments: loaded once, shared by every caller, replaced when they die.

One application an engine, without a route: only handles reach it. It knows nothing of who asks, nor of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception, wait_exponential, wait_random

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.config.engines import EngineConfig, TransformersEngine, VllmEngine
from magdi_ray.config.resources import ANYWHERE, Place
from magdi_ray.errors import EngineError, MagdiError
from magdi_ray.placement import remote_options

logger = logging.getLogger(__name__)

RETRIED = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    ReplicaUnavailableError,
    BackPressureError,
)
"""The replica died, or was not there: another one answers the same question as well."""

RETRY_SECONDS = 60.0
"""Waits between retries of one request, added up; a dead replica is back after 10 to 13 s and the loading of its weights."""

UPSCALE_SECONDS = 5.0
"""So long must the load stay for another copy to start; a debate's load comes at once and stays for long."""

LOOK_SECONDS = 30.0
"""A request that waits longer looks every so often whether its engine still has a replica."""

LOST_SECONDS = 600.0
"""Without a running replica for so long, an engine is given up; loading large weights anew takes minutes."""

RETIRE_SECONDS = 120.0
"""So long is waited for replicas to be gone; the stage's own result does not depend on it."""

EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(?P<type>\w*(?:Error|Exception|Exit)): (?P<message>.*)", re.MULTILINE)
"""The line of a traceback that names the exception."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One engine to keep running."""

    name: str
    """Of the Serve application; `PooledEngine(name)` reaches it."""
    engine: EngineConfig
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most copies; Serve scales between them with the load."""
    num_cpus: float = 1.0
    """CPUs a replica reserves; also its number of torch threads."""
    num_gpus: float = 0.0
    max_ongoing_requests: int | None = None
    """Requests a replica holds at once; None takes two of the engine's batches, one decoding and one gathering."""
    place: Place = ANYWHERE
    """The nodes its replicas may run on."""


def unique_app(stage: str, name: str) -> str:
    """Name of a Serve application nobody else on a shared cluster uses; `leftovers` reads whose it is."""
    return f"{stage}-{name}-j{ray.get_runtime_context().get_job_id()}-{uuid.uuid4().hex[:8]}"


class EngineReplica:
    """One copy of an engine, in a process of its own."""

    def __init__(self, config: EngineConfig, num_cpus: float, num_gpus: float) -> None:
        from magdi_ray.agents.load import load_engine

        # Ray leaves the GPUs of a machine visible to an actor that reserved none of them.
        self._engine = load_engine(config, device=None if num_gpus else "cpu")
        if isinstance(config, TransformersEngine):
            import torch

            torch.set_num_threads(max(1, int(num_cpus)))

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Answer one conversation; see `Engine`."""
        return await self._engine.generate(messages, sampling)


def copies(replicas: tuple[int, int], *, full: int, downscale_delay_s: float | None = None) -> dict[str, Any]:
    """Serve's options for so many copies; what waits beyond the `full` requests of each is a reason for another one."""
    low, high = replicas
    if low == high:
        return {"num_replicas": low}
    limits = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": full, "upscale_delay_s": UPSCALE_SECONDS}
    delays = {} if downscale_delay_s is None else {"downscale_delay_s": downscale_delay_s}
    return {"autoscaling_config": {**limits, **delays}}


def engine_application(spec: PoolSpec, *, name: str = "engine") -> serve.Application:
    """The Serve application of one engine, not yet deployed. `name`: of its deployment, where several share an application."""
    if isinstance(spec.engine, VllmEngine):
        from magdi_ray.agents.vllm import vllm_application

        return vllm_application(spec)
    batch = getattr(spec.engine, "max_batch_size", 32)
    # A replica is full when one batch decodes.
    scaling = copies(spec.replicas, full=batch)
    deployment = serve.deployment(EngineReplica).options(
        name=name,
        ray_actor_options={"num_cpus": spec.num_cpus, "num_gpus": spec.num_gpus, **remote_options(spec.place)},
        max_ongoing_requests=spec.max_ongoing_requests or 2 * batch,
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.1,
        **scaling,
    )
    application: serve.Application = deployment.bind(spec.engine.located(), spec.num_cpus, spec.num_gpus)
    return application


def deploy_engines(specs: Sequence[PoolSpec], *, timeout_s: float = 1800.0) -> None:
    """Deploy all engines at once and return when every one of them runs. On an error none of them is left deployed.

    Serve is started, without HTTP, where it is not running.

    Raises:
        EngineError: an engine cannot start (with its own error), or did not within `timeout_s` (with what it waits for).
    """
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise EngineError(f"Engines need distinct names, found {names}.")
    if not specs:
        return
    serve.start(proxy_location="Disabled")
    targets = [serve.RunTarget(target=engine_application(spec), name=spec.name, route_prefix=None) for spec in specs]
    try:
        serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        wait_until_running(names, timeout_s=timeout_s)
    except BaseException:
        retire_engines(names, wait=False)
        raise


def wait_until_running(names: Sequence[str], *, timeout_s: float) -> None:
    """Wait until all applications are running.

    Raises:
        EngineError: one failed to deploy, or `timeout_s` seconds passed.
    """
    deadline = time.monotonic() + timeout_s
    said: dict[str, str] = {}
    while True:
        status = serve.status().applications
        pending = [name for name in names if name not in status or status[name].status != ApplicationStatus.RUNNING]
        if not pending:
            return
        for name in pending:
            message = _own_words(status[name]) if name in status else ""
            if name in status and status[name].status == ApplicationStatus.DEPLOY_FAILED:
                raise EngineError(f"Engine {name!r} cannot start: {message or 'Ray Serve gives no reason'}")
            if message and said.get(name) != message:
                said[name] = message
                logger.info("Engine %s is not ready: %s", name, message)
        if time.monotonic() > deadline:
            waits = "; ".join(f"{name}: {said.get(name, 'no message')}" for name in pending)
            raise EngineError(
                f"{len(pending)} of {len(names)} engines did not start within {timeout_s:.0f} s ({waits}). "
                "Check that the cluster has the CPUs and GPUs that their replicas reserve, on nodes that resources lets them use."
            )
        time.sleep(0.1)


def _own_words(status: ApplicationStatusOverview) -> str:
    """What a replica itself said: the exception at the end of the traceback that Serve quotes, or Serve's message."""
    messages = [deployment.message for deployment in status.deployments.values()] + [status.message]
    text = next((message for message in messages if message), "")
    named = list(EXCEPTION.finditer(text))
    if not named:
        return text.strip()
    message = text[named[-1].start("message") :].strip()
    return message if named[-1]["type"] in ("EngineError", "ConfigError") else f"{named[-1]['type']}: {message}"


def retire_engines(names: Iterable[str], *, wait: bool = True) -> None:
    """Delete applications; names that are not deployed are passed over. `wait`: until their replicas are gone.

    Nothing is done where Ray has ended meanwhile: to ask Serve would join the cluster once more.
    """
    if not ray.is_initialized():
        return
    deployed = [name for name in names if name in serve.status().applications]
    for name in deployed:
        serve.delete(name, _blocking=False)
    deadline = time.monotonic() + RETIRE_SECONDS
    while wait and (left := [name for name in deployed if name in serve.status().applications]):
        if time.monotonic() > deadline:
            logger.warning("Engines %s are not gone after %.0f s; going on without waiting for them.", left, RETIRE_SECONDS)
            return
        time.sleep(0.1)


class PooledEngine:
    """A deployed engine, from anywhere in the cluster. Travels between processes by its name."""

    def __init__(self, app: str, *, retry_s: float = RETRY_SECONDS) -> None:
        self.app = app
        self.retry_s = retry_s
        self._handle: DeploymentHandle[EngineReplica] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _pooled_engine, (self.app, self.retry_s)

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Ask any replica; one that dies meanwhile is survived by asking again.

        Raises:
            EngineError: the engine's own, as it was raised; or the replicas kept dying through `retry_s` seconds of retries.
        """
        handle = self._handle
        if handle is None:
            try:
                handle = self._handle = await asyncio.to_thread(serve.get_app_handle, self.app)
            except RayServeException as error:
                raise EngineError(f"No engine {self.app!r} is deployed: {error}") from None
        return await ask_replica(handle, messages, sampling, name=self.app, retry_s=self.retry_s)


def _pooled_engine(app: str, retry_s: float) -> PooledEngine:
    return PooledEngine(app, retry_s=retry_s)


async def ask_replica(
    handle: DeploymentHandle[EngineReplica],
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    name: str,
    retry_s: float = RETRY_SECONDS,
) -> Reply:
    """One reply from a deployment of `EngineReplica`, retried while replicas die.

    Raises:
        EngineError: see `PooledEngine.generate`.
    """
    retrying = AsyncRetrying(
        # The waits between attempts are counted, not the attempts: a request may rightly queue for minutes at a busy engine.
        stop=lambda state: state.idle_for >= retry_s,
        wait=wait_exponential(multiplier=0.2, max=5.0) + wait_random(0.0, 0.5),
        retry=retry_if_exception(_replica_lost),
        before_sleep=before_sleep_log(logger, logging.INFO),
        reraise=True,
    )
    try:
        return await retrying(_ask_once, handle, tuple(messages), sampling, name)
    except RETRIED as error:
        raise EngineError(
            f"Replicas of engine {name!r} kept dying for {retry_s:.0f} s of retries: {_first_line(error)}"
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, MagdiError):
            raise error.cause from None
        raise EngineError(f"Engine {name!r} failed: {type(error.cause).__name__}: {_first_line(error.cause)}") from error
    except (RayError, RayServeException) as error:
        raise EngineError(f"Engine {name!r} cannot be asked: {type(error).__name__}: {_first_line(error)}") from error


def _replica_lost(error: BaseException) -> bool:
    """Whether a replica died: the one that was asked, or the one that it had to ask itself."""
    return isinstance(error.cause if isinstance(error, RayTaskError) else error, RETRIED)


async def _ask_once(
    handle: DeploymentHandle[EngineReplica], messages: tuple[Message, ...], sampling: Sampling, name: str
) -> Reply:
    response = handle.generate.remote(messages, sampling)
    waiting: asyncio.Future[Reply] = asyncio.ensure_future(_reply(response))
    alone = 0.0
    try:
        while not (await asyncio.wait({waiting}, timeout=LOOK_SECONDS))[0]:
            # Serve holds a request for as long as there is no replica to give it to, without a word.
            alone = alone + LOOK_SECONDS if await asyncio.to_thread(stands_still, name) else 0.0
            if alone >= LOST_SECONDS:
                raise EngineError(f"Engine {name!r} has had no running replica for {alone:.0f} s. {_words_of(name)}".strip())
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.cancel()
            response.cancel()


async def _reply(response: Any) -> Reply:
    reply: Reply = await response
    return reply


def stands_still(app: str) -> bool:
    """Whether an application is deployed and no replica of it runs, as of the last `LOOK_SECONDS`. Threads may ask at once."""
    return app in _LOOKS.idle()


class _Looks:
    """The applications without a running replica, looked up once for all who wait: thousands may, and Serve's answer is slow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = -math.inf
        self._idle: frozenset[str] = frozenset()

    def idle(self) -> frozenset[str]:
        """Names of the applications."""
        with self._lock:
            if time.monotonic() - self._at >= LOOK_SECONDS / 2:
                self._idle = frozenset(name for name, status in serve.status().applications.items() if not _runs(status))
                self._at = time.monotonic()
            return self._idle


_LOOKS = _Looks()


def _runs(status: Any) -> bool:
    return any(deployment.replica_states.get("RUNNING", 0) for deployment in status.deployments.values())


def _words_of(app: str) -> str:
    status = serve.status().applications.get(app)
    return _own_words(status) if status else ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or repr(error)

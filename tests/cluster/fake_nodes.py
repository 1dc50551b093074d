"""An autoscaling Ray cluster on one machine: `LocalCluster` whose head runs autoscaler v2, which starts and ends further raylets.

    with FakeCluster() as cluster:                         # one node; up to three as long as something waits for their CPUs
        with driver(cluster, "debate", CONFIG, "--out", RUN):
            wait_until(lambda: len(cluster.alive()) == 3, cluster=cluster)

Ray's own `AutoscalingCluster` needs a file its wheel lacks, and ends every Ray of the machine. Nodes here differ from real ones
in that they start in seconds and share the machine's cores, memory and files: what they show is who asks for nodes, and when.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.local import MEGABYTE, LocalCluster

HEAD = "f" * 51 + "00000"
"""Id of the head; the provider of fake nodes counts on from it."""

OUTPUT = "magdi.txt"

HEAD_TYPE = "ray.head.default"
"""What that provider calls the head's kind of node, whatever the configuration calls it."""

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"

ASKED_EVERY_SECOND = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
}
"""What makes a head take fake nodes, and look every second whether more are needed."""

EMPTY = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
"""The autoscaler wants these lists named; fake nodes are started by the provider itself."""


@dataclass
class FakeCluster(LocalCluster):
    """A head that grows to `most` nodes, itself among them, each with `cpus` logical CPUs, and shrinks again."""

    workers: int = 0
    """None of its own: the autoscaler adds them."""
    most: int = 3
    idle_seconds: float = 9.0
    """A node that nothing used for so long is ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.head_cpus = self.cpus
        self.head_options = [*self.head_options, f"--autoscaling-config={self.file}"]
        self.environment_of_nodes = self.environment_of_nodes | ASKED_EVERY_SECOND

    @property
    def file(self) -> Path:
        """What the autoscaler is told, as a file."""
        return self.root / "autoscaling.json"

    def choose_ports(self) -> None:
        super().choose_ports()
        self.file.write_text(json.dumps(self.autoscaling()))

    def autoscaling(self) -> dict[str, Any]:
        """What the autoscaler is told: one kind of node, as large as the head."""
        import ray

        # By the address Ray knows the machine by: nodes that join at 127.0.0.1 take that for their own.
        gcs = f"{ray.util.get_node_ip_address()}:{self.port}"
        provider = {"type": "external", "module": PROVIDER, "head_node_id": HEAD, "launch_multiple": True, "gcs_address": gcs}
        resources = {"CPU": self.cpus}
        bounds = {"min_workers": 0, "max_workers": self.most - 1}
        return {
            "cluster_name": "fake",
            "max_workers": self.most - 1,
            "idle_timeout_minutes": self.idle_seconds / 60,
            "provider": provider,
            "auth": {},
            "file_mounts": {},
            **{name: [] for name in EMPTY},
            "head_node_type": HEAD_TYPE,
            "available_node_types": {
                HEAD_TYPE: {"resources": resources, "node_config": {}, "max_workers": 0},
                "worker": {
                    "resources": resources | {"object_store_memory": self.object_store_mb * MEGABYTE},
                    "node_config": {},
                    **bounds,
                },
            },
        }

    def added(self) -> dict[str, psutil.Process]:
        """The raylets of the nodes that the autoscaler added, by node id, the oldest first."""
        found = {}
        for process in self.left():
            with suppress(psutil.Error):
                if Path(process.cmdline()[0]).name == "raylet":
                    found[process.environ()["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]] = process
        return dict(sorted((node, raylet) for node, raylet in found.items() if node != HEAD))

    def kill_added(self, node: str) -> None:
        """SIGKILL a node's raylet and all that runs on it, as if the machine had been taken away."""
        raylet = self.added()[node]
        family = [raylet, *raylet.children(recursive=True)]
        for sign in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none notices that another is gone
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(sign)


def in_state(cluster: LocalCluster, kind: str, state: str) -> list[dict[str, Any]]:
    """What the cluster's state API tells of its "actors" (in state ALIVE) or "placement_groups" (CREATED, PENDING)."""
    chosen = f"filter_keys=state&filter_predicates=%3D&filter_values={state}"
    rows: list[dict[str, Any]] = cluster.get(f"/api/v0/{kind}?limit=1000&{chosen}")["data"]["result"]["result"]
    return rows


def nodes_of(cluster: LocalCluster, name: str) -> list[str]:
    """The node of each living actor whose class has `name` in it."""
    return sorted(actor["node_id"] for actor in in_state(cluster, "actors", "ALIVE") if name in actor["class_name"])


def wait_until(
    condition: Callable[[], Any], *, cluster: LocalCluster, driver: subprocess.Popen[str] | None = None, seconds: float = 240.0
) -> float:
    """Seconds until a condition was true.

    Raises:
        RuntimeError: the driver ended meanwhile; carries the end of what it printed.
        TimeoutError: it was not within `seconds`; carries the end of the autoscaler's log, where there is one.
    """
    started = time.monotonic()
    while not condition():
        if driver is not None and driver.poll() is not None:
            raise RuntimeError(f"the driver ended with {driver.returncode}:\n{output_of(cluster)}")
        if time.monotonic() - started > seconds:
            logs = sorted((cluster.root / "r").glob("session_2*/logs/monitor.*"))
            said = "\n".join(log.read_text(errors="replace")[-1500:] for log in logs)
            raise TimeoutError(f"not so within {seconds:.0f} s, with {len(cluster.alive())} nodes\n{said}\n{output_of(cluster)}")
        time.sleep(0.05)
    return time.monotonic() - started


@contextmanager
def driver(cluster: LocalCluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`magdi` as a client of the cluster, for the time of the body; what it prints goes to the cluster's directory."""
    with (cluster.root / OUTPUT).open("a") as output:
        process = cluster.popen("magdi", *arguments, env={"RAY_ADDRESS": cluster.address}, stdout=output)
    try:
        yield process
    finally:
        kill_driver(process)


def kill_driver(process: subprocess.Popen[str]) -> None:
    """SIGKILL it, with whatever it started; nothing if it has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def output_of(cluster: LocalCluster) -> str:
    """The end of what drivers printed."""
    file = cluster.root / OUTPUT
    return file.read_text(errors="replace")[-3000:] if file.exists() else ""

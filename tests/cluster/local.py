"""A real Ray cluster of several nodes on this machine: child processes on free ports, token authentication on.

    with LocalCluster(workers=2) as cluster:
        done = cluster.submit("python jobs/pipeline.py configs/tiny.yaml --out /tmp/run", working_dir=ROOT)
        assert done.returncode == 0

Nothing of it is shared with another Ray of this machine, and it is ended process by process, never with `ray stop`. Tests talk to
it as users do: by `ray job`, by HTTP, and by programs of their own that are given `environment`.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
"""Where `ray` and `python` of this environment are: a job's `python` is found here too."""

MARK = "MAGDI_TEST_NODE"
"""Set for every process of a node, so that none is overlooked when it is ended."""

MEGABYTE = 2**20
ANY_PORT = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent", "min-worker", "max-worker")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass
class Node:
    """One `ray start`."""

    index: int
    mark: str
    log: Path
    process: subprocess.Popen[bytes]
    killed: bool = False

    def processes(self) -> list[psutil.Process]:
        """Everything this node has started that still runs; some rewrite their environment, some outlive their parents."""
        found: dict[int, psutil.Process] = {}
        if self.process.poll() is None:  # else another process may have its number by now
            with suppress(psutil.Error):
                root = psutil.Process(self.process.pid)
                found = {one.pid: one for one in (root, *root.children(recursive=True))}
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                if one.pid not in found and one.environ().get(MARK) == self.mark:
                    found |= {each.pid: each for each in (one, *one.children(recursive=True))}
        return [one for one in found.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@dataclass
class LocalCluster:
    """A head and some workers."""

    workers: int = 2
    head_cpus: float = 1
    """Logical CPUs of the head; nothing stops Ray from giving work to it."""
    cpus: float = 1
    """Logical CPUs of each worker that `start` adds."""
    object_store_mb: int = 100
    environment_of_nodes: dict[str, str] = field(default_factory=dict)
    """Beside this process's own, for all nodes and the jobs on them."""
    head_options: list[str] = field(default_factory=list)
    """More for `ray start --head`, such as --autoscaling-config=FILE."""
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mr-")))
    """Short: Ray's sockets lie below it, and their paths may have 107 characters."""
    nodes: list[Node] = field(default_factory=list)
    """In the order they were added, dead ones too; the head is the first."""

    def __post_init__(self) -> None:
        self.root.chmod(0o700)
        self.choose_ports()
        self.token_file = self.root / "token"
        self.token_file.write_text(secrets.token_hex(32))
        self.token_file.chmod(0o600)
        self.mark = secrets.token_hex(8)

    def choose_ports(self) -> None:
        """At once, so that they may go into a file before `start`; and again where the head could not have them."""
        self.port, self.dashboard_port, self.client_port = quiet_ports(3)

    @property
    def address(self) -> str:
        """Of the control store: what a program that joins the cluster is told (RAY_ADDRESS)."""
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        """Of the dashboard, where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, changed so that a client is let in; `RAY_ADDRESS` is not part of it."""
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS" and not name.startswith("RAY_AUTH")}
        authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        return kept | authentication | {"RAY_API_SERVER_ADDRESS": self.dashboard, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def __enter__(self) -> LocalCluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, timeout_s: float = 90) -> LocalCluster:
        """Start the head and the workers, and wait for all of them.

        A head that ends by itself is started once more: another program may have taken one of its ports.

        Raises:
            RuntimeError: a node ended by itself; carries the end of what it wrote.
            TimeoutError: not all nodes lived within `timeout_s`, counted for the head and for the workers.
        """
        first = self._add_head()
        try:
            self.wait_for(1, timeout_s)
        except RuntimeError:
            end(first)
            self.nodes.clear()
            self.choose_ports()
            self._add_head()
            self.wait_for(1, timeout_s)
        for _ in range(self.workers):
            self.add_node(self.cpus, wait=False)
        self.wait_for(1 + self.workers, timeout_s)
        return self

    def add_node(self, cpus: float | None = None, *, options: Sequence[str] = (), wait: bool = True) -> Node:
        """One more worker; `options` for `ray start`, such as --labels=market=spot or --resources={"disk": 1}."""
        before = len(self.alive()) if wait else 0
        node = self._add([f"--address={self.address}", *options], self.cpus if cpus is None else cpus)
        if wait:
            self.wait_for(before + 1)
        return node

    def kill_node(self, index: int) -> None:
        """End every process of a node at once, as a machine that is taken away does."""
        end(self.nodes[index])

    def alive(self) -> list[dict[str, Any]]:
        """The cluster's own view of the nodes that live."""
        rows = self.get("/nodes?view=summary&nocache=1")["data"]["summary"]  # else it tells what it found when last asked
        return [row for row in rows if row["raylet"].get("state") == "ALIVE"]

    def wait_for(self, count: int, timeout_s: float = 60) -> None:
        """Wait until so many nodes live, no more and no fewer."""
        deadline, found = time.monotonic() + timeout_s, -1
        while time.monotonic() < deadline:
            if dead := [node for node in self.nodes if not node.killed and node.process.poll() is not None]:
                raise RuntimeError(f"node {dead[0].index} ended by itself:\n{self.last_words(dead[0])}")
            with suppress(OSError, KeyError, ValueError):
                found = len(self.alive())
                if found == count:
                    return
            time.sleep(0.2)
        raise TimeoutError(f"{count} living nodes are required, found {found} after {timeout_s:.0f} s")

    def last_words(self, node: Node) -> str:
        """The ends of what a node's own processes wrote."""
        logs = [node.log, *sorted((self.root / str(node.index)).glob("session_latest/logs/raylet*.*"))]
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in logs)

    def get(self, path: str) -> Any:
        """Ask the dashboard for JSON."""
        bearer = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        with urllib.request.urlopen(urllib.request.Request(self.dashboard + path, headers=bearer), timeout=20) as answer:
            return json.load(answer)

    def run(
        self, *command: str, timeout_s: float = 300, env: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment (`ray`, `python`, `magdi`) as a client. Standard error goes to standard output."""
        return subprocess.run(command, timeout=timeout_s, text=True, check=False, **(self._client(env) | more))

    def popen(self, *command: str, env: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        """Begin what `run` runs, in a process group of its own, where Ctrl-C (SIGINT) means what it means in a terminal."""
        more = self._client(env) | {"preexec_fn": heed_interrupts} | more
        return subprocess.Popen(command, start_new_session=True, text=True, **more)

    def submit(
        self,
        entrypoint: str,
        *,
        working_dir: Path | None = None,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        options: Sequence[str] = (),
        timeout_s: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit`. `name`: the submission's; `env`: variables of the job; `wait`: until it ended, with its output."""
        given = [f"--submission-id={name}"] if name else []
        given += [f"--working-dir={working_dir}"] if working_dir else []
        given += [f"--runtime-env-json={json.dumps({'env_vars': dict(env)})}"] if env else []
        given += [] if wait else ["--no-wait"]
        return self.run("ray", "job", "submit", *given, *options, "--", *shlex.split(entrypoint), timeout_s=timeout_s)

    def job(self, name: str) -> dict[str, Any]:
        """What the cluster knows of a job: `status`, `message`, `driver_exit_code`."""
        details: dict[str, Any] = self.get(f"/api/jobs/{name}")
        return details

    def wait_for_job(self, name: str, timeout_s: float = 300) -> dict[str, Any]:
        """The job, once it has ended."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(name))["status"] not in ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {name} is {job['status']} after {timeout_s:.0f} s:\n{self.logs(name)[-3000:]}")
            time.sleep(0.2)
        return job

    def stop_job(self, name: str) -> subprocess.CompletedProcess[str]:
        """`ray job stop`, which returns when the job has ended."""
        return self.run("ray", "job", "stop", name)

    def logs(self, name: str) -> str:
        """What a job has printed so far."""
        return str(self.get(f"/api/jobs/{name}/logs")["logs"])

    def stop(self) -> None:
        """End all nodes, the head last, and delete their files."""
        for node in reversed(self.nodes):
            end(node)
        shutil.rmtree(self.root, ignore_errors=True)

    def left(self) -> list[psutil.Process]:
        """Processes of this cluster that still run."""
        return [one for node in self.nodes for one in node.processes()]

    def _client(self, env: Mapping[str, str] | None) -> dict[str, Any]:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return {"env": self.environment | dict(env or {}), "cwd": self.root, **streams}

    def _add_head(self) -> Node:
        ports = [f"--port={self.port}", f"--dashboard-port={self.dashboard_port}", f"--ray-client-server-port={self.client_port}"]
        dashboard = ["--dashboard-host=127.0.0.1", "--include-dashboard=true"]
        return self._add(["--head", *ports, *dashboard, *self.head_options], self.head_cpus)

    def _add(self, options: Sequence[str], cpus: float) -> Node:
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *options]
        command += [f"--num-cpus={cpus:g}", "--num-gpus=0", f"--object-store-memory={self.object_store_mb * MEGABYTE}"]
        # Any port that is free when it is needed: the defaults are the same for all nodes of a machine.
        command += [f"--{what}-port=0" for what in ANY_PORT]
        index = len(self.nodes)
        command += [f"--temp-dir={self.root / str(index)}"]  # in one they would race for the names of their sockets
        mark, log = f"{self.mark}-{index}", self.root / f"node-{index}.log"
        environment = self.environment | self.environment_of_nodes | {MARK: mark}
        environment.pop("RAY_API_SERVER_ADDRESS")  # a job must find its cluster by what Ray tells it
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=stream, cwd=self.root, start_new_session=True
            )
        self.nodes.append(Node(index, mark, log, process))
        return self.nodes[-1]


def quiet_ports(count: int) -> list[int]:
    """Free ports below those that systems hand out by themselves: nobody takes one before it is used."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            found += [port] if port not in found else []
    return found


def heed_interrupts() -> None:
    """Undo what a shell does to programs in the background: they would inherit its deafness to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(node: Node) -> None:
    """Kill all processes of a node; those that a dying one still starts are found at the next look."""
    node.killed = True
    for _ in range(50):
        family = node.processes()
        for one in family:
            with suppress(psutil.Error):
                one.kill()
        if not family:
            break
        psutil.wait_procs(family, timeout=1)
    node.process.wait(timeout=10)

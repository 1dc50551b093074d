"""What trials run on: a cluster of processes, a provider, a file system of bounded size, and what makes them fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from magdi_ray.config import RunConfig, load_config
from magdi_ray.tasks.load import load_questions, load_task
from tests.chaos.shim import Shim
from tests.chaos.teacher import Teacher
from tests.cluster.fake_nodes import in_state
from tests.cluster.local import LocalCluster, quiet_ports

CONFIG = Path(__file__).with_name("chaos.yaml")
ROOT = Path(__file__).parent.parent.parent
DISK_MB = 256
ASKED = 6
"""Questions the endpoint is asked after a run."""
SETTLED_S = 40.0
"""So long is waited for what has been told to end."""

RAYS_OWN = (
    *("ServeController", "ProxyActor", "ActorLocationTracker", "_AutoscalingCoordinatorActor", "_StatsActor"),
    "PlacementGroupCleaner",
)
"""Actors that Ray Serve and Ray Data start once on a cluster and keep; and one of Ray Train's, that looks every second whether
its training's controller still lives, ends when it does not, and stays for ever where the cluster was once too busy to answer."""

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "RAY_TRAIN_V2_ENABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_LD_PRELOAD_ON_WORKERS": "1",  # else Ray takes the shim away from them
    # A training of seconds would spend most of them waiting for the next look of its controller.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Grounds:
    """`with Grounds(out) as grounds:`; everything in it ends with the body."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out.resolve()
        self.disk = self.out / "disk"
        self.disk.mkdir(exist_ok=True)
        self.bounded = mounted(self.disk)
        """Whether the runs' file system can be filled up; making one takes the right to mount."""
        self.shim = Shim(self.out / "shim", self.disk)
        self.config: RunConfig = load_config(CONFIG)
        self.task = load_task(self.config.task)
        self.questions = list(load_questions(self.config.task))
        self.teacher = Teacher(self.questions, self.task)
        self.cluster = self._new_cluster()
        self.buried: list[LocalCluster] = []
        """Clusters that were killed."""

    def __enter__(self) -> Grounds:
        self.teacher.__enter__()
        self.cluster.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.stop()
        self.teacher.__exit__()
        if self.bounded:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)

    @property
    def environment(self) -> dict[str, str]:
        """For the nodes and for drivers, beside this process's own."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return SETTINGS | self.shim.environment | {"CHAOS_TEACHER": self.teacher.url, "PYTHONPATH": path}

    def _new_cluster(self) -> LocalCluster:
        root = Path(tempfile.mkdtemp(prefix="mc-"))
        return LocalCluster(workers=2, head_cpus=0, cpus=2, root=root, environment_of_nodes=self.environment)

    def renew(self) -> None:
        """Kill the whole cluster and start another."""
        self.cluster.stop()
        self.buried.append(self.cluster)
        self.cluster = self._new_cluster()
        self.cluster.start()

    def calm(self) -> None:
        """Undo whatever a fault may have left: everything works, and all nodes are there."""
        self.shim.storage()
        self.shim.clock(shift_s=0.0)
        self.teacher.forget()
        for ballast in self.disk.glob("ballast-*"):
            ballast.unlink()
        lost = 3 - sum(not node.killed for node in self.cluster.nodes)
        for _ in range(lost):
            self.cluster.add_node(wait=False)
        self.cluster.wait_for(3)

    def cheer(self) -> None:
        """The provider works again."""
        self.teacher.mood = "well"

    def shimmed(self) -> bool:
        """Whether the workers of the cluster are behind the shim; if they were not, nothing would happen to them."""
        workers = [one for one in self.cluster.left() if one.name().startswith("ray::")]
        return bool(workers) and all("shim.so" in Path(f"/proc/{one.pid}/maps").read_text() for one in workers)

    def fill(self) -> Path:
        """Leave no byte free where the runs are; returns the file that is in the way."""
        ballast = self.disk / f"ballast-{time.monotonic_ns()}"
        with ballast.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
        with ballast.open("ab", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"0")
        return ballast

    def driver(self, run: Path, output: Path) -> subprocess.Popen[str]:
        """`magdi run` as a job runs it: SIGTERM leaves a run that can go on."""
        command = [sys.executable, "-m", "magdi_ray.cli.job", "run", str(CONFIG), "--out", str(run)]
        with output.open("a", encoding="utf-8") as stream:
            environment = self.environment | {"RAY_ADDRESS": self.cluster.address}
            return self.cluster.popen(*command, env=environment, stdout=stream, cwd=ROOT)

    def served(self, run: Path, output: Path) -> list[str]:
        """Serve the run's student on the cluster, ask it, and retire it.

        Raises:
            RuntimeError: it cannot be served; carries the end of what was printed.
        """
        [port] = quiet_ports(1)
        command = [sys.executable, "-m", "magdi_ray.cli", "serve", str(run), "--port", str(port)]
        environment = self.environment | {"RAY_ADDRESS": self.cluster.address}
        done = self.cluster.run(*command, env=environment, cwd=ROOT)
        with output.open("a", encoding="utf-8") as stream:
            stream.write(done.stdout)
        if done.returncode:
            raise RuntimeError(f"the run cannot be served:\n{done.stdout[-2000:]}")
        prompts = [self.task.prompt(question) for question in self.questions if question.split == "test"][:ASKED]
        try:
            return [ask(f"http://127.0.0.1:{port}/v1/chat/completions", prompt) for prompt in prompts]
        except OSError:
            for node in self.cluster.nodes:
                logs = self.cluster.root / str(node.index) / "session_latest" / "logs" / "serve"
                if logs.is_dir():
                    shutil.copytree(logs, self.out / "kept" / f"{run.name}-serve" / str(node.index), dirs_exist_ok=True)
            raise
        finally:
            self.retire()

    def retire(self) -> None:
        """End Ray Serve on the cluster, with all that it serves."""
        headers = {"Authorization": f"Bearer {self.cluster.token_file.read_text()}"}
        address = f"{self.cluster.dashboard}/api/serve/applications/"
        urllib.request.urlopen(urllib.request.Request(address, method="DELETE", headers=headers), timeout=120).close()

    def left(self) -> list[str]:
        """Actors that live on the cluster, engines that are deployed, processes of nodes that are gone; after some waiting."""
        deadline, found = time.monotonic() + SETTLED_S, [""]
        while found and time.monotonic() < deadline:
            time.sleep(0.5)
            actors = [row["class_name"] for row in in_state(self.cluster, "actors", "ALIVE")]
            engines = list(self.cluster.get("/api/serve/applications/")["applications"])
            found = [name for name in actors if name not in RAYS_OWN] + engines
            dead = [node for node in self.cluster.nodes if node.killed]
            found += [_told(one) for node in dead for one in node.processes()]
            found += [_told(one) for cluster in self.buried for one in cluster.left()]
        return found

    def output_of(self, run: Path) -> Path:
        """Where the drivers of a run print to: not on the storage that fails, as a terminal or a job's log is not."""
        return self.out / f"{run.name}.txt"

    def keep(self, run: Path) -> Path:
        """Copy a run, and what it printed, out of the bounded file system."""
        kept = self.out / "kept" / run.name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(run, kept)
        if (said := self.output_of(run)).is_file():
            shutil.copy(said, kept / "printed.txt")
        return kept


def mounted(directory: Path) -> bool:
    """Mount a small file system of memory there; False where this user may not."""
    if directory.is_mount():
        subprocess.run(["umount", "--lazy", str(directory)], check=False)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(directory)]
    with suppress(OSError):
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    return False


def ask(url: str, prompt: str) -> str:
    """One greedy answer over HTTP."""
    body: dict[str, Any] = {"model": "chaos-level4", "temperature": 0, "max_tokens": 64}
    body["messages"] = [{"role": "user", "content": prompt}]
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        raise OSError(f"HTTP {error.code}: {error.read(500).decode(errors='replace')}") from error


def _told(process: Any) -> str:
    with suppress(Exception):
        return f"{process.pid} {' '.join(process.cmdline())[:80]}"
    return str(process.pid)

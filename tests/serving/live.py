"""A real endpoint for tests: `magdi serve DIR` as a child process, as a person starts it, with all that it starts itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.processes import end_with_family
from magdi_ray.agents.weights import resolve_model
from magdi_ray.cluster import free_ports

ADA = resolve_model("pkg://magdi_ray/tiny/models/ada")

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
"""So that another process may join the cluster, too."""

COUNTS = """
import asyncio, json, ray
from ray import serve
ray.init(address="{address}", logging_level="ERROR", log_to_driver=False)
async def settled():
    student, seen = serve.get_deployment_handle("student", "student"), []
    for _ in range(60):
        seen.append(await student.counts.remote())
        if len(seen) > 1 and seen[-2]["in_flight"] == 0:
            break
        await asyncio.sleep(1)
    return seen[-2:]
print(json.dumps(asyncio.run(settled())))
"""


@dataclass
class Live:
    """An endpoint that runs."""

    url: str
    model: Path
    process: subprocess.Popen[bytes]
    temp: Path
    log: Path

    def workers(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment: `student` or `door`."""
        title = f"ServeReplica:student:{deployment}"
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if title in _title(child)]

    def settled(self) -> list[dict[str, int]]:
        """What the copy of the student counts when it has nothing to do, and a second later; told by a process that joins the
        cluster."""
        lines = [_title(child) for child in psutil.Process(self.process.pid).children(recursive=True)]
        [address] = {part.split("=")[1] for line in lines for part in line.split() if part.startswith("--gcs-address=")}
        code = COUNTS.format(address=address)
        env = os.environ | TOKEN
        printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=150, env=env)
        return list(json.loads(printed.stdout.strip().splitlines()[-1]))

    def deploy_anew(self) -> None:
        """Send the signal, and wait until the log says that it is done."""
        before = self.log.read_text().count("deployed")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log.read_text().count("deployed") > before, seconds=120)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(found: Any, *, seconds: float) -> None:
    """Wait until something holds; an assertion error when it does not in time."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.1)


@contextmanager
def serving(directory: str | Path, *settings: str, temp: Path) -> Iterator[Live]:
    """`magdi serve DIRECTORY --set ...` on a free port, until the body ends."""
    [port] = free_ports(1)
    log = temp / "serve.log"
    command = [sys.executable, "-m", "magdi_ray.cli", "serve", str(directory), "--port", str(port)]
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp") as short, log.open("wb") as out:  # Ray's sockets live below it
        env = os.environ | TOKEN | {"RAY_TMPDIR": short, "COLUMNS": "200"}
        flags = [part for setting in settings for part in ("--set", setting)]
        process = subprocess.Popen([*command, *flags], stdout=out, stderr=out, env=env)
        try:
            live = Live(f"http://127.0.0.1:{port}", Path(directory), process, Path(short), log)
            wait_ready(live)
            yield live
        finally:
            end_with_family(process, grace_s=30)


def wait_ready(live: Live) -> None:
    """Until the endpoint answers; its log in the error when it ends before."""

    def ready() -> bool:
        assert live.process.poll() is None, live.log.read_text()
        try:
            return "Ctrl-C stops it" in live.log.read_text() and httpx.get(f"{live.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    until(ready, seconds=150)


def asking(words: str, **settings: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": "endless", "temperature": 0, "messages": [{"role": "user", "content": words}], **settings}


async def events(response: httpx.Response) -> list[Any]:
    """The events of a stream, decoded; `[DONE]` as it is."""
    found = []
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


async def ask_until(done: asyncio.Event, client: httpx.AsyncClient, found: list[tuple[int, str]], **settings: Any) -> None:
    """Ask again and again; status and body of each answer."""
    while not done.is_set():
        answer = await client.post("/v1/chat/completions", json=asking("kim has 13 eggs .", **settings))
        found.append((answer.status_code, answer.text))


def gathered(*tasks: Any) -> list[Any]:
    """Run coroutines side by side."""

    async def run() -> list[Any]:
        return list(await asyncio.gather(*tasks))

    return asyncio.run(run())

"""How near the debate stage comes to what its provider can do, and what it costs the driver.

    python -m benchmarks.debate_throughput --json

A local OpenAI-compatible server answers after 200 ms and serves C requests at once; others wait in its queue. The ideal is
C / 0.2 s.
The stage is run as a person runs it (`magdi debate`), with 2 C requests under way, so that the server never waits for us. The
clock is the server's: from the first request received to the last one answered; starting Ray is not counted, ramp and tail are.

- ratio_to_ideal: calls a second over the ideal, by C.
- sequential_ratio: the same debates by a plain loop over questions and agents, one call after the other (how ReConcile's released
  code works), in the same run; calls a second of the stage (at the largest C) over those of the loop.
- driver_rss_mb: the largest resident memory of the driver process, by the number of questions (one agent, one call a question).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.openai_server import running_server
from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Sampling
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.protocols import ReconcileConfig
from magdi_ray.debate.hold import Seat, hold_debate
from magdi_ray.debate.load import load_protocol
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

LATENCY = 0.2
CALLS_A_DEBATE = 4.2
"""Of three agents that agree in six of ten first rounds, with one discussion round."""


def write_questions(path: Path, count: int) -> None:
    """Made-up word problems, a JSON object a line."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            text = (
                f"Farm {number} has {number % 97 + 2} cows, each gives {number % 13 + 3} litres of milk. How many litres in all?"
            )
            stream.write(json.dumps({"id": f"q{number}", "question": text, "answer": f"#### {number % 89}"}) + "\n")


def configuration(questions: Path, *, url: str, agents: int, capacity: int, workers: int, rounds: int) -> dict[str, Any]:
    """A run of `agents` agents of one provider."""
    limits = {"concurrency": 2 * capacity}
    table = [
        {
            "name": f"agent{seat}",
            "engine": {"type": "api", "base_url": url, "model": f"agent-{seat}", "limits": limits, "structured": "never"},
            "sampling": {"max_tokens": 300},
        }
        for seat in range(agents)
    ]
    protocol = {"name": "single"} if agents == 1 else {"name": "reconcile", "rounds": rounds}
    return {
        "name": "throughput",
        "task": {"name": "gsm8k", "path": str(questions)},
        "graph": {"labels": "vote"},
        "debate": {
            "protocol": protocol,
            "agents": table,
            "workers": workers,
            "max_in_flight": 3 * capacity,
        },
        "distil": {"student": {"model": "pkg://magdi_ray/tiny/models/student"}, "recipe": "level2", "train": {"epochs": 1}},
        "evaluate": {"splits": ["train"]},
    }


def debate(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """Run `magdi debate` in a process of its own; its wall time and largest resident memory (MB)."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "magdi_ray.cli", "debate", str(folder / "config.yaml"), "--out", str(folder / "run")]
    started = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = Peak(process.pid)
        code = process.wait()
    if code != 0:
        raise SystemExit(f"magdi debate failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return {"seconds": time.monotonic() - started, "rss_mb": peak.stop()}


class Peak:
    """The largest resident memory of a process, looked at five times a second."""

    def __init__(self, pid: int) -> None:
        self._process, self._peak, self._over = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            try:
                self._peak = max(self._peak, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def stop(self) -> float:
        """Megabytes."""
        self._over.set()
        self._thread.join()
        return self._peak / 1e6


def measure_throughput(capacity: int, *, seconds: float, workers: int) -> dict[str, float]:
    """Calls a second at one capacity, on the server's clock."""
    count = round(capacity / LATENCY * seconds / CALLS_A_DEBATE)
    with tempfile.TemporaryDirectory() as name, running_server(latency=LATENCY, capacity=capacity) as server:
        folder = Path(name)
        write_questions(folder / "questions.jsonl", count)
        config = configuration(folder / "questions.jsonl", url=server.url, agents=3, capacity=capacity, workers=workers, rounds=1)
        debate(folder, config)
        stats = server.stats()
    rate = stats["answered"] / (stats["last_answered"] - stats["first_received"])
    return {"questions": count, "calls": stats["answered"], "calls_per_s": rate, "ratio": rate / (capacity / LATENCY)}


def measure_sequential(questions: int) -> float:
    """Calls a second of a plain loop over questions and agents."""
    with running_server(latency=LATENCY, capacity=64) as server:
        asyncio.run(_sequential(server.url, questions))
        stats = server.stats()
    return float(stats["answered"] / (stats["last_answered"] - stats["first_received"]))


async def _sequential(url: str, questions: int) -> None:
    protocol = load_protocol(ReconcileConfig(name="reconcile", rounds=1), Gsm8k())
    lock = asyncio.Lock()

    class OneByOne:
        hits = 0

        def __init__(self, engine: ApiAgent) -> None:
            self.engine = engine

        async def generate(self, messages: Any, sampling: Sampling, *, sample: int = 0) -> Any:
            async with lock:
                return await self.engine.generate(messages, sampling)

    seats = {}
    for name in ("agent-0", "agent-1", "agent-2"):
        engine = ApiAgent(ApiEngine(type="api", base_url=url, model=name, structured="never"), agent=name)
        seats[name] = Seat(OneByOne(engine), Sampling(max_tokens=300), seeded=False)
    for number in range(questions):
        await hold_debate(protocol, Question(f"q{number}", f"How many are {number} and 2?"), seats=seats, seed=0)


def measure_memory(count: int, *, workers: int) -> dict[str, float]:
    """The driver's memory for so many questions."""
    with tempfile.TemporaryDirectory() as name, running_server(latency=0.0, capacity=1000) as server:
        folder = Path(name)
        write_questions(folder / "questions.jsonl", count)
        config = configuration(folder / "questions.jsonl", url=server.url, agents=1, capacity=128, workers=workers, rounds=0)
        return debate(folder, config)


def main() -> None:
    """Measure, print a line a figure, and end with one JSON object where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacities", type=int, nargs="*", default=[8, 64, 256])
    parser.add_argument("--seconds", type=float, default=40.0, help="length of each throughput measurement, at the ideal")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000], help="questions of the memory measurements")
    parser.add_argument("--workers", type=int, default=2, help="debate.workers")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args()
    report: dict[str, Any] = {"ratio_to_ideal": {}, "sequential_ratio": None, "driver_rss_mb": {}}
    sequential = measure_sequential(15)
    print(f"sequential loop: {sequential:.2f} calls/s", flush=True)
    for capacity in chosen.capacities:
        found = measure_throughput(capacity, seconds=chosen.seconds, workers=chosen.workers)
        report["ratio_to_ideal"][str(capacity)] = round(found["ratio"], 4)
        report["sequential_ratio"] = round(found["calls_per_s"] / sequential, 1)
        rate, share = found["calls_per_s"], found["ratio"]
        print(f"C = {capacity}: {rate:.1f} calls/s, {share:.1%} of the ideal, {found['calls']:.0f} calls", flush=True)
    for size in chosen.sizes:
        memory = measure_memory(size, workers=chosen.workers)
        report["driver_rss_mb"][str(size)] = round(memory["rss_mb"], 1)
        print(f"{size} questions: driver {memory['rss_mb']:.0f} MB, {memory['seconds']:.0f} s", flush=True)
    if chosen.json:
        print(json.dumps(report | {"cores": psutil.cpu_count(), "workers": chosen.workers}))


if __name__ == "__main__":
    main()

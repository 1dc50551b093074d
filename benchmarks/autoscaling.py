"""A cluster that grows with a debate stage's two pools, and shrinks when it is over; measured and drawn.

    python -m benchmarks.autoscaling --picture docs/autoscaling.svg

Ray's autoscaler v2 with fake nodes, which are further raylets of this machine: one node, up to three, 3 logical CPUs each.
`magdi debate` runs on it as a person runs it, with three agents: a tiny local model whose copies (`replicas: [1, 4]`) are the
engine pool, and two models of a provider that answers after some seconds. Processes that hold debates (`workers: [1, 3]`) are the
actor pool. Each copy and each worker reserves one CPU, and reading and writing take one now and then: more than one node has, so
the pools ask for nodes. Every second it is looked at what is there.

- seconds_to_most: from the start of the command to the largest number of nodes.
- seconds_to_one: from the end of the command to one node (nodes are ended when idle for `--idle` seconds).
- load: of the machine, over the last five minutes; other work on it is seen in every figure.
- replies_per_s: by number of nodes, while debates were under way; replies as the run's reply store timed them.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.openai_server import running_server
from benchmarks.panels import Line, Panel, picture
from magdi_ray.runs import Run
from tests.cluster.fake_nodes import FakeCluster, driver, in_state, output_of

AT = re.compile(rb'"at": ([\d.]+)')
QUIET_BEFORE, QUIET_AFTER = 5, 8
"""Seconds that are looked at before the stage begins, and when one node is left."""

SMOOTH = 10
"""Seconds over which replies are averaged."""


@dataclass(frozen=True)
class Sample:
    """What was there at one moment."""

    at: float
    """Unix seconds."""
    nodes: int
    replicas: int
    """Copies of the local engine that run."""
    workers: int
    """Processes that hold debates."""


def configuration(*, url: str, questions: int, replicas: int, workers: int, in_flight: int) -> dict[str, Any]:
    """A debate stage with both pools."""
    local = {"type": "transformers", "model": "pkg://magdi_ray/tiny/models/ada", "max_batch_size": 4}
    provider = {"type": "api", "base_url": url, "structured": "never", "repair": False}
    asked = [
        {
            "name": name,
            "engine": provider | {"model": f"agent-{seat}", "limits": {"concurrency": 512}},
            "sampling": {"max_tokens": 64},
        }
        for seat, name in enumerate(("bea", "cy"))
    ]
    ada = {"name": "ada", "engine": local, "sampling": {"max_tokens": 32}, "replicas": [1, replicas], "num_cpus": 1.0}
    return {
        "name": "autoscaling",
        "task": {"name": "tiny", "train": questions, "test": 1},
        "debate": {
            "protocol": {"name": "reconcile", "rounds": 1, "prompts": "pkg://magdi_ray/tiny/prompts.yaml"},
            "agents": [ada, *asked],
            "workers": [1, workers],
            "num_cpus": 1.0,
            "max_in_flight": in_flight,
        },
        "distil": {"student": {"model": "pkg://magdi_ray/tiny/models/student"}, "recipe": "level2", "train": {"epochs": 1}},
        "evaluate": {"splits": ["test"]},
    }


def look(cluster: FakeCluster) -> Sample:
    """What is there now."""
    classes = [actor["class_name"] for actor in in_state(cluster, "actors", "ALIVE")]
    return Sample(
        at=time.time(),
        nodes=len(cluster.alive()),
        replicas=sum(name.startswith("ServeReplica") for name in classes),
        workers=sum("DebateOperator" in name for name in classes),
    )


def watch(folder: Path, config: Path, *, idle: float, wait: float) -> tuple[list[Sample], float, float]:
    """Run the stage on a cluster of its own: what was seen, and when the command began and ended.

    Raises:
        SystemExit: the command failed, or the cluster did not shrink within `wait` seconds.
    """
    samples: list[Sample] = []
    with FakeCluster(most=3, cpus=3, idle_seconds=idle) as cluster:

        def sample(seconds: float) -> None:
            for _ in range(round(seconds)):
                due = time.time() + 1.0
                samples.append(look(cluster))
                time.sleep(max(0.0, due - time.time()))

        sample(QUIET_BEFORE)
        began = time.time()
        with driver(cluster, "debate", str(config), "--out", str(folder / "run")) as process:
            while process.poll() is None:
                sample(1)
            if process.returncode:
                raise SystemExit(f"magdi debate failed:\n{output_of(cluster)}")
        ended = time.time()
        while samples[-1].nodes > 1:
            if time.time() > ended + wait:
                raise SystemExit(f"{samples[-1].nodes} nodes are still there {wait:.0f} s after the end.")
            sample(1)
        sample(QUIET_AFTER)
    return samples, began, ended


def reply_times(run: Path) -> list[float]:
    """When each reply was kept, Unix seconds, sorted."""
    return sorted(float(found) for file in (run / "replies").glob("*.jsonl") for found in AT.findall(file.read_bytes()))


def rates(replies: Sequence[float], times: Sequence[float]) -> list[float]:
    """Replies a second around each time, averaged over `SMOOTH` seconds."""
    half = SMOOTH / 2
    return [sum(at - half <= one < at + half for one in replies) / SMOOTH for at in times]


def figures(samples: Sequence[Sample], replies: Sequence[float], began: float, ended: float) -> dict[str, Any]:
    """What the benchmark says."""
    most = max(sample.nodes for sample in samples)
    seconds, kept = defaultdict[int, float](float), defaultdict[int, int](int)
    for this, following in pairwise(samples):
        if replies[0] <= this.at < replies[-1]:
            seconds[this.nodes] += following.at - this.at
            kept[this.nodes] += sum(this.at <= one < following.at for one in replies)
    return {
        "nodes": most,
        "replicas": max(sample.replicas for sample in samples),
        "workers": max(sample.workers for sample in samples),
        "seconds_to_most": round(next(sample.at for sample in samples if sample.nodes == most) - began, 1),
        "seconds_of_command": round(ended - began, 1),
        "seconds_to_one": round(next(sample.at for sample in samples if sample.at > ended and sample.nodes == 1) - ended, 1),
        "replies": len(replies),
        "replies_per_s": {str(nodes): round(kept[nodes] / seconds[nodes], 2) for nodes in sorted(seconds)},
        "seconds_with_nodes": {str(nodes): round(seconds[nodes], 1) for nodes in sorted(seconds)},
    }


def draw(samples: Sequence[Sample], replies: Sequence[float], began: float, ended: float) -> str:
    """The picture, as SVG."""
    start = samples[0].at
    times = [sample.at - start for sample in samples]
    most = max(sample.nodes for sample in samples)
    panels = [
        Panel("Nodes", [Line([sample.nodes for sample in samples], 0, filled=True)], 84),
        Panel(
            "Pools",
            [
                Line([sample.replicas for sample in samples], 1, name="copies of the engine"),
                Line([sample.workers for sample in samples], 2, name="debate workers", dashed=True),
            ],
            124,
        ),
        Panel("Replies a second", [Line(rates(replies, [s.at for s in samples]), 3, steps=False, filled=True)], 124),
    ]
    events = [(began - start, "magdi debate begins"), (ended - start, "ends")]
    said = f"Nodes, engine copies, debate workers and replies a second over time: from one node to {most} and back to one."
    return picture(times, panels, events=events, said=said)


def main() -> None:
    """Measure, draw where asked, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--replicas", type=int, default=4, help="copies of the local engine, at most")
    parser.add_argument("--workers", type=int, default=3, help="processes that hold debates, at most")
    parser.add_argument("--in-flight", type=int, default=96, help="debates under way at once, at most, with all workers")
    parser.add_argument("--latency", type=float, default=4.0, help="seconds in which the provider answers")
    parser.add_argument("--idle", type=float, default=9.0, help="seconds after which an idle node is ended")
    parser.add_argument("--wait", type=float, default=240.0, help="seconds after the end in which the cluster has to shrink")
    parser.add_argument("--picture", type=Path, default=None, help="SVG file to write")
    parser.add_argument("--samples", type=Path, default=None, help="JSON file to write: all that was seen, second by second")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster and the server are ended, as by Ctrl-C
    with tempfile.TemporaryDirectory() as name, running_server(latency=chosen.latency, jitter=0.2, reply_tokens=18) as server:
        folder = Path(name)
        pools = {"replicas": chosen.replicas, "workers": chosen.workers, "in_flight": chosen.in_flight}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(url=server.url, questions=chosen.questions, **pools)), encoding="utf-8")
        samples, began, ended = watch(folder, config, idle=chosen.idle, wait=chosen.wait)
        replies = reply_times(folder / "run")
        facts = Run(folder / "run").require("debates").facts
    seen = {"samples": [asdict(sample) for sample in samples], "replies": replies, "began": began, "ended": ended}
    if chosen.samples:
        chosen.samples.write_text(json.dumps(seen), encoding="utf-8")
    if chosen.picture:
        chosen.picture.write_text(draw(samples, replies, began, ended), encoding="utf-8")
    report = figures(samples, replies, began, ended) | {"debates": facts["debates"], "failed": facts["failed"]}
    print(
        json.dumps(
            report | {"questions": chosen.questions, "cores": psutil.cpu_count(), "load": round(psutil.getloadavg()[1], 1)}
        )
    )


if __name__ == "__main__":
    main()

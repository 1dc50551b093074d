"""Training whose workers are on different nodes of a real cluster, with one directory that all of them share.

One training goes through everything: a CPU that another program holds, and lets go; a node that is taken away; a killed driver;
and the last of the nodes but one gone. Its loss curve is that of a training to which nothing happened.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from magdi_ray.distill.checkpoint.state import INDEX
from magdi_ray.graph.store import write_mags
from magdi_ray.runs import Run
from tests.cluster.fake_nodes import driver, in_state, kill_driver, nodes_of, output_of, wait_until
from tests.cluster.local import LocalCluster
from tests.cluster.training import beyond, lines, starts, whole
from tests.distill.conftest import make_mag

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1200)]

ANSWERS = (("18", "7", "18", "18", "18", "7"), ("18", "6", "6"))
STEPS, EVERY = 60, 5
WAITED = 3.0
"""Seconds in which a training that is short of a CPU is seen to do nothing."""

HOLDER = """
import sys
import ray

class Holder:
    def holds(self):
        return True

ray.init(logging_level="error")
holder = ray.remote(num_cpus=1)(Holder).remote()
print("holds:", ray.get(holder.holds.remote()), flush=True)
sys.stdin.read()
"""
"""A program that keeps a CPU of the cluster to itself until its input ends."""


def configuration(folder: Path) -> Path:
    """A training of seconds, on hand-made graphs; no dropout, so that workers draw nothing at random."""
    write_mags(folder / "graphs.parquet", [make_mag(number, ANSWERS[number % 2]) for number in range(24)])
    shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    objectives = [{"name": "next_token"}, {"name": "contrast"}, {"name": "interaction", "hidden": 16, "dropout": 0.0}]
    config = {
        "name": "nodes",
        "task": {"name": "gsm8k"},
        "graph": {"source": {"format": "mag", "path": str(folder / "graphs.parquet"), "test": 4}},
        "distil": {
            "student": {"model": shape, "tuning": {"type": "full"}, "max_length": 256},
            "recipe": {"name": "quiet", "objectives": objectives},
            "train": {"max_steps": STEPS, "tokens_per_step": 600, "learning_rate": 1e-3, "warmup_steps": 2},
            "deepspeed": {"zero_stage": 2},
            "checkpoints": {"every_steps": EVERY, "every_minutes": None, "storage": str(folder / "shared")},
        },
        "evaluate": {"splits": ["test"]},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@dataclass
class Story:
    """What was seen of the training that everything happened to, and where it and a quiet one are."""

    run: Path
    quiet: Path
    idle: int = -1
    """Steps done while a CPU was missing."""
    early: list[str] = field(default_factory=list)
    """Nodes of the workers that were there then."""
    nodes: list[list[str]] = field(default_factory=list)
    """Of the workers, each time they had come."""
    safe: list[int] = field(default_factory=list)
    """Step of the newest whole checkpoint, each time something had been killed."""
    checkpoint: dict[str, int] = field(default_factory=dict)
    """Files of the last of these, with their sizes; two workers wrote it."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The training, with everything that happens to it; about two minutes."""
    folder = tmp_path_factory.mktemp("nodes")
    told = Story(folder / "run", folder / "quiet")
    config, shared = str(configuration(folder)), folder / "shared"
    train = ("distill", config, "--out", str(told.run), "--set")
    with LocalCluster(workers=2, head_cpus=0) as cluster, ExitStack() as held:

        def begin(number: int, magdi: Any) -> None:
            """Both workers have done steps after a checkpoint of their own attempt."""
            wait_until(lambda: beyond(told.run, shared, attempt=number), cluster=cluster, driver=magdi)
            told.nodes.append(nodes_of(cluster, "RayTrainWorker"))

        held.enter_context(a_cpu_held(cluster))
        with driver(cluster, *train, "distil.scaling.num_workers=2") as magdi:
            wait_until(lambda: in_state(cluster, "placement_groups", "PENDING"), cluster=cluster, driver=magdi)
            time.sleep(WAITED)
            told.idle, told.early = len(lines(told.run)), nodes_of(cluster, "RayTrainWorker")
            held.close()
            begin(1, magdi)
            cluster.kill_node(-1)
            told.safe.append(max(whole(shared)))
            cluster.add_node(wait=False)
            begin(2, magdi)
            kill_driver(magdi)
        cluster.kill_node(-1)
        step, place = max(whole(shared).items())
        told.safe.append(step)
        told.checkpoint = {path.name: path.stat().st_size for path in place.iterdir()}
        for run in (told.run, told.quiet):
            again = ("distill", config, "--out", str(run), "--set", "distil.scaling.num_workers=1")
            with driver(cluster, *again) as magdi:
                wait_until(lambda: magdi.poll() is not None, cluster=cluster)
                assert magdi.returncode == 0, output_of(cluster)
        yield told
    assert cluster.left() == []


@contextmanager
def a_cpu_held(cluster: LocalCluster) -> Iterator[None]:
    """One of the cluster's CPUs is reserved by an actor of another program."""
    program = (sys.executable, "-c", HOLDER)
    holder = cluster.popen(*program, env={"RAY_ADDRESS": cluster.address}, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    said = []
    try:
        while "holds: True\n" not in said:
            said.append(holder.stdout.readline())
            assert said[-1], "".join(said)
        yield
        holder.communicate(timeout=60)
    finally:
        kill_driver(holder)


def curve(run: Path) -> torch.Tensor:
    """The last loss written for each step."""
    losses = {line["step"]: line["loss"] for line in lines(run) if "event" not in line}
    assert sorted(losses) == list(range(STEPS))
    return torch.tensor([losses[step] for step in range(STEPS)])


def test_a_training_that_is_short_of_a_cpu_starts_no_worker_and_begins_when_it_is_free(story: Story) -> None:
    assert story.idle == 0
    assert story.early == []  # gang scheduling: there was room for one of the two
    assert starts(story.run)[0] == 0


def test_the_two_workers_are_on_different_nodes(story: Story) -> None:
    assert [len(set(nodes)) for nodes in story.nodes] == [2, 2]
    assert story.nodes[0] != story.nodes[1]  # one was killed, another joined


def test_a_checkpoint_is_one_directory_with_the_files_of_both_workers_each_once(story: Story) -> None:
    index = {name: size for name, size in story.checkpoint.items() if name != INDEX}
    assert {name.split("-")[1] for name in index if name.startswith("rank-")} == {"00000", "00001"}
    assert all(index.values())


def test_a_training_goes_on_from_its_newest_checkpoint_when_a_node_is_lost_and_when_only_one_is_left(story: Story) -> None:
    assert starts(story.run) == [0, *story.safe]
    assert 0 < story.safe[0] < story.safe[1] < STEPS
    facts = Run(story.run).require("student").facts
    assert (facts["resumed_at_step"], facts["workers"]) == (story.safe[-1], 1)


def test_the_loss_curve_is_that_of_a_quiet_training(story: Story) -> None:
    assert starts(story.quiet) == [0]
    torch.testing.assert_close(curve(story.run), curve(story.quiet), atol=1e-4, rtol=0)

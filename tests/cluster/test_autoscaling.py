"""A run on a cluster that grows with it and shrinks again; a node is killed amid the debates, another amid the training.

The nodes are fake ones of Ray's autoscaler v2. `benchmarks/autoscaling.py` draws what happens, second by second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.autoscaling import configuration
from benchmarks.openai_server import running_server
from magdi_ray.debate.store import read_debates
from magdi_ray.runs import Run
from tests.cluster.fake_nodes import HEAD, FakeCluster, driver, nodes_of, output_of, wait_until
from tests.cluster.training import beyond, starts, whole

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1200)]

QUESTIONS, IN_FLIGHT = 240, 32
STEPS, EVERY = 40, 5


@dataclass
class Story:
    """What was seen."""

    run: Path
    most: int = 0
    """Nodes during the debates."""
    pools: Counter[str] = field(default_factory=Counter)
    """Largest number of engine copies and of debate workers."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What the provider counted."""
    nodes_after: list[int] = field(default_factory=list)
    """Nodes some time after the debates, and after the training."""
    training: list[list[str]] = field(default_factory=list)
    """Nodes of the training workers, before and after one of them was killed."""
    safe: int = 0
    """Step of the newest whole checkpoint when the node was gone."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The run, with two nodes killed; about three minutes."""
    folder = tmp_path_factory.mktemp("autoscaling")
    told = Story(folder / "run")
    with running_server(latency=1.0, reply_tokens=18) as server, FakeCluster(cpus=2) as cluster:
        config = folder / "config.yaml"
        pools = configuration(url=server.url, questions=QUESTIONS, replicas=3, workers=2, in_flight=IN_FLIGHT)
        config.write_text(yaml.safe_dump(trained(pools, folder / "shared")), encoding="utf-8")
        debates_with_a_kill(cluster, config, told)
        told.asked = server.stats()
        told.nodes_after.append(shrunk(cluster))
        training_with_a_kill(cluster, config, folder / "shared", told)
        told.nodes_after.append(shrunk(cluster))
        yield told
    assert cluster.left() == []


def trained(config: dict[str, Any], shared: Path) -> dict[str, Any]:
    """The same run with a training of two workers, each of which takes a node."""
    config["distil"] |= {
        "train": {"max_steps": STEPS, "tokens_per_step": 400, "learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoints": {"every_steps": EVERY, "every_minutes": None, "storage": str(shared)},
        "scaling": {"num_workers": 2, "num_cpus": 2},
    }
    return config


def debates_with_a_kill(cluster: FakeCluster, config: Path, told: Story) -> None:
    with driver(cluster, "debate", str(config), "--out", str(told.run)) as magdi:

        def grown() -> bool:
            """Three nodes, more than one of both pools, and both debate workers at work, one of them on a node that was added."""
            told.most = max(told.most, len(cluster.alive()))
            for name in ("ServeReplica", "DebateOperator"):
                told.pools[name] = max(told.pools[name], len(nodes_of(cluster, name)))
            busy = [file for file in (told.run / "replies").glob("*.jsonl") if file.read_bytes().count(b"\n") >= 8]
            pools = min(told.pools.values()) > 1 and len(busy) > 1
            return told.most == 3 and pools and bool(added(cluster, "DebateOperator"))

        wait_until(grown, cluster=cluster, driver=magdi)
        cluster.kill_added(added(cluster, "DebateOperator")[0])
        wait_until(lambda: magdi.poll() is not None, cluster=cluster)
        assert magdi.returncode == 0, output_of(cluster)


def training_with_a_kill(cluster: FakeCluster, config: Path, shared: Path, told: Story) -> None:
    with driver(cluster, "distill", str(config), "--out", str(told.run)) as magdi:
        wait_until(lambda: beyond(told.run, shared, attempt=1), cluster=cluster, driver=magdi)
        told.training.append(nodes_of(cluster, "RayTrainWorker"))
        cluster.kill_added(added(cluster, "RayTrainWorker")[0])
        told.safe = max(whole(shared))
        wait_until(lambda: len(starts(told.run)) == 2, cluster=cluster, driver=magdi)
        told.training.append(nodes_of(cluster, "RayTrainWorker"))
        wait_until(lambda: magdi.poll() is not None, cluster=cluster)
        assert magdi.returncode == 0, output_of(cluster)


def added(cluster: FakeCluster, name: str) -> list[str]:
    """Nodes that the autoscaler added and on which such an actor lives."""
    return [node for node in nodes_of(cluster, name) if node != HEAD]


def shrunk(cluster: FakeCluster) -> int:
    """Nodes, as soon as they are down to one, or after a long time."""
    wait_until(lambda: len(cluster.alive()) == 1, cluster=cluster)
    return len(cluster.alive())


def test_the_two_pools_grow_the_cluster_to_three_nodes_and_it_shrinks_to_one(story: Story) -> None:
    assert story.most == 3
    assert story.pools["ServeReplica"] > 1
    assert story.pools["DebateOperator"] == 2
    assert story.nodes_after == [1, 1]


def test_a_node_killed_in_the_middle_of_the_debates_costs_no_question(story: Story) -> None:
    debates, facts = list(read_debates(story.run / "debates")), Run(story.run).require("debates").facts
    assert len(debates) == len({debate.question.id for debate in debates}) == facts["debates"]
    assert facts["debates"] == QUESTIONS + 1  # one is held out
    assert facts["failed"] == 0
    assert facts["replies already in the store"] > 0  # of debates that the killed worker could not end


def test_nothing_is_asked_twice_but_what_the_killed_node_had_under_way(story: Story) -> None:
    agents = 2
    assert 0 <= story.asked["received"] - story.asked["distinct"] <= agents * IN_FLIGHT // 2
    kept = Counter(turn.model for debate in read_debates(story.run / "debates") for turn in debate.turns)
    assert sum(count for model, count in kept.items() if model.startswith("agent-")) == story.asked["distinct"]


def test_a_node_killed_in_the_middle_of_the_training_is_replaced_and_the_training_goes_on(story: Story) -> None:
    before, after = story.training
    assert (len(set(before)), len(set(after))) == (2, 2)
    assert before != after
    assert starts(story.run) == [0, story.safe]
    assert story.safe >= EVERY
    assert Run(story.run).require("student").facts["resumed_at_step"] == story.safe

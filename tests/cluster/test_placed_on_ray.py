"""Places on a real Ray of two nodes: what the configuration labels lands there, and what no node could hold is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]

CONFIG = {
    "name": "placed",
    "task": {"name": "tiny", "train": 4, "test": 2},
    "debate": {
        "protocol": {"name": "reconcile", "rounds": 1},
        "agents": [
            {"name": name, "engine": {"type": "recorded", "path": "none.jsonl"}, "num_cpus": 0.4} for name in ("ada", "bob")
        ],
        "max_failed_share": 1.0,
        "num_cpus": 0.1,
        "workers": [1, 2],
    },
    "distil": {
        "student": {"model": {"architecture": "llama"}},
        "train": {"epochs": 1},
        "scaling": {"num_workers": 2, "num_cpus": 0.5},
    },
    "resources": {
        "debate": {"labels": {"magdi-stage": "debate"}, "custom": {"spot": 0.5}},
        "agents": {"labels": {"magdi-stage": "in(teachers, debate)"}},
        "distil": {"labels": {"magdi-stage": "debate"}, "strategy": "STRICT_PACK"},
    },
}
"""The agents know no reply, so every debate fails, and quickly."""

DRIVER = """
    import json, os, sys
    from pathlib import Path
    from magdi_ray.cluster import ray_session, set_environment
    set_environment()
    from magdi_ray.config import parse_config
    from magdi_ray.distill.train import _ray_scaling
    from magdi_ray.errors import ConfigError
    from magdi_ray.pipeline import run_pipeline
    from magdi_ray.preflight import check_placement
    from magdi_ray.runs import Run

    config = parse_config(json.loads(sys.argv[1]), "config")
    os.chdir(sys.argv[2])
    Path("none.jsonl").touch()
    with ray_session():
        import ray
        from ray.train import RunConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
        from ray.util.state import list_actors

        run_pipeline(config, Run(Path("run")), until="debates")
        scaling = _ray_scaling(config.distil.scaling, config.resources.distil)
        told = RunConfig(storage_path=str(Path("training").resolve()))
        DataParallelTrainer(lambda: None, scaling_config=scaling, run_config=told).fit()
        stage = {node["NodeID"]: node["Labels"].get("magdi-stage", "head") for node in ray.nodes()}
        actors = list_actors(limit=500, raise_on_missing_output=False)
        found = {}
        for name in ("DebateOperator", "ServeReplica", "RayTrainWorker"):
            found[name] = [stage[a.node_id] for a in actors if a.node_id and name in a.class_name]
        wrong = parse_config(json.loads(sys.argv[1].replace('"magdi-stage": "debate"', '"magdi-stage": "debat"')), "config")
        try:
            check_placement(wrong, ["student"])
        except ConfigError as error:
            found["refused"] = str(error)
        Path("found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Process -> the labels of the nodes on which it ran; and what was said of a label that no node has."""
    folder = tmp_path_factory.mktemp("placed")
    with LocalCluster(workers=0, head_cpus=2) as cluster:
        cluster.add_node(2, options=["--labels=magdi-stage=debate", '--resources={"spot": 1}'])
        command = (sys.executable, "-c", dedent(DRIVER), json.dumps(CONFIG), str(folder))
        root = str(Path(__file__).parent.parent.parent)
        done = cluster.run(*command, env={"RAY_ADDRESS": cluster.address, "PYTHONPATH": root}, timeout_s=240)
        assert done.returncode == 0, done.stdout[-3000:]
        yield json.loads((folder / "found.json").read_text())


def test_debate_workers_replicas_and_training_workers_run_on_the_node_with_their_label(found: dict[str, list[str]]) -> None:
    assert set(found["DebateOperator"]) == {"debate"}
    assert found["ServeReplica"] == ["debate", "debate"]
    assert found["RayTrainWorker"] == ["debate", "debate"]


def test_a_label_that_no_node_has_is_refused_with_the_labels_there_are(found: dict[str, str]) -> None:
    assert "labelled magdi-stage=debat, all on one node; no such node is there." in found["refused"]
    assert "Nodes have magdi-stage=debate." in found["refused"]

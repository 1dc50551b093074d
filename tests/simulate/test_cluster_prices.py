"""The price table of a cluster is strict, and whatever is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from magdi_ray.config.cluster import load_cluster
from magdi_ray.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "cluster" / "prices.yaml"


def changed(tmp_path: Path, section: str, **values: object) -> Path:
    """The example with some values of a section changed."""
    data = yaml.safe_load(EXAMPLE.read_text())
    data[section] |= values
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "cluster.yaml"


def test_the_example_is_valid_and_says_where_its_prices_come_from() -> None:
    cluster = load_cluster(EXAMPLE)
    assert "approximate" in cluster.prices
    assert cluster.stages.agents is not None
    assert cluster.hourly(cluster.stages.agents) == cluster.nodes["gpu-l4"].spot
    assert cluster.lost_per_hour(cluster.stages.workers) == 0.0  # on demand


def test_a_stage_on_machines_that_are_not_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages.distil.nodes is 'gpu-a'.*cpu-16"):
        load_cluster(changed(tmp_path, "stages", distil={"nodes": "gpu-a"}))


def test_spot_machines_without_a_spot_price_are_refused(tmp_path: Path) -> None:
    file = changed(tmp_path, "nodes", **{"gpu-l4": {"vcpus": 8, "gpus": 1, "memory_gib": 32, "on_demand": 0.8}})
    with pytest.raises(ConfigError, match=r"wants spot machines, but nodes\.gpu-l4\.spot has no price"):
        load_cluster(file)


def test_a_misspelt_price_is_refused_and_not_taken_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out_usd_a_gb"):
        load_cluster(changed(tmp_path, "network", out_usd_a_gb=1.0))


def test_a_missing_file_names_the_example() -> None:
    with pytest.raises(ConfigError, match=r"cluster/prices\.yaml"):
        load_cluster("nowhere.yaml")

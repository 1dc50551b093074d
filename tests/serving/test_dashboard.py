"""The Grafana dashboard of the endpoint shows figures that are really counted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from magdi_ray.serving.metrics import COUNTERS, HISTOGRAMS

BOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana" / "serving.json").read_text())
OURS = {f"{name}_total" for name in COUNTERS} | {"in_flight"}
OURS |= {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}


def queries() -> list[str]:
    return [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("query", queries())
def test_a_panel_asks_for_figures_the_endpoint_counts(query: str) -> None:
    named = re.findall(r"ray_magdi_serve_(\w+)", query)
    assert set(named) <= OURS
    assert named or "ray_serve_" in query


def test_every_figure_has_a_panel() -> None:
    shown = " ".join(queries())
    assert [name for name in (*COUNTERS, *HISTOGRAMS, "in_flight") if f"ray_magdi_serve_{name}" not in shown] == []


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(x % 8 == 0 and y % 8 == 0 for x, y in places)

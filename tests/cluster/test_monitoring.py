"""Dashboards, alert rules and what Kubernetes is told to collect: of figures that exist, and with words that lead on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from magdi_ray.observe.figures import COMMON, FIGURES, scraped
from magdi_ray.serving.metrics import COUNTERS, HISTOGRAMS
from tests.cluster.rendering import KUBERAY, ROOT, _kustomize

GRAFANA, PROMETHEUS = ROOT / "cluster" / "grafana", ROOT / "cluster" / "prometheus"
OBJECTS = KUBERAY / "components" / "monitoring" / "objects"
OWN = ("run", "debate", "distil")
BOARDS = {name: json.loads((GRAFANA / f"{name}.json").read_text()) for name in OWN}
RULES = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
SERVED = {f"ray_magdi_serve_{name}_total" for name in COUNTERS}
SERVED |= {f"ray_magdi_serve_{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}
OURS = {scraped(name): set(figure.labels) | set(COMMON) for name, figure in FIGURES.items()}
OTHERS = {"ray_cluster_active_nodes", "ray_node_gpus_utilization", "ray_serve_deployment_status"}
OTHERS |= {"ray_serve_deployment_replica_healthy", "kuberay_job_deployment_status", "ALERTS"}
"""Of Ray, of its operator and of Prometheus itself."""


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALL_RULES)
    for board in BOARDS.values():
        yield from queries(board)


def named(expression: str) -> set[str]:
    """The metrics an expression reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|(by|on) \([^)]*\)", " ", expression)
    return set(re.findall(r"(?:ray_|kuberay_|magdi:)[\w:]+|\bALERTS\b", bare))


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_reads_figures_that_exist(expression: str) -> None:
    found = named(expression)
    assert found
    assert found - set(OURS) - SERVED - RECORDED - OTHERS == set()


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_chooses_by_labels_its_figure_has(expression: str) -> None:
    for name, matchers in re.findall(r"(ray_magdi_(?!serve)\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", matchers)) <= OURS[name]


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_is_promql(expression: str) -> None:
    parser = pytest.importorskip("promql_parser")
    parser.parse(expression.replace("$__rate_interval", "1m"))


def test_every_figure_is_on_a_dashboard() -> None:
    shown = set().union(*(named(query) for board in BOARDS.values() for query in queries(board)))
    assert set(OURS) - shown == set()


@pytest.mark.parametrize("name", OWN)
def test_a_dashboard_keeps_its_address_and_chooses_runs(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"magdi-{name}"
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert set(variables) >= {"datasource", "run", "run_id"}
    for variable in variables.values():
        assert named(json.dumps(variable["query"]).replace("label_values(", " ").replace("\\", "")) <= set(OURS)
    for query in queries(board):
        assert set(re.findall(r"\$(\w+)", query)) <= set(variables) | {"__rate_interval"}


@pytest.mark.parametrize("name", OWN)
def test_panels_say_what_they_show_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), flags=re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


def test_every_runbook_is_of_an_alert() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    assert set(re.findall(r"^### (Magdi\w+)$", text, flags=re.MULTILINE)) == set(ALERTS)


def test_what_a_dashboard_says_of_an_alert_is_its_threshold() -> None:
    marks = {"MagdiDebateStalled": 900, "MagdiTrainingStalled": 900, "MagdiCheckpointTooOld": 7200, "MagdiSpendRateHigh": 50}
    for alert, value in marks.items():
        assert f"> {value}" in ALERTS[alert]["expr"]
        told = [panel for board in BOARDS.values() for panel in board["panels"] if alert in panel["description"]]
        assert told
        for panel in told:
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == value


def test_the_operators_rules_are_those_of_the_plain_file() -> None:
    rules = yaml.safe_load((OBJECTS / "rules.yaml").read_text())
    assert (rules["apiVersion"], rules["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rules["spec"] == RULES


def test_what_is_collected_are_the_pods_of_our_clusters_at_the_port_that_policies_open() -> None:
    monitor = yaml.safe_load((OBJECTS / "pod-monitor.yaml").read_text())["spec"]
    cluster = yaml.safe_load((KUBERAY / "base" / "raycluster.yaml").read_text())["spec"]
    head = cluster["headGroupSpec"]["template"]
    [port] = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    [number] = [p["containerPort"] for p in head["spec"]["containers"][0]["ports"] if p["name"] == port]
    policies = yaml.safe_load_all((KUBERAY / "base" / "network-policies.yaml").read_text())
    assert number in {p["port"] for d in policies for rule in d["spec"]["ingress"] for p in rule.get("ports", ())}
    by_us = {name: value for name, value in monitor["selector"]["matchLabels"].items() if not name.startswith("ray.io/")}
    for template in (head, *(group["template"] for group in cluster["workerGroupSpecs"])):
        assert by_us.items() <= template["metadata"]["labels"].items()


def test_the_component_can_be_added_to_an_overlay(tmp_path: Path) -> None:
    command = _kustomize()
    if command is None:
        pytest.skip("neither kustomize nor kubectl 1.22 or newer is installed")
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    overlay = tmp_path / "kuberay" / "overlays" / "gke" / "job" / "kustomization.yaml"
    overlay.write_text(overlay.read_text() + "  - ../../../components/monitoring\n")
    done = subprocess.run([*command, str(overlay.parent)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = {d["kind"]: d for d in yaml.safe_load_all(done.stdout)}
    assert found["PrometheusRule"]["spec"] == RULES
    assert found["PodMonitor"]["metadata"]["namespace"] == "magdi-ray"


@pytest.mark.parametrize("words", [("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml")])
def test_prometheus_takes_the_rules_and_fires_when_it_should(words: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    done = subprocess.run(["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_played_to_fire() -> None:
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())["tests"]
    played = [case for test in tests for case in test["promql_expr_test"]]
    assert set(re.findall(r"Magdi\w+", str([case["exp_samples"] for case in played]))) == set(ALERTS)

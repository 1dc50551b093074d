"""The manifests: what KubeRay and Kubernetes accept, and what we want of every pod."""

from __future__ import annotations

import copy
import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from magdi_ray.config import load_config
from tests.cluster.rendering import (
    KUBERAY,
    OVERLAYS,
    PLAIN,
    ROOT,
    SOURCES,
    SPEC,
    Document,
    clusters,
    containers,
    documents,
    groups,
    only,
    pods,
    version_of,
)

CLOUDS = [overlay for overlay in OVERLAYS if overlay.split("/")[0] in ("gke", "eks")]
JOBS = [PLAIN, *(overlay for overlay in OVERLAYS if "/job" in overlay)]
SECRET = re.compile(
    r"sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)
SECRET_NAME = re.compile(r"(TOKEN|KEY|PASSWORD|SECRET|CREDENTIALS?)$")


@cache
def schema(folder: Path, kind: str) -> jsonschema.Draft202012Validator:
    path = folder / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not at {path}; set MAGDI_DATA")
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(node: Any) -> Any:
    """The schema with unknown fields refused, which the API server would drop without a word."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "type" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def complaints(folder: Path, document: Document) -> list[str]:
    return [f"{e.json_path}: {e.message[:200]}" for e in schema(folder / "kuberay", document["kind"]).iter_errors(document)]


@pytest.mark.parametrize("source", SOURCES)
def test_every_manifest_of_ray_fits_kuberays_schemas(source: str, data_dir: Path) -> None:
    found = [d for d in documents(source) if d["kind"] in SPEC]
    assert found
    assert {d["apiVersion"] for d in found} == {"ray.io/v1"}
    assert [c for d in found for c in complaints(data_dir, d)] == []


def test_a_misspelt_field_a_wrong_value_and_a_lacking_one_are_refused(data_dir: Path) -> None:
    cluster = only(documents(PLAIN), "RayCluster")
    for path, change in (
        (("headGroupSpec", "template", "spec", "containers", 0), {"resorces": {}}),
        (("autoscalerOptions",), {"version": "v3"}),
        (("workerGroupSpecs", 0), {"maxReplicas": "many"}),
        (("workerGroupSpecs", 0), {"groupName": 7}),
        (("gcsFaultToleranceOptions",), {"backend": "memory"}),
    ):
        wrong = copy.deepcopy(cluster)
        place = wrong["spec"]
        for step in path:
            place = place[step] if isinstance(step, int) else place.setdefault(step, {})
        place.update(change)
        assert len(complaints(data_dir, wrong)) == 1, change
    del cluster["spec"]["headGroupSpec"]
    assert "'headGroupSpec' is a required property" in complaints(data_dir, cluster)[0]


@pytest.mark.parametrize("source", SOURCES)
def test_all_other_manifests_fit_kubernetes_own_schemas(source: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    others = [d for d in documents(source) if d["kind"] not in SPEC]
    assert {d["kind"] for d in others} >= {"ServiceAccount", "NetworkPolicy"}
    for document in others:
        assert validator.validate(document, "1.33", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_makes_one_object_of_ray_in_our_namespace(overlay: str) -> None:
    found = documents(overlay)
    kind = {"job": "RayJob", "job-bucket": "RayJob", "service": "RayService", "cluster": "RayCluster"}[overlay.split("/")[1]]
    assert [d["kind"] for d in found if d["kind"] in SPEC] == [kind]
    assert {d["metadata"]["namespace"] for d in found} == {"magdi-ray"}
    assert "Values" not in {d["kind"] for d in found}


@pytest.mark.parametrize("source", SOURCES)
def test_a_pod_gets_what_it_asks_for(source: str) -> None:
    autoscalers = [cluster["autoscalerOptions"] for cluster in clusters(source)]
    for container in (*containers(source), *autoscalers):
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], container["name"]
        assert {"cpu", "memory"} <= set(resources["limits"])


@pytest.mark.parametrize("source", SOURCES)
def test_images_carry_the_version_of_ray(source: str) -> None:
    version = version_of("ray")
    assert {cluster["rayVersion"] for cluster in clusters(source)} == {version}
    images = {container["image"] for container in containers(source)}
    assert images
    for image in images:
        name, _, tag = image.rpartition(":")
        assert name.endswith(("magdi-ray", "magdi-ray-cuda"))
        assert tag == version, image


@pytest.mark.parametrize("source", SOURCES)
def test_images_are_pulled_once_and_probes_are_the_operators(source: str) -> None:
    for container in containers(source):
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(container)


@pytest.mark.parametrize("source", SOURCES)
def test_no_pod_runs_as_root_or_may_become_more_than_it_is(source: str) -> None:
    for pod in pods(source):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*containers(source), *(cluster["autoscalerOptions"] for cluster in clusters(source))):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("source", SOURCES)
def test_secrets_come_by_reference(source: str) -> None:
    assert "Secret" not in {d["kind"] for d in documents(source)}
    inline = [
        variable["name"]
        for container in containers(source)
        for variable in container.get("env", ())
        if SECRET_NAME.search(variable["name"]) and "value" in variable
    ]
    assert inline == []


def test_no_file_of_the_cluster_holds_a_secret_or_a_moving_tag() -> None:
    named = [ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / "docs" / "kubernetes.md"]
    files = [*named, *(path for path in (ROOT / "cluster").rglob("*.yaml"))]
    assert [str(path) for path in files if SECRET.search(path.read_text())] == []
    assert [str(path) for path in files if re.search(r"^[^#]*:latest\b", path.read_text(), re.MULTILINE)] == []
    assert SECRET.search("redis://user:word@host")
    assert SECRET.search("key: sk-0123456789abcdef0123")


@pytest.mark.parametrize("source", SOURCES)
def test_clusters_scale_by_the_second_autoscaler_ask_for_a_token_and_keep_the_head_free(source: str) -> None:
    for cluster in clusters(source):
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert {pod["spec"].get("restartPolicy") for pod in [cluster["headGroupSpec"]["template"]]} == {None}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_kind_has_the_groups_that_it_needs(overlay: str) -> None:
    [cluster] = clusters(overlay)
    learning = ["cpu-debate", "gpu-teachers", "gpu-train"]
    kind = overlay.split("/")[1]
    assert list(groups(cluster)) == {"service": ["gpu-serve"], "cluster": [*learning, "gpu-serve"]}.get(kind, learning)
    for name, group in groups(cluster).items():
        assert group["labels"] == {"magdi-stage": name.split("-")[1]}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("overlay", CLOUDS)
def test_debates_run_on_spot_machines_and_training_and_serving_never_do(overlay: str) -> None:
    [cluster] = clusters(overlay)
    spot = {name for name, group in groups(cluster).items() if "spot" in str(group["template"]["spec"]["nodeSelector"])}
    assert spot == {"cpu-debate", "gpu-teachers"} & set(groups(cluster))
    for name, group in groups(cluster).items():
        tolerated = {toleration["key"] for toleration in group["template"]["spec"]["tolerations"]}
        gpus = "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert gpus is name.startswith("gpu-")
        assert ("nvidia.com/gpu" in tolerated) is gpus
        assert any("spot" in key for key in tolerated) is (name in spot)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_accounts_and_claims_that_pods_name_are_there(overlay: str) -> None:
    found = documents(overlay)
    accounts = {d["metadata"]["name"] for d in found if d["kind"] == "ServiceAccount"}
    claims = {d["metadata"]["name"] for d in found if d["kind"] == "PersistentVolumeClaim"}
    volumes = [volume for pod in pods(overlay) for volume in pod["spec"].get("volumes", ())]
    assert {pod["spec"]["serviceAccountName"] for pod in pods(overlay)} == accounts
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v} == claims
    assert bool(claims) is not overlay.endswith("bucket")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_clusters_own_pods_reach_its_control_ports(overlay: str) -> None:
    ours = {"app.kubernetes.io/part-of": "magdi-ray"}
    policies = [d["spec"] for d in documents(overlay) if d["kind"] == "NetworkPolicy"]
    assert ours in [policy["podSelector"]["matchLabels"] for policy in policies]
    for pod in pods(overlay):
        assert ours.items() <= pod["metadata"]["labels"].items()
    for rule in (rule for policy in policies for rule in policy["ingress"]):
        inside = rule["from"] == [{"podSelector": {"matchLabels": ours}}]
        operator = "kuberay-operator" in str(rule["from"])
        opened = {port["port"] for port in rule.get("ports", ())}
        assert inside or (opened and opened <= ({8265, 8000} if operator else {8000, 8080}))


@pytest.mark.parametrize("source", JOBS)
def test_a_job_ends_cleans_up_and_is_tried_again_on_purpose(source: str) -> None:
    spec = only(documents(source), "RayJob")["spec"]
    assert spec["backoffLimit"] == 2
    assert spec["activeDeadlineSeconds"] > 0
    assert not {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & set(spec), "excluded by deletion rules"
    kept: dict[str, dict[str, int]] = {}
    for rule in spec["deletionStrategy"]["deletionRules"]:
        [status] = {value for key, value in rule["condition"].items() if key != "ttlSeconds"}
        assert rule["policy"] not in kept.setdefault(status, {})
        kept[status][rule["policy"]] = rule["condition"]["ttlSeconds"]
    assert set(kept) == {"SUCCEEDED", "FAILED", "Failed"}
    assert all("DeleteCluster" in rules for rules in kept.values())
    assert all(rules["DeleteCluster"] <= rules.get("DeleteSelf", rules["DeleteCluster"]) for rules in kept.values())


@pytest.mark.parametrize("source", JOBS)
def test_a_job_runs_files_that_the_image_holds(source: str) -> None:
    words = only(documents(source), "RayJob")["spec"]["entrypoint"].split()
    assert words[:2] == ["python", "/app/jobs/pipeline.py"]
    assert (ROOT / words[2].removeprefix("/app/")).is_file()
    assert words[3] == "--out"
    assert words[4].startswith(("gs://", "s3://") if source.endswith("bucket") else "/shared/runs/")


@pytest.mark.parametrize("source", JOBS)
def test_a_job_says_where_its_stages_run_by_labels_that_groups_have(source: str) -> None:
    job = only(documents(source), "RayJob")["spec"]
    words = shlex.split(job["entrypoint"])
    overrides = [value for option, value in pairwise(words) if option == "--set"]
    config = load_config(ROOT / words[2].removeprefix("/app/"), overrides)
    places = (config.resources.debate, config.resources.agents, config.resources.distil, config.resources.evaluate)
    labels = [group["labels"] for group in job["rayClusterSpec"]["workerGroupSpecs"]] if source != PLAIN else []
    assert all(any(place.labels.items() <= there.items() for there in labels) for place in places if place.labels)
    assert any(place.labels for place in places) == (source in CLOUDS), "elsewhere there are no groups to choose from"


def test_every_overlay_is_described_and_every_described_one_is_there() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    assert set(re.findall(r"overlays/([a-z]+/[a-z-]+)", text)) == set(OVERLAYS)
    assert {path.parent.name for path in KUBERAY.glob("components/*/kustomization.yaml")} <= set(re.findall(r"[a-z-]+", text))


def test_every_job_and_configuration_that_a_manifest_names_is_there() -> None:
    files = [ROOT / "compose.yaml", ROOT / "Dockerfile", *ROOT.glob("cluster/**/*.yaml")]
    named = re.compile(r"(?<![\w/])(?:/app/)?((?:jobs|configs)/[\w.-]+\.(?:py|yaml))")
    found = {name for file in files for name in named.findall(file.read_text())}
    assert {"jobs/pipeline.py", "configs/tiny.yaml"} <= found
    assert [name for name in sorted(found) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_stopped_job_has_the_time_to_retire_its_engines(source: str) -> None:
    for cluster in clusters(source):
        [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"][:1]
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "30"} in head["env"]

"""The RayService: its Serve configuration is Serve's and ours, and a pod that ends finishes what it has."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from magdi_ray.config.load import parse_section
from magdi_ray.config.serving import StudentArgs
from magdi_ray.serving.keys import digest
from tests.cluster.rendering import OVERLAYS, PLAIN, ROOT, Document, cluster_of, documents, groups, only

SERVICES = [overlay for overlay in OVERLAYS if overlay.endswith("/service")]
PARSED = [PLAIN, *SERVICES]


def serve_config(source: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(only(documents(source), "RayService")["spec"]["serveConfigV2"])
    return config


def application(source: str) -> dict[str, Any]:
    [found] = serve_config(source)["applications"]
    return dict(found)


def student_args(source: str) -> StudentArgs:
    """The application's arguments, read as `build` reads them."""
    return parse_section(application(source)["args"], "args", StudentArgs)


def serving_pods(overlay: str) -> tuple[Document, Document]:
    """The templates of the head and of the serving workers."""
    cluster = cluster_of(only(documents(overlay), "RayService"))
    return cluster["headGroupSpec"]["template"], groups(cluster)["gpu-serve"]["template"]


@pytest.mark.parametrize("source", PARSED)
def test_serve_takes_the_configuration_and_its_import_path_is_our_builder(source: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    [parsed] = ServeDeploySchema.model_validate(serve_config(source)).applications
    module, _, name = parsed.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert {deployment.name for deployment in parsed.deployments} <= {"door", "student"}


@pytest.mark.parametrize("source", PARSED)
def test_nothing_is_configured_that_serve_would_pass_over_in_silence(source: str) -> None:
    from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    config, app = serve_config(source), application(source)
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(app) <= set(ServeApplicationSchema.model_fields)
    for deployment in app["deployments"]:
        assert set(deployment) <= set(DeploymentSchema.model_fields)
        assert set(deployment.get("ray_actor_options", ())) <= set(RayActorOptionsSchema.model_fields)


@pytest.mark.parametrize("source", PARSED)
def test_the_arguments_are_those_of_a_student_with_keys_and_two_of_everything(source: str) -> None:
    args = student_args(source)
    assert args.api_keys_file
    assert args.doors >= 2
    assert args.replicas[0] >= 2


def test_the_tiny_student_of_the_dev_overlay_is_built_with_deployments_of_those_names(tmp_path: Path) -> None:
    from magdi_ray.serving.app import build

    config = application("dev/service")
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n  - {{name: somebody, sha256: {digest('any')}}}\n")
    door = build({**config["args"], "api_keys_file": str(keys)})._bound_deployment
    student = door.init_args[1]._bound_deployment
    assert {door.name, student.name} == {"door", "student"}
    assert {deployment["name"] for deployment in config["deployments"]} <= {door.name, student.name}


@pytest.mark.parametrize("overlay", [overlay for overlay in SERVICES if not overlay.startswith("dev")])
def test_copies_are_spread_over_nodes_that_have_room_for_them(overlay: str) -> None:
    config = application(overlay)
    args = student_args(overlay)
    overrides = {deployment["name"]: deployment for deployment in config["deployments"]}
    assert {overrides[name]["max_replicas_per_node"] for name in ("door", "student")} == {1}
    group = groups(cluster_of(only(documents(overlay), "RayService")))["gpu-serve"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["minReplicas"] >= max(args.replicas[0], args.doors)
    assert group["maxReplicas"] >= args.replicas[1] + math.ceil(args.replicas[1] * args.max_surge_percent / 100)
    assert overrides["door"]["max_surge_percent"] == 0, "a second door beside the first would need a node of its own"
    assert float(limits["cpu"]) >= args.num_cpus + overrides["door"]["ray_actor_options"]["num_cpus"]
    assert float(limits["nvidia.com/gpu"]) >= args.num_gpus
    hosts, zones = group["template"]["spec"]["topologySpreadConstraints"]
    assert (hosts["topologyKey"], hosts["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    assert zones["topologyKey"] == "topology.kubernetes.io/zone"


@pytest.mark.parametrize("overlay", SERVICES)
def test_front_doors_do_not_fit_on_the_head(overlay: str) -> None:
    [door] = [deployment for deployment in application(overlay)["deployments"] if deployment["name"] == "door"]
    assert door["ray_actor_options"]["num_cpus"] > 0
    assert only(documents(overlay), "RayService")["spec"]["excludeHeadPodFromServeSvc"] is True


@pytest.mark.parametrize("overlay", SERVICES)
def test_a_pod_that_ends_lasts_longer_than_the_longest_request(overlay: str) -> None:
    from magdi_ray.serving.app import GRACE_SECONDS

    _, worker = serving_pods(overlay)
    waits = int(worker["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    longest = student_args(overlay).request_timeout_s + GRACE_SECONDS
    assert worker["spec"]["terminationGracePeriodSeconds"] > waits > longest
    assert only(documents(overlay), "RayService")["spec"]["rayClusterDeletionDelaySeconds"] > longest


@pytest.mark.parametrize("overlay", SERVICES)
def test_head_and_workers_have_the_keys_and_the_environment_that_serve_needs(overlay: str) -> None:
    header = (ROOT / "serve" / "student.yaml").read_text()
    wanted = dict(re.findall(r"(RAY_SERVE_\w+)=(\w+)", header))
    file = application(overlay)["args"]["api_keys_file"]
    assert len(wanted) == 2
    for pod in serving_pods(overlay):
        container = pod["spec"]["containers"][0]
        assert wanted.items() <= {variable["name"]: variable.get("value") for variable in container["env"]}.items()
        [mount] = [mount for mount in container["volumeMounts"] if file.startswith(mount["mountPath"] + "/")]
        assert mount["readOnly"] is True
        assert "subPath" not in mount, "a subPath would not follow the Secret"
        [volume] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == mount["name"]]
        assert volume["secret"]["secretName"] == "magdi-api-keys"


@pytest.mark.parametrize("overlay", SERVICES)
def test_draining_nodes_leaves_a_serving_pod(overlay: str) -> None:
    budget = only(documents(overlay), "PodDisruptionBudget")["spec"]
    group = groups(cluster_of(only(documents(overlay), "RayService")))["gpu-serve"]
    assert "maxUnavailable" not in budget, "refused for pods whose owner has no scale subresource"
    assert 1 <= budget["minAvailable"] < group["minReplicas"]
    labels = {**group["template"]["metadata"]["labels"], "ray.io/group": "gpu-serve"}  # the second is the operator's
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_the_head_of_a_service_comes_back_with_what_it_knew() -> None:
    for overlay in SERVICES:
        options = cluster_of(only(documents(overlay), "RayService"))["gcsFaultToleranceOptions"]
        assert options["backend"] == ("rocksdb" if overlay.startswith("dev") else "redis")
        if options["backend"] == "redis":
            assert options["redisAddress"] != "redis:6379", "the platform's value"
            assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "magdi-redis"

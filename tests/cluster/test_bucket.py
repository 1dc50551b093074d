"""A whole run whose directory is in a bucket: an S3 server on this machine, and nothing that is mounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from magdi_ray.errors import RunError
from magdi_ray.lease import Lease
from magdi_ray.storage import listing, names, open_storage, read_text, write_text
from tests.cluster.local import quiet_ports

pytest.importorskip("moto", reason="the S3 server comes with moto")
pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent.parent
RUN = "s3://runs/of/tiny"
SMALL = ("task.train=24", "task.test=8", "task.ood=0", "evaluate.splits=[test]", "distil.ablations=[]")
SMALL += ("evaluate.self_consistency=null", "evaluate.latency_questions=0")
SMALL += ("distil.checkpoints.every_steps=5", "distil.train.max_steps=12")
STAGES = ("questions", "debates", "graphs", "student", "evaluation")


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """An S3 server with one empty bucket: the variables by which it is found."""
    (port,) = quiet_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.put(f"{url}/runs", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=a/b/us-east-1/s3/aws4_request"})
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(server: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The server, also for this process."""
    here = server | {"MAGDI_CACHE": str(tmp_path / "cache")}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    return here


class Told(NamedTuple):
    code: int
    text: str


def magdi(*arguments: str, server: dict[str, str], cache: Path) -> Told:
    """The command line on a machine that has nothing of the run but what is in the bucket."""
    environment = os.environ | server | {"MAGDI_CACHE": str(cache), "COLUMNS": "200"}
    command = [sys.executable, "-m", "magdi_ray.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    return Told(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def finished(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Told:
    sets = [part for one in SMALL for part in ("--set", one)]
    return magdi("run", "configs/tiny.yaml", "--out", RUN, *sets, server=server, cache=tmp_path_factory.mktemp("first"))


def test_a_run_is_finished_in_a_bucket(finished: Told, bucket: dict[str, str]) -> None:
    assert finished.code == 0, finished.text
    assert f"run: {RUN}" in finished.text
    assert set(listing(f"{RUN}/stages")) == {f"{stage}.json" for stage in STAGES}
    assert "report.html" in listing(RUN)
    assert json.loads(read_text(f"{RUN}/stages/student.json") or "")["facts"]["steps"] == 12
    assert names(f"{RUN}/training") == set()


def test_every_stage_has_exactly_the_files_its_manifest_names(finished: Told, bucket: dict[str, str]) -> None:
    for stage in STAGES:
        manifest = json.loads(read_text(f"{RUN}/stages/{stage}.json") or "")
        there = listing(f"{RUN}/{manifest['at']}", recursive=True)
        assert {name: size for name, size in there.items() if name != "manifest.json"} == manifest["files"], stage


def test_the_steps_of_the_training_are_in_the_runs_log(finished: Told, bucket: dict[str, str]) -> None:
    (log,) = listing(f"{RUN}/logs", recursive=True)
    lines = [json.loads(line) for line in (read_text(f"{RUN}/logs/{log}") or "").splitlines()]
    assert [line["step"] for line in lines if "event" not in line] == list(range(12))


def test_another_machine_finds_nothing_left_to_do(finished: Told, server: dict[str, str], tmp_path: Path) -> None:
    sets = [part for one in SMALL for part in ("--set", one)]
    again = magdi("run", "configs/tiny.yaml", "--out", RUN, *sets, server=server, cache=tmp_path / "other")
    assert again.code == 0, again.text
    assert again.text.count("already complete") == len(STAGES)


def test_another_machine_exports_the_student_and_shows_a_debate(finished: Told, server: dict[str, str], tmp_path: Path) -> None:
    cache = tmp_path / "other"
    exported = magdi("export", RUN, "--out", str(tmp_path / "student"), server=server, cache=cache)
    assert exported.code == 0, exported.text
    assert (tmp_path / "student" / "model.safetensors").is_file()
    shown = magdi("graph", "stats", RUN, server=server, cache=cache)
    assert shown.code == 0, shown.text


def test_two_attempts_never_hold_one_lease_in_a_bucket(bucket: dict[str, str]) -> None:
    first = Lease("s3://runs/leases", renewal_s=0.1)
    assert first.acquire() == 1
    rival = magdi("run", "configs/tiny.yaml", "--out", RUN, "--resume", "never", server=bucket, cache=Path(bucket["MAGDI_CACHE"]))
    assert rival.code == 2
    assert "already holds a run" in rival.text
    first.release()
    assert Lease("s3://runs/leases").acquire() == 2


def test_a_bucket_that_is_not_there_is_an_error_for_people(bucket: dict[str, str]) -> None:
    said = r"s3://nobodys/run/file could not be written: .*bucket does not exist.* Check the bucket's name"
    with pytest.raises(RunError, match=said):
        write_text("s3://nobodys/run/file", "x")
    assert open_storage("s3://runs/x")[1] == "runs/x"

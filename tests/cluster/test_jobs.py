"""A run as jobs of a real cluster: killed in the debates, stopped in the distillation, taken up again, and then complete.

One run goes through all of it, for every job waits seconds for its processes. The cluster has a head and two workers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from magdi_ray.runs import Manifest, Run
from tests.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent.parent
CONFIG = "configs/tiny.yaml"
STEPS = 300
"""Enough for `ray job stop`, which takes seconds, to come before the last."""

SMALL = ("task.train=24", "task.test=8", "task.ood=0", "evaluate.splits=[test]", "distil.ablations=[]")
SMALL += ("evaluate.self_consistency=null", "evaluate.latency_questions=0")
SMALL += ("distil.checkpoints.every_steps=5", f"distil.train.max_steps={STEPS}")
STAGES = ("questions", "debates", "graphs", "student", "evaluation")


class Told(NamedTuple):
    """How a job ended."""

    code: int
    """Of the command that submitted it."""
    text: str
    """What that command printed."""
    job: dict[str, Any]
    """What the cluster knows of it."""
    seconds: float


class Story(NamedTuple):
    """What became of one run."""

    run: Run
    left: set[str]
    """Serve applications on the cluster after the driver was killed in the debates."""
    reserved: float
    """Logical CPUs that were taken then, with no job there."""
    stopped: Told
    """`ray job submit`, stopped in the distillation by `ray job stop`."""
    left_then: set[str]
    resumed: Told
    """`magdi submit` of the same."""
    manifests: list[Manifest]
    """Of all stages after it."""
    again: Told
    """`ray job submit` once more."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, cpus=2, environment_of_nodes={"OMP_NUM_THREADS": "1"}) as running:
        yield running
    assert running.left() == []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person uploads: a few small files. The package itself is installed on the nodes."""
    directory = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "jobs", directory / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "configs").mkdir()
    shutil.copy(ROOT / CONFIG, directory / CONFIG)
    return directory


def sets() -> list[str]:
    return [part for one in SMALL for part in ("--set", one)]


def until(found: Callable[[], Any], what: str, timeout_s: float = 600) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {timeout_s:.0f} s")


def applications(cluster: LocalCluster, status: str | None = None) -> set[str]:
    """Names of the Serve applications on the cluster."""
    rows = cluster.get("/api/serve/applications/")["applications"]
    return {name for name, row in rows.items() if status in (None, row["status"])}


RESERVED = """
import ray
ray.init(logging_level="error")
print("reserved:", ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0))
"""
"""Asks the control store: the dashboard tells what was reserved some seconds ago."""


def reserved(cluster: LocalCluster) -> float:
    """Logical CPUs taken on all nodes."""
    told = cluster.run(sys.executable, "-c", RESERVED, env={"RAY_ADDRESS": cluster.address}).stdout
    found = re.search(r"reserved: ([\d.]+)", told)
    assert found, told
    return float(found[1])


def with_ray(cluster: LocalCluster, project: Path, where: Path, name: str) -> Told:
    """Submit the whole run with Ray's own command, as README says, and wait for its end."""
    begun = time.monotonic()
    entrypoint = f"python jobs/pipeline.py {CONFIG} --out {where} " + " ".join(f"--set '{one}'" for one in SMALL)
    # A variable that the run hands to its workers by itself: Ray refuses to be told of one twice.
    done = cluster.submit(entrypoint, working_dir=project, name=name, env={"HF_HUB_OFFLINE": "1"}, timeout_s=900)
    return Told(done.returncode, done.stdout, cluster.job(name), time.monotonic() - begun)


def killed_in_debates(cluster: LocalCluster, project: Path, where: Path) -> None:
    """Have the driver die with no time to retire what it deployed."""
    command = ["magdi", "submit", CONFIG, "--out", str(where), "--stage", "debate", "--no-follow", *sets()]
    submitted = cluster.run(*command, cwd=project).stdout
    name = re.search(r"submitted: (\S+)", submitted)
    assert name, submitted
    until(lambda: len(applications(cluster, "RUNNING")) == 3, "three engines")
    job = cluster.job(name[1])
    os.kill(int(job["driver_info"]["pid"]), signal.SIGKILL)
    assert cluster.wait_for_job(name[1])["status"] == "FAILED"


def stopped_in_distillation(cluster: LocalCluster, project: Path, run: Run) -> Told:
    """Stop a job after its second checkpoint."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        job = pool.submit(with_ray, cluster, project, run.root, "stopped")
        until(lambda: job.done() or steps(run) >= 12, "twelve steps")
        assert not job.done(), job.result().text
        assert cluster.stop_job("stopped").returncode == 0
        return job.result()


def lines(run: Run) -> list[dict[str, Any]]:
    """The run's log of its training."""
    text = run.metrics.read_text() if run.metrics.exists() else ""
    rows = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [row for row in rows if row.get("stage") == "distil"]


def steps(run: Run) -> int:
    return max((row.get("step", 0) for row in lines(run) if "event" not in row), default=0)


@pytest.fixture(scope="module")
def story(cluster: LocalCluster, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    run = Run(tmp_path_factory.mktemp("shared") / "tiny")
    killed_in_debates(cluster, project, run.root)
    left, taken = applications(cluster), reserved(cluster)
    stopped = stopped_in_distillation(cluster, project, run)
    left_then = applications(cluster)
    begun = time.monotonic()
    submitted = cluster.run("magdi", "submit", CONFIG, "--out", str(run.root), *sets(), cwd=project, timeout_s=900)
    name = re.search(r"submitted: (\S+)", submitted.stdout)
    assert name, submitted.stdout
    resumed = Told(submitted.returncode, submitted.stdout, cluster.job(name[1]), time.monotonic() - begun)
    manifests = [run.require(stage) for stage in STAGES]
    return Story(run, left, taken, stopped, left_then, resumed, manifests, with_ray(cluster, project, run.root, "again"))


def test_a_driver_that_is_killed_leaves_its_engines_on_the_cluster(story: Story) -> None:
    assert len(story.left) == 3  # if nothing were left, the next test would say nothing
    assert story.reserved == pytest.approx(1.5)


def test_the_next_attempt_retires_them(story: Story) -> None:
    assert not story.left & story.left_then


def test_a_job_that_is_stopped_ends_as_stopped_and_leaves_no_engine(story: Story) -> None:
    assert (story.stopped.job["status"], story.stopped.code) == ("STOPPED", 0)
    assert "student: " not in story.stopped.text
    assert story.left_then == set()


def test_a_job_submitted_again_takes_the_distillation_up_at_its_checkpoint(story: Story) -> None:
    starts = [row["step"] for row in lines(story.run) if row.get("event") == "start"]
    assert starts[0] == 0
    assert len(starts) == 2
    assert starts[1] >= 10
    assert story.run.require("student").facts["resumed_at_step"] == starts[1]
    assert story.run.require("student").facts["steps"] == STEPS


def test_magdi_submit_shows_the_job_to_its_end_and_exits_as_it_did(story: Story) -> None:
    assert (story.resumed.code, story.resumed.job["status"], story.resumed.job["driver_exit_code"]) == (0, "SUCCEEDED", 0)
    for stage in ("questions", "debates", "graphs"):
        assert story.resumed.text.count(f"{stage}: already complete") == 1
    assert story.resumed.text.rstrip().endswith(": succeeded")
    assert story.resumed.job["submission_id"].startswith("tiny-")


def test_a_run_that_is_complete_is_not_touched_by_another_job(story: Story) -> None:
    assert (story.again.code, story.again.job["status"]) == (0, "SUCCEEDED")
    assert [line.split("✓ ")[1] for line in story.again.text.splitlines() if "✓ " in line] == [
        f"{stage}: already complete" for stage in STAGES
    ]
    assert [story.run.require(stage) for stage in STAGES] == story.manifests
    assert story.resumed.job["job_id"] is not None
    assert story.again.job["job_id"] is None  # it never joined Ray, without which no stage but the first can run


def test_a_job_that_is_refused_gives_its_exit_code_and_the_command_to_repeat(cluster: LocalCluster, project: Path) -> None:
    occupied = project / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").touch()
    done = cluster.run("magdi", "submit", CONFIG, "--out", str(occupied), cwd=project)
    assert done.returncode == 2
    assert "no run of magdi" in done.stdout
    assert f"magdi submit {CONFIG} --out {occupied}" in done.stdout


def test_ctrl_c_leaves_the_job_and_says_how_to_find_it(cluster: LocalCluster, project: Path, tmp_path: Path) -> None:
    command = ["magdi", "submit", CONFIG, "--out", str(tmp_path / "run"), *sets()]
    process = cluster.popen(*command, cwd=project, bufsize=1)
    said = ""
    while "Running entrypoint" not in said:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[0]
    name = re.search(r"submitted: (\S+)", said)
    assert name, said
    assert process.returncode == 0, said
    assert cluster.job(name[1])["status"] in ("PENDING", "RUNNING")
    assert f"ray job logs --follow --address {cluster.dashboard} {name[1]}" in said
    cluster.stop_job(name[1])
    assert cluster.wait_for_job(name[1])["status"] == "STOPPED"


def test_a_wrong_token_is_named(cluster: LocalCluster, project: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("not-this-one-not-this-one-not-this-one")
    command = ["magdi", "submit", CONFIG, "--out", "s3://bucket/run"]
    done: subprocess.CompletedProcess[str] = cluster.run(*command, cwd=project, env={"RAY_AUTH_TOKEN_PATH": str(token)})
    assert done.returncode == 2
    assert f"No cluster takes jobs at {cluster.dashboard}" in done.stdout
    assert "RAY_AUTH_TOKEN_PATH" in done.stdout

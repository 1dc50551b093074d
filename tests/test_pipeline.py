"""A whole run on real engines, small: what is missing runs, what is finished does not, and a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from magdi_ray.config import RunConfig, load_config
from magdi_ray.evaluate.answers import iter_answers
from magdi_ray.graph.store import read_mags
from magdi_ray.pipeline import load_results, run_pipeline, summary
from magdi_ray.runs import Run
from magdi_ray.tasks.load import load_questions, load_task

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
SMALL = (
    "task.train=48",
    "task.test=16",
    "task.ood=0",
    "evaluate.splits=[test]",
    "distil.ablations=[]",
    "distil.train.max_steps=12",
)
SMALL += ("distil.scaling={num_workers: 1}", "distil.checkpoints.every_steps=5")


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Run, list[str]]:
    """A small run of the tiny world from beginning to end: its configuration, directory and the stages that ran."""
    config = load_config(ROOT / "configs" / "tiny.yaml", SMALL)
    run = Run(tmp_path_factory.mktemp("runs") / "tiny")
    return config, run, run_pipeline(config, run)


def test_a_run_leaves_every_stage_complete(finished: tuple[RunConfig, Run, list[str]]) -> None:
    _, run, ran = finished
    assert ran == ["questions", "debates", "graphs", "student", "evaluation"]
    assert run.require("debates").facts["debates"] == 64
    assert run.require("debates").facts["failed"] == 0
    assert run.require("student").facts["steps"] == 12


def test_every_question_is_debated_once_and_edges_are_what_was_shown(finished: tuple[RunConfig, Run, list[str]]) -> None:
    config, run, _ = finished
    mags = read_mags(run.path("graphs"))
    assert sorted(mag.question.id for mag in mags) == sorted(question.id for question in load_questions(config.task))
    for mag in mags:
        assert {(node.agent, node.round) for node in mag.nodes if node.round == 0} == {(a, 0) for a in ("ada", "ben", "cleo")}
        assert all(mag.nodes[e.source].round == mag.nodes[e.target].round - 1 for e in mag.edges)


def test_the_evaluation_holds_every_system_on_the_same_questions(finished: tuple[RunConfig, Run, list[str]]) -> None:
    config, run, _ = finished
    data = load_results(run)
    scores = [row for row in data["scores"] if row["method"] == "single"]
    assert {row["system"]: row["questions"] for row in scores} == dict.fromkeys(
        ("base", "level2", "ada", "ben", "cleo", "vote"), 16
    )
    plain = [row for row in data["differences"] if row["method"] == "single"]
    assert {(row["system"], row["reference"]) for row in plain} == {("level2", "base"), ("level2", "vote")}
    figures = summary(config, run, seconds=1.0)
    assert figures["best_teacher"] == max(row["accuracy"] for row in scores if row["system"] in ("ada", "ben", "cleo"))
    assert figures["token_ratio"] == pytest.approx(figures["tokens_debate"] / figures["tokens_student"], abs=0.01)
    assert figures["tokens_debate"] > 3 * figures["tokens_student"] > 0


def test_several_replies_of_the_student_are_drawn_and_voted_on(finished: tuple[RunConfig, Run, list[str]]) -> None:
    _, run, _ = finished
    answers = [answer for answer in iter_answers(run.path("evaluation")) if answer.system == "level2"]
    kinds = Counter(answer.method for answer in answers)
    assert kinds == {"single": 16, "sample": 80, "majority": 16, "confidence": 16}
    drawn = [answer.text for answer in answers if answer.method == "sample"]
    assert len(set(drawn)) > 16  # they differ
    rows = {row["method"]: row for row in load_results(run)["scores"] if row["system"] == "level2"}
    assert rows["majority"]["tokens_out"] > 3 * rows["single"]["tokens_out"]


def test_an_evaluation_that_is_repeated_asks_nothing_twice(finished: tuple[RunConfig, Run, list[str]]) -> None:
    config, run, _ = finished
    before = sum(path.stat().st_size for path in (run.root / "evaluation-replies").iterdir())
    was = list(iter_answers(run.path("evaluation")))
    more = load_config(ROOT / "configs" / "tiny.yaml", [*SMALL, "evaluate.self_consistency.samples=4"])
    assert run_pipeline(more, run) == ["evaluation"]
    assert sum(path.stat().st_size for path in (run.root / "evaluation-replies").iterdir()) == before
    single = {(a.system, a.question_id, a.text) for a in was if a.method == "single"}
    assert {(a.system, a.question_id, a.text) for a in iter_answers(run.path("evaluation")) if a.method == "single"} == single
    assert run_pipeline(config, run) == ["evaluation"]  # as the other tests expect it


def test_running_again_does_nothing(finished: tuple[RunConfig, Run, list[str]]) -> None:
    config, run, _ = finished
    assert run_pipeline(config, run) == []


def magdi(*arguments: str) -> subprocess.Popen[bytes]:
    """The command line in a process group of its own."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "magdi_ray.cli", *arguments], start_new_session=True, cwd=ROOT, env=environment
    )


def wait_for_step(log: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = log.read_text().splitlines() if log.exists() else []
        if any(json.loads(line).get("step", -1) >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.05)
    pytest.fail(f"training did not reach step {step}")


def end_family(pids: list[int]) -> None:
    """End what a killed driver left behind, and only that."""
    for process in (psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)):
        process.kill()


class Changed(NamedTuple):
    """A finished run that was given another objective and killed in the middle of the new distillation; then it was run again."""

    run: Run
    unfinished: bool
    """Whether there was no new student after the kill: the stale one stays until it is replaced."""
    ran: list[str]
    """The stages that ran after it."""


@pytest.fixture(scope="module")
def changed(finished: tuple[RunConfig, Run, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Changed:
    run = Run(tmp_path_factory.mktemp("changed") / "tiny")
    shutil.copytree(finished[1].root, run.root, ignore=shutil.ignore_patterns("metrics.jsonl"))
    recipe = "distil.recipe={name: level2, objectives: [{name: next_token}, {name: contrast, weight: 0.5}]}"
    overrides = [*SMALL, recipe, "distil.train.max_steps=60"]
    process = magdi("distill", "configs/tiny.yaml", "--out", str(run.root), *(p for o in overrides for p in ("--set", o)))
    wait_for_step(run.metrics, 15, process)
    family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    end_family(family)
    unfinished = run.require("student") == finished[1].require("student")
    return Changed(run, unfinished, run_pipeline(load_config(ROOT / "configs" / "tiny.yaml", overrides), run))


def test_a_changed_objective_runs_distillation_and_what_follows_and_nothing_else(
    finished: tuple[RunConfig, Run, list[str]], changed: Changed
) -> None:
    run = changed.run
    assert changed.ran == ["student", "evaluation"]
    assert all(run.require(stage) == finished[1].require(stage) for stage in ("questions", "debates", "graphs"))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines() if line.endswith("}")]
    assert next(line["step"] for line in lines if line.get("event") == "start") == 0
    assert list((run.root / "superseded").glob("student-*/manifest.json"))


def test_a_run_killed_during_distillation_goes_on_without_repeating_the_debate(
    finished: tuple[RunConfig, Run, list[str]], changed: Changed
) -> None:
    run = changed.run
    assert changed.unfinished
    assert run.require("debates") == finished[1].require("debates")
    assert run.require("student").facts["resumed_at_step"] >= 10
    assert run.require("student").facts["steps"] == 60
    assert not list((run.root / "training").glob("*/*/step-*"))  # the student is safe


@pytest.fixture(scope="module")
def endpoint(finished: tuple[RunConfig, Run, list[str]]) -> Iterator[str]:
    """`magdi serve RUN` in a process of its own: the base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, run, _ = finished
    process = magdi("serve", str(run.root), "--port", str(port))
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/models").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def ask(url: str, prompt: str) -> dict[str, Any]:
    """What curl would send."""
    body = {"model": "tiny-level2", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 64}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=60).raise_for_status().json()  # type: ignore[no-any-return]


def test_the_served_student_answers_as_it_did_in_the_evaluation(
    finished: tuple[RunConfig, Run, list[str]], endpoint: str
) -> None:
    config, run, _ = finished
    task, questions = load_task(config.task), {q.id: q for q in load_questions(config.task)}
    answers = [answer for answer in iter_answers(run.path("evaluation")) if answer.system == "level2"]
    evaluated = [answer for answer in answers if answer.method == "single"]
    chosen = [answer for answer in evaluated if answer.correct][:3] + [answer for answer in evaluated if not answer.correct][:3]
    assert any(answer.correct for answer in chosen)
    for answer in chosen:
        reply = ask(endpoint, task.prompt(questions[answer.question_id]))
        assert reply["object"] == "chat.completion"
        assert reply["choices"][0]["message"]["content"] == answer.text
        assert (
            task.same(task.extract(questions[answer.question_id], answer.text), questions[answer.question_id].gold)
            == answer.correct
        )
        assert reply["usage"]["completion_tokens"] == answer.tokens_out


def test_recorded_debates_become_a_student_with_two_deepspeed_workers(
    data_dir: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("MAGDI_DATA", str(data_dir))
    sets = ["distil.train.epochs=null", "distil.train.max_steps=12", "distil.train.tokens_per_step=2048"]
    sets += ["distil.train.warmup_steps=2", "evaluate.sampling.max_tokens=16"]
    config, run = load_config(ROOT / "configs" / "gsm8k-recorded.yaml", sets), Run(tmp_path / "run")
    run_pipeline(config, run)
    imported, graphs, student = (run.require(stage).facts for stage in ("debates", "graphs", "student"))
    assert (imported["debates"], imported["skipped"], graphs["graphs"], graphs["nodes"]) == (100, 0, 100, 600)
    assert (student["workers"], student["zero_stage"]) == (2, 2)
    assert student["last_loss"] < student["first_loss"] - 0.3
    assert AutoModelForCausalLM.from_pretrained(run.path("student")).num_parameters() > 100_000

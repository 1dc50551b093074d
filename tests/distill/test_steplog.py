"""The log of a training: every step once, however often it was interrupted, and no tracker can end it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config.distil import ScratchModel, StudentConfig, TrackConfig, TrainConfig
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.config.sections import MadeTask
from magdi_ray.distill.job import Job
from magdi_ray.distill.watch.dev import DevFigures
from magdi_ray.distill.watch.steplog import StepLog, check_finite, peak_memory, rates, read_dev, read_steps
from magdi_ray.errors import EngineError

FIGURES = {"loss": 2.0, "next_token": 1.5, "graphs": 4.0, "tokens": 10.0, "tokens_forwarded": 30.0, "seconds": 0.5}
DEV = DevFigures(loss=1.5, parts={"next_token": 1.2}, accuracy=0.25, answered=8, unread=1, seconds=0.1)


def job_in(directory: Path, *, track: TrackConfig | None = None, recipe: str = "level4", **changes: Any) -> Job:
    """A job whose log and TensorBoard lie in a directory."""
    settings: dict[str, Any] = {
        "graphs": "graphs", "tokens": "tokens", "output": "out", "log": str(directory / "metrics.jsonl"), "model": "m",
        "tensorboard": str(directory / "tensorboard"), "task": MadeTask(name="tiny", train=8), "run": "demo-1",
        "student": StudentConfig(model=ScratchModel()), "recipe": resolve_recipe(recipe),  # type: ignore[arg-type]
        "train": TrainConfig(max_steps=3), "seed": 1, "inputs": {}, "track": track or TrackConfig(),
    }  # fmt: skip
    return Job(**(settings | changes))


class Kept:
    """A tracker that keeps what it is sent, and fails when told to."""

    name = "kept"

    def __init__(self, *, fails_at: int | None = None, fails_to_close: bool = False) -> None:
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, Any] | None = None
        self.fails_at, self.fails_to_close = fails_at, fails_to_close
        self.calls = 0

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.calls += 1
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("no route to host")
        self.sent.append((step, figures))

    def close(self, summary: dict[str, Any]) -> None:
        if self.fails_to_close:
            raise TimeoutError("still no route")
        self.summary = summary


def log_of(job: Job, *trackers: Kept, start: int = 0, total: int = 3) -> StepLog:
    opens: dict[str, Callable[[], Any]] = {f"tracker {i}": lambda tracker=tracker: tracker for i, tracker in enumerate(trackers)}
    return StepLog(job, start=start, total=total, trackers=opens)


def test_every_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    log = log_of(job)
    for number in range(3):
        log.write(number, FIGURES)
        assert len(Path(job.log).read_text().splitlines()) == number + 2
    log.end(3, {"steps": 3})
    events = [json.loads(line).get("event") for line in Path(job.log).read_text().splitlines()]
    assert events == ["start", None, None, None, "end"]


def test_a_line_holds_the_rates_the_time_left_and_the_newest_measurement(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    log = log_of(job)
    log.write(0, FIGURES)
    log.dev(1, DEV)
    log.write(1, FIGURES)
    first, second = read_steps(Path(job.log), "level4")
    assert (first["tokens_per_second"], first["graphs_per_second"]) == (60.0, 8.0)
    assert first["seconds_left"] >= 0
    assert "dev" not in first
    assert second["dev"] == {"step": 1, "loss": 1.5, "accuracy": 0.25}
    assert (second["stage"], second["recipe"], second["steps"], second["loss"]) == ("distil", "level4", 3, 2.0)


def test_trackers_get_the_figures_the_measurements_and_the_summary(tmp_path: Path) -> None:
    tracker = Kept()
    log = log_of(job_in(tmp_path), tracker)
    log.write(0, FIGURES)
    log.dev(1, DEV)
    log.end(1, {"steps": 1})
    assert tracker.sent[0] == (0, FIGURES | {"tokens_per_second": 60.0, "graphs_per_second": 8.0})
    measured = {"dev/loss": 1.5, "dev/next_token": 1.2, "dev/accuracy": 0.25, "dev/unread": 1.0, "dev/seconds": 0.1}
    assert tracker.sent[1] == (0, measured)  # of the step just made
    assert tracker.summary == {"steps": 1}


def test_a_resumed_training_gives_each_step_once_and_the_last_line_counts(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    log = log_of(job, total=6)
    for number in range(4):
        log.write(number, FIGURES | {"loss": 1.0})
    for number in range(2, 6):
        if number == 2:
            log = log_of(job, start=2, total=6)
        log.write(number, FIGURES | {"loss": 2.0})
    steps = read_steps(Path(job.log), "level4")
    assert [(line["step"], line["loss"]) for line in steps] == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_what_a_crash_undid_is_gone_before_it_is_done_again(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    log = log_of(job)
    for number in range(3):
        log.write(number, FIGURES)
        log.dev(number + 1, DEV)
    log_of(job, start=2)
    assert [line["step"] for line in read_steps(Path(job.log), "level4")] == [0, 1]
    assert [line["step"] for line in read_dev(Path(job.log), "level4")] == [1, 2]


def test_a_training_begun_anew_forgets_the_old_one(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    log = log_of(job)
    log.dev(0, DEV)
    log.write(0, FIGURES)
    log_of(job)
    assert read_steps(Path(job.log), "level4") == read_dev(Path(job.log), "level4") == []


def test_a_torn_line_is_passed_over_and_the_next_line_is_not_lost(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    log_of(job).write(0, FIGURES)
    with Path(job.log).open("a") as stream:
        stream.write('{"stage": "distil", "recipe": "level4", "st')
    assert [line["step"] for line in read_steps(Path(job.log), "level4")] == [0]
    log_of(job, start=1).write(1, FIGURES)
    assert [line["step"] for line in read_steps(Path(job.log), "level4")] == [0, 1]
    events = [line for line in Path(job.log).read_text().splitlines() if '"event": "start", "step": 1' in line]
    assert json.loads(events[0])["step"] == 1


def test_other_recipes_and_other_stages_in_the_file_are_not_read(tmp_path: Path) -> None:
    log_of(job_in(tmp_path, recipe="level2")).write(0, FIGURES)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write(json.dumps({"stage": "debate", "recipe": "level4", "step": 1}) + "\n[1]\n")
    assert read_steps(path, "level4") == []
    assert read_steps(tmp_path / "absent.jsonl", "level4") == []


def test_a_tracker_that_fails_is_said_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Kept(fails_at=1), Kept()
    log = log_of(job_in(tmp_path), bad, good)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            log.write(number, FIGURES)
        log.end(3, {})
    assert [step for step, _ in good.sent] == [0, 1, 2]
    assert bad.calls == 2
    assert [record.getMessage() for record in caplog.records if "no route to host" in record.getMessage()] == [
        "kept failed and is told nothing more of training 'level4', which goes on; its log holds every figure: "
        "ConnectionError: no route to host"
    ]


def test_a_tracker_that_cannot_be_opened_or_closed_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Kept:
        raise OSError("quota exceeded")

    slow, good = Kept(fails_to_close=True), Kept()
    log = StepLog(job_in(tmp_path), start=0, total=1, trackers={"board": refuse, "slow": lambda: slow, "good": lambda: good})
    log.write(0, FIGURES)
    log.end(1, {"steps": 1})
    assert good.summary == {"steps": 1}
    said = [record.getMessage() for record in caplog.records]
    assert [any(word in line for line in said) for word in ("board failed", "kept failed")] == [True, True]


@pytest.mark.parametrize(
    "wrong", [{"loss": math.nan}, {"loss": math.inf}, {"loss": 1.0, "grad_norm": math.nan}, {"loss": 1.0, "grad_norm": -1.0}]
)
def test_a_step_that_left_the_numbers_ends_the_training_with_what_to_lower(wrong: dict[str, float]) -> None:
    with pytest.raises(EngineError, match=r"step 7.*learning_rate"):
        check_finite(7, {"learning_rate": 1e-3} | wrong)


def test_finite_figures_are_let_through() -> None:
    check_finite(0, FIGURES | {"grad_norm": 0.0, "grad_norm/contrast": math.nan})


def test_rates_are_left_out_where_they_cannot_be_known() -> None:
    assert rates({"seconds": 0.0, "graphs": 3.0}) == {}
    assert rates({"seconds": 2.0, "graphs": 3.0}) == {"graphs_per_second": 1.5}


def test_peak_memory_is_in_bytes() -> None:
    assert 2**26 < peak_memory() < 2**44

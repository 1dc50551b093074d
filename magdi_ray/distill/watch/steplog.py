"""The log of a training: one JSON line a step, and the same figures to every tracker. Rank 0 alone writes one.

    {"stage": "distil", "recipe": "level4", "seed": 0, "time": 1760000000.1, "step": 7, "steps": 200, "loss": 2.31, ...}

A step's line has no "event"; `step` counts from 0. Beside the figures of `train_step` it holds `tokens_per_second` (forwarded),
`graphs_per_second`, `seconds_left`, and under "dev" the newest measurement of this attempt. Other lines:

    {"event": "start", "step": 40, "steps": 200}         a training begins, or goes on after 40 steps
    {"event": "dev", "step": 50, "loss": 2.4, "parts": {...}, "accuracy": 0.31, ...}    measured after 50 steps
    {"event": "end", "step": 200, "steps": 200, "facts": {...}}

The file only grows: what a crash undid is written again by the resumed training, and **the last line of a step counts**.
Lines of an attempt at the run that a later one has taken over from do not. `read_steps`, `read_dev` and `read_trainings` give
each step once; they read the files of `logs/` beside the file too, where workers write that share no directory with it.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magdi_ray.distill.job import Job
from magdi_ray.distill.watch.lines import LocalLines, RemoteLines, json_lines, log_files
from magdi_ray.distill.watch.trackers import Tracker, openers
from magdi_ray.errors import EngineError
from magdi_ray.storage import is_url

if TYPE_CHECKING:
    from magdi_ray.distill.watch.dev import DevFigures

logger = logging.getLogger(__name__)

STAGE = "distil"


class StepLog:
    """Writes the log of one training from step `start` of `total` on, flushed a line at a time.

    A tracker that fails is said once and left alone from then on: it must not end a training, and the file holds all it missed.
    """

    def __init__(self, job: Job, *, start: int, total: int, trackers: Mapping[str, Callable[[], Tracker]] | None = None) -> None:
        """`trackers`: what opens each, by name; None: those of the job."""
        self.label, self.start, self.total = job.label, start, total
        self._head = {"stage": STAGE, "recipe": job.recipe.name, "seed": job.number, "attempt": job.attempt}
        self._began = time.monotonic()
        self._dev: dict[str, Any] | None = None
        self.stream = RemoteLines(job.log, job.label) if is_url(job.log) else LocalLines(Path(job.log))
        self._line({"event": "start", "step": start, "steps": total})
        self.trackers: list[Tracker] = []
        for name, opens in (openers(job, start=start, total=total) if trackers is None else trackers).items():
            self._attempt(name, lambda opens=opens: self.trackers.append(opens()))  # type: ignore[misc]

    def write(self, number: int, figures: Mapping[str, float]) -> None:
        """The figures of one step; `number` counts from 0."""
        figures = {**figures, **rates(figures)}
        done = number + 1
        left = (time.monotonic() - self._began) / max(1, done - self.start) * (self.total - done)
        line = {"step": number, "steps": self.total, **{name: round(value, 8) for name, value in figures.items()}}
        self._line(line | {"seconds_left": round(left, 1)} | ({"dev": self._dev} if self._dev else {}))
        self._send(number, figures)

    def dev(self, done: int, figures: DevFigures) -> None:
        """A measurement after `done` steps."""
        self._line({"event": "dev", "step": done, "steps": self.total, **asdict(figures)})
        self._dev = {"step": done, "loss": figures.loss, "accuracy": figures.accuracy}
        known = {"loss": figures.loss, **figures.parts, "seconds": figures.seconds}
        if figures.accuracy is not None:
            known |= {"accuracy": figures.accuracy, "unread": float(figures.unread)}
        # Under the step just made: what stands at the step a training is resumed at is taken for undone.
        self._send(max(0, done - 1), {f"dev/{name}": value for name, value in known.items()})

    def flush(self) -> None:
        """Have every line so far on storage, before a checkpoint that comes after them."""
        self.stream.flush()

    def end(self, done: int, facts: Mapping[str, Any]) -> None:
        """The training ended after `done` steps; close everything."""
        self._line({"event": "end", "step": done, "steps": self.total, "facts": dict(facts)})
        self.stream.close()
        for tracker in self.trackers:
            self._attempt(tracker.name, lambda tracker=tracker: tracker.close(dict(facts)))  # type: ignore[misc]

    def _line(self, values: Mapping[str, Any]) -> None:
        self.stream.add(json.dumps({**self._head, "time": round(time.time(), 3), **values}) + "\n")

    def _send(self, step: int, figures: Mapping[str, float]) -> None:
        self.trackers = [
            tracker
            for tracker in self.trackers
            if self._attempt(tracker.name, lambda tracker=tracker: tracker.log(step, dict(figures)))  # type: ignore[misc]
        ]

    def _attempt(self, name: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:  # whatever a network or a package of others raises
            logger.warning(
                "%s failed and is told nothing more of training %r, which goes on; its log holds every figure: %s: %s",
                *(name, self.label, type(error).__name__, error),
            )
            return False
        return True


def rates(figures: Mapping[str, float]) -> dict[str, float]:
    """Tokens forwarded and graphs a second over one step, as far as the figures say."""
    seconds = figures.get("seconds", 0.0)
    sources = {"tokens_per_second": "tokens_forwarded", "graphs_per_second": "graphs"}
    return {name: figures[source] / seconds for name, source in sources.items() if seconds > 0 and source in figures}


def check_finite(number: int, figures: Mapping[str, float]) -> None:
    """Refuse to go on from a step whose loss or gradient is not a number; on every worker alike, as the figures are equal.

    `grad_norm`: below zero is DeepSpeed's word for a norm that is not finite.

    Raises:
        EngineError: names the step (from 0), the figures and what to lower.
    """
    norm = figures.get("grad_norm", 0.0)
    wrong = [name for name, value in figures.items() if not math.isfinite(value)]
    if norm < 0 and "grad_norm" not in wrong:
        wrong.append("grad_norm")
    if not {"loss", "grad_norm"} & set(wrong):
        return
    raise EngineError(
        f"Training left the numbers at step {number}: {', '.join(f'{name} is {figures[name]}' for name in sorted(wrong))}; "
        f"nothing is learned from there on. The learning rate was {figures.get('learning_rate', math.nan):g}: lower "
        "distil.train.learning_rate, heads_learning_rate or max_grad_norm, or raise warmup_steps. With bf16: true, see whether "
        "bf16: false does it too."
    )


def read_steps(path: Path, recipe: str) -> list[dict[str, Any]]:
    """The line of every step of a recipe's training, each once and in order. A torn last line is passed over.

    Where a training was begun anew (its results were removed, or its settings changed), only the newest counts.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in _lines(path, recipe):
        if line.get("event") == "start":
            steps = {number: step for number, step in steps.items() if number < line["step"]}
        elif "event" not in line:
            steps[line["step"]] = line
    return [steps[number] for number in sorted(steps)]


def read_dev(path: Path, recipe: str) -> list[dict[str, Any]]:
    """Every measurement of a recipe's training, each step once and in order; else as `read_steps`."""
    found: dict[int, dict[str, Any]] = {}
    for line in _lines(path, recipe):
        if line.get("event") == "start":
            found = {done: measured for done, measured in found.items() if 0 < line["step"] >= done}
        elif line.get("event") == "dev":
            found[line["step"]] = line
    return [found[done] for done in sorted(found)]


@dataclass(slots=True)
class Training:
    """Figures of one training: of every step, and of every measurement, under the number of steps made before it."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    dev: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """Loss, and accuracy where answers were asked for."""

    def undo(self, step: int) -> None:
        """Forget what a training that begins, or goes on, after `step` steps makes again."""
        self.steps = {number: figures for number, figures in self.steps.items() if number < step}
        self.dev = {done: measured for done, measured in self.dev.items() if 0 < step >= done}


def read_trainings(path: Path, names: Collection[str]) -> dict[tuple[str, int], Training]:
    """The named figures of all trainings in a log, by recipe and seed (0 where a line has none), read in one go.

    Each step is there once and in order, as in `read_steps`; a figure that a step does not have is left out.
    """
    found: dict[tuple[str, int], Training] = {}
    for line in _all_lines(path):
        training, step = found.setdefault((line["recipe"], line.get("seed", 0)), Training()), line["step"]
        match line.get("event"):
            case None:
                training.steps[step] = {name: line[name] for name in names if _is_number(line.get(name))}
            case "start":
                training.undo(step)
            case "dev":
                training.dev[step] = (line["loss"], line.get("accuracy"))
    return {
        key: Training(dict(sorted(training.steps.items())), dict(sorted(training.dev.items()))) for key, training in found.items()
    }


def _lines(path: Path, recipe: str) -> Iterator[dict[str, Any]]:
    return (line for line in _all_lines(path) if line["recipe"] == recipe)


def _all_lines(path: Path) -> Iterator[dict[str, Any]]:
    newest: dict[tuple[str, int], int] = {}
    for line in json_lines(log_files(path)):
        if _is_sound(line):
            training, attempt = (line["recipe"], line.get("seed", 0)), line.get("attempt", 0)
            if attempt >= newest.get(training, 0):
                newest[training] = attempt
                yield line


def _is_sound(line: Mapping[str, Any]) -> bool:
    """Whether a line is one of these, with all that makes it one: a file may hold anything once a disk was full."""
    counts = [line.get("step"), line.get("seed", 0), line.get("attempt", 0)]
    if line.get("stage") != STAGE or not isinstance(line.get("recipe"), str) or any(type(count) is not int for count in counts):
        return False
    return line.get("event") != "dev" or (_is_number(line.get("loss")) and _is_number(line.get("accuracy") or 0))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def peak_memory() -> int:
    """Bytes this process held at most: allocated on its GPU where it has one, else resident in memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

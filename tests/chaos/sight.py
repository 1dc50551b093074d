"""What can be seen of a run from outside while it goes on: its directory, and nothing that it says itself."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.books import Start
from tests.cluster.training import whole

STAGES = ("questions", "debates", "graphs", "student", "evaluation")
REPORT = "report"
"""What comes after the last stage: tables and the page."""


@dataclass(frozen=True)
class Sight:
    """One look."""

    made: frozenset[str]
    """Stages that are being made, or were when their attempt ended."""
    finished: frozenset[str]
    replies: int
    """Lines of the debates' reply store."""
    answers: int
    """Lines of the evaluation's."""
    step: int
    """Steps of the training that are in the run's log, each counted once."""
    starts: tuple[int, ...]
    """Step at which each training began."""
    safe: int
    """Step of the newest whole checkpoint; 0 where there is none."""

    def progress(self, stage: str) -> int:
        """How far a stage is, in units of its own."""
        return {"debates": self.replies, "student": self.step, "evaluation": self.answers}.get(stage, len(self.finished))


def look(run: Path) -> Sight:
    """What there is now; files that vanish meanwhile are passed over."""
    rows = lines(run)
    steps = {row["step"] for row in rows if "event" not in row}
    safe = 0
    with suppress(OSError, ValueError):
        safe = max(whole(run / "training"), default=0)
    return Sight(
        made=_made(run / "attempts"),
        finished=frozenset(stage for stage in STAGES if (run / stage / "manifest.json").is_file()),
        replies=_lines_of(run / "replies"),
        answers=_lines_of(run / "evaluation-replies"),
        step=len(steps),
        starts=tuple(row["step"] for row in rows if row.get("event") == "start"),
        safe=safe,
    )


def _made(attempts: Path) -> frozenset[str]:
    found = set[str]()
    with suppress(OSError):
        for attempt in attempts.iterdir():
            with suppress(OSError):
                found |= {path.name for path in attempt.iterdir() if path.name in STAGES}
    return frozenset(found)


def lines(run: Path) -> list[dict[str, Any]]:
    """The training lines of the run's log; a torn line is no line."""
    log, found = run / "metrics.jsonl", list[dict[str, Any]]()
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("stage") == "distil" and "step" in row:
                found.append(row)
    return found


def begun(before: Sight, now: Sight) -> list[Start]:
    """Trainings that began between two looks, with what was safe at the first: nothing is written between a death and a start."""
    return [Start(step, before.safe) for step in now.starts[len(before.starts) :]]


def _lines_of(directory: Path) -> int:
    count = 0
    for path in directory.glob("*.jsonl"):
        with suppress(OSError):
            count += path.read_bytes().count(b"\n")
    return count

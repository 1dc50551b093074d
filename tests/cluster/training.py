"""What can be read from outside about a training that runs on a cluster: its log, and its checkpoints on shared storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magdi_ray.distill.checkpoint.state import is_whole


def lines(run: Path) -> list[dict[str, Any]]:
    """What the run's log holds of its training so far; a line that a kill cut off is no line."""
    log = run / "metrics.jsonl"
    found = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [line for text in found if text.endswith("}") and "step" in (line := json.loads(text))]


def starts(run: Path) -> list[int]:
    """The step each attempt began at."""
    return [line["step"] for line in lines(run) if line.get("event") == "start"]


def whole(shared: Path) -> dict[int, Path]:
    """Step -> directory of every whole checkpoint below a directory."""
    return {int(path.name.removeprefix("step-")): path for path in shared.glob("**/step-*") if is_whole(path)}


def beyond(run: Path, shared: Path, *, attempt: int) -> bool:
    """Whether this attempt, counted from 1, has written a checkpoint of its own and done steps after it."""
    began, steps = starts(run), [line["step"] for line in lines(run) if "event" not in line]
    return len(began) == attempt and any(began[-1] < step < steps[-1] for step in whole(shared))

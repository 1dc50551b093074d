"""Files as a crash may leave them: the last line cut off, or half a line at the end, or a file cut short."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GARBAGE = b'{"key": "0f343b09\x00\xff'
HALF_A_LINE = b'{"stage": "distil", "recipe": "level4", "st'


@dataclass(frozen=True)
class Torn:
    """What was done."""

    what: str
    lines: int = 0
    """Of a reply store that are lost: their calls are made again."""


def tear(run: Path, stage: str, draw: random.Random) -> Torn:
    """Tear one of the files that the stage was writing; the choice is drawn."""
    ways: list[Callable[[], Torn]] = []
    if stage in ("debates", "evaluation"):
        store = run / ("replies" if stage == "debates" else "evaluation-replies")
        full = sorted(path for path in store.glob("*.jsonl") if path.stat().st_size)
        ways += [lambda: cut_line(full[0]), lambda: append(full[-1], GARBAGE)] if full else []
        halves = sorted(run.glob(f"attempts/*/{stage}/**/*.parquet"))
        ways += [lambda: cut_short(halves[0])] if halves else []
    if stage == "student":
        checkpoints = sorted(run.glob("training/*/*/step-*"), key=lambda path: path.name)
        shards = sorted(checkpoints[-1].glob("*.safetensors")) if checkpoints else []
        ways += [lambda: cut_short(shards[0])] if shards else []
        ways += [lambda: append(run / "metrics.jsonl", HALF_A_LINE)] if (run / "metrics.jsonl").is_file() else []
    return draw.choice(ways)() if ways else Torn("nothing was there to tear")


def cut_line(path: Path) -> Torn:
    """Leave half of the last line."""
    data = path.read_bytes()
    begin = data.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(data[: (begin + len(data)) // 2])
    return Torn(f"the last line of a {path.parent.name} file was cut", 1)


def append(path: Path, rubbish: bytes) -> Torn:
    """Half a line behind the last."""
    with path.open("ab") as stream:
        stream.write(rubbish)
    return Torn(f"half a line was added to {path.name if path.name == 'metrics.jsonl' else f'a {path.parent.name} file'}")


def cut_short(path: Path) -> Torn:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return Torn(f"half of {path.parent.name}/{path.name} was cut off")

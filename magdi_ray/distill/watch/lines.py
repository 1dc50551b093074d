"""Files of JSON lines that grow: one on a file system, appended to; or one at a URL, delivered anew now and then."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from magdi_ray.mirror import LOGS
from magdi_ray.storage import deliver

logger = logging.getLogger(__name__)

DELIVERY_S = 5.0
"""Between two deliveries of a file, at least; one that takes long is made less often."""
TAIL = 16384
"""Bytes at the end of a file that are looked at for its newest lines."""
SHARE = 0.05
"""Of a training's time that deliveries may take."""


class LocalLines:
    """Appends to a file; every line is with the operating system when `add` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _ends_whole(path)
        self._stream = path.open("a", encoding="utf-8")
        if not whole:
            self._stream.write("\n")

    def add(self, line: str) -> None:
        """Write a line, which ends in a line break."""
        self._stream.write(line)
        self._stream.flush()

    def flush(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """No more lines."""
        self._stream.close()


class RemoteLines:
    """Writes a local file and delivers it below a URL, under a name that sorts by the time it was begun.

    What is lost with a machine is what was added since the last delivery. Storage that fails is tried again with the next line.
    """

    def __init__(self, url: str, label: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="magdi-lines-")
        name = f"{time.time_ns():020d}-{label}.jsonl"
        self._place = f"{url}/{name}"
        self._path = Path(self._directory.name) / name
        self._stream = self._path.open("w", encoding="utf-8")
        self._next = 0.0

    def add(self, line: str) -> None:
        """Write a line, which ends in a line break."""
        self._stream.write(line)
        if time.monotonic() >= self._next:
            self._deliver()

    def _deliver(self) -> None:
        self._stream.flush()
        began = time.monotonic()
        try:
            deliver(self._path, self._place)
        except Exception as error:  # whatever a file system of others raises: a log must not end a training
            logger.warning("%s could not be written, and will be tried again: %s", self._place, error)
        took = time.monotonic() - began
        self._next = time.monotonic() + max(DELIVERY_S, took / SHARE)

    def flush(self) -> None:
        """Deliver all there is."""
        self._deliver()

    def close(self) -> None:
        """Deliver all there is; no more lines."""
        self._deliver()
        self._stream.close()
        self._directory.cleanup()


def json_lines(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The objects of every file, in order; torn lines are passed over."""
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as stream:
            yield from _objects(stream)


def last_lines(path: Path) -> list[dict[str, Any]]:
    """The newest objects of a log that is being written: of the file, and of each file of `logs/` beside it."""
    found = list[dict[str, Any]]()
    for file in log_files(path):
        with file.open("rb") as stream:
            begin = stream.seek(max(0, file.stat().st_size - TAIL))
            whole = stream.read().split(b"\n")[bool(begin) : -1]
        found += _objects(line.decode("utf-8", "replace") for line in whole)
    return found


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for text in lines:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # torn by a crash, perhaps with the next line behind it
            continue
        if isinstance(line, dict):
            yield line


def log_files(path: Path) -> list[Path]:
    """The files of a run's log that are there: the run's own, and those of training workers that share no directory with it."""
    return [file for file in (path, *sorted((path.parent / LOGS).rglob("*.jsonl"))) if file.is_file()]


def _ends_whole(path: Path) -> bool:
    """Whether a file's last line is complete; after a crash it may not be, and the next would be lost with it."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"

"""The small files of a run whose directory is at a URL: a local directory holds them while a process works at the run.

URL/config.yaml, run.id, metrics.jsonl, ...    files of the run itself: pulled when it is opened, pushed as they change
URL/stages/student.json                        manifest of a finished stage, which says where its files are
URL/attempts/00000003-9f3a6c02/student/...     a stage's files, under the number of the attempt that made them
URL/logs/00000003/level2-....jsonl             what training workers write; read together with metrics.jsonl
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from magdi_ray.lease import Holder
from magdi_ray.storage import collect, deliver, listing, missing_at, own_directory, read_text, write_atomically, write_text

logger = logging.getLogger(__name__)

PUSH_S = 15.0
"""Between two looks at what changed; a machine that is lost takes so many seconds of progress lines with it, and no reply."""
STAGES = "stages"
LOGS = "logs"
PULLED = (".yaml", ".id", ".jsonl", ".json")
"""Endings of a run's own small files; others may lie beside them."""
HOLDER = ".holder"
"""Names the process a local directory belongs to."""


class Mirror:
    """A local directory that stands for a run at a URL."""

    def __init__(self, home: str, allowed: Callable[[], object] = lambda: None) -> None:
        """`allowed` is called before anything is pushed, and raises where another attempt has taken over."""
        self.home, self.allowed = home, allowed
        parent = own_directory("runs")
        _tidy(parent)
        self.root = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
        (self.root / HOLDER).write_text(json.dumps(asdict(Holder.own())), encoding="utf-8")
        weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self._pushed: dict[str, tuple[int, int]] = {}
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._alone = threading.Lock()

    def pull(self) -> None:
        """Take over what the URL has now: small files, manifests, logs."""
        for name in listing(self.home):
            if name.endswith(PULLED):
                self._take(f"{self.home}/{name}", self.root / name)
        for name in listing(f"{self.home}/{STAGES}"):
            self._take(f"{self.home}/{STAGES}/{name}", self.root / STAGES / name)
        self.pull_logs()
        self._pushed = {path.name: _state(path) for path in self._files()}

    def pull_logs(self) -> None:
        """Take over what training workers have written by now."""
        for name, size in listing(f"{self.home}/{LOGS}", recursive=True).items():
            local = self.root / LOGS / name
            if not local.is_file() or local.stat().st_size != size:
                self._take(f"{self.home}/{LOGS}/{name}", local)

    def push(self) -> None:
        """Deliver the small files that changed.

        Raises:
            RunError: storage fails, or another attempt has taken over.
        """
        with self._alone:
            changed = [path for path in self._files() if _state(path) != self._pushed.get(path.name)]
            if changed:
                self.allowed()
            for path in changed:
                if (state := _state(path)) != self._pushed.get(path.name):
                    deliver(path, f"{self.home}/{path.name}")
                    self._pushed[path.name] = state

    def publish(self, stage: str, manifest: str) -> None:
        """Declare a stage finished."""
        write_text(f"{self.home}/{STAGES}/{file_of(stage)}", manifest)
        write_atomically(self.root / STAGES / file_of(stage), manifest)

    def start(self) -> None:
        """Push from time to time, from a thread of its own, until `stop`."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._push_always, name="magdi-mirror", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Push once more, and no more. What cannot be pushed any more is said."""
        if self._thread is None:
            return
        self._ending.set()
        self._thread.join()
        self._thread = None
        try:
            self.push()
        except Exception as error:  # whatever a file system of others raises: the body's own error is more important
            logger.warning("The last lines of %s could not be brought there: %s", self.home, error)

    def _push_always(self) -> None:
        while not self._ending.wait(PUSH_S):
            try:
                self.push()
            except Exception as error:  # whatever a file system of others raises
                logger.warning("%s could not be brought up to date, and will be tried again: %s", self.home, error)

    def _files(self) -> list[Path]:
        return [path for path in sorted(self.root.iterdir()) if path.is_file() and not path.name.startswith(".")]

    @staticmethod
    def _take(place: str, local: Path) -> None:
        text = read_text(place)
        if text is not None:
            write_atomically(local, text)

    def gather(self, directory: Path) -> None:
        """Take over what workers delivered for a directory that is being made."""
        collect(f"{self.home}/{directory.relative_to(self.root).as_posix()}", directory)

    def hand_over(self, directory: Path) -> str:
        """Deliver a directory's files, but for those that workers delivered; returns its place."""
        place = f"{self.home}/{directory.relative_to(self.root).as_posix()}"
        for name in missing_at(directory, place):
            deliver(directory / name, f"{place}/{name}")
        return place


def file_of(stage: str) -> str:
    """The name of a stage's manifest among those of all: "student.json", "ablations--level1.json"."""
    return stage.replace("/", "--") + ".json"


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _tidy(parent: Path) -> None:
    """Remove what processes of this machine left that were killed."""
    for holder in parent.glob(f"run-*/{HOLDER}"):
        with suppress(OSError, ValueError, TypeError):
            if Holder(**json.loads(holder.read_text(encoding="utf-8"))).is_gone():
                shutil.rmtree(holder.parent, ignore_errors=True)

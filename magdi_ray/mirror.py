"""The small files of a run whose directory is at a URL: a local directory holds them while a process works at the run.

URL/config.yaml, run.id, metrics.jsonl, ...    files of the run itself: pulled when it is opened, pushed as they change
URL/stages/student.json                        manifest of a finished stage, which says where its files are
URL/attempts/00000003/student/...              a stage's files, under the number of the attempt that made them
URL/logs/00000003/level2-....jsonl             what training workers write; read together with metrics.jsonl
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from magdi_ray.storage import cache_directory, collect, deliver, listing, read_text, write_atomically, write_text

logger = logging.getLogger(__name__)

PUSH_S = 15.0
"""Between two looks at what changed; a machine that is lost takes so many seconds of progress lines with it, and no reply."""
STAGES = "stages"
LOGS = "logs"
NOT_PULLED = ("ray.log", "report.html")
"""Written anew; nobody reads them from a run."""


class Mirror:
    """A local directory that stands for a run at a URL."""

    def __init__(self, home: str) -> None:
        self.home = home
        (parent := cache_directory() / "runs").mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
        weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self._pushed: dict[str, tuple[int, int]] = {}
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._alone = threading.Lock()

    def pull(self) -> None:
        """Take over what the URL has now: small files, manifests, logs."""
        for name in listing(self.home):
            if name not in NOT_PULLED:
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
        """Deliver the small files that changed."""
        with self._alone:
            for path in self._files():
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
        """Push once more, and no more."""
        if self._thread is not None:
            self._ending.set()
            self._thread.join()
            self._thread = None
            self.push()

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
        there = listing(place, recursive=True)
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            name = path.relative_to(directory).as_posix()
            if there.get(name) != path.stat().st_size:
                deliver(path, f"{place}/{name}")
        return place


def file_of(stage: str) -> str:
    """The name of a stage's manifest among those of all: "student.json", "ablations--level1.json"."""
    return stage.replace("/", "--") + ".json"


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns

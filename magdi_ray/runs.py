"""The run directory: where each stage keeps its files, which stages are complete, and what has to run again.

A stage is complete if and only if its `manifest.json` exists: it is written last, atomically. The manifest holds the hash of
the configuration that shaped the stage and of the stages it read; when either no longer matches, the stage is stale and runs
again. Files of a stale or unfinished attempt are moved to `superseded/`, never deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from magdi_ray.config import RunConfig, content_hash, dump_config
from magdi_ray.errors import RunError

Resume = Literal["never", "always", "if_possible"]
State = Literal["missing", "unfinished", "stale", "complete"]

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
LOCK = "run.lock"
IDENTITY = "run.id"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished stage says of itself."""

    stage: str
    config_hash: str
    """Hash of the part of the configuration that shaped the stage."""
    inputs: dict[str, str]
    """Name of each stage that was read -> its `content`."""
    content: str
    """Hash of the stage's own files."""
    files: dict[str, int]
    """File (relative to the stage) -> bytes."""
    seconds: float
    """Wall-clock time the stage took."""
    finished: str
    """UTC, ISO 8601."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts a person asks for first: rows, failures, skipped records by reason."""


class Run:
    """One run directory."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        self._lock: IO[str] | None = None

    def path(self, stage: str) -> Path:
        """The directory of a stage: "questions", "student", "ablations/level1"."""
        return self.root / stage

    @property
    def metrics(self) -> Path:
        """One JSON line a training step."""
        return self.root / "metrics.jsonl"

    def prepare(self, config: RunConfig, resume: Resume) -> None:
        """Create or take up the directory and store the resolved configuration in it.

        Raises:
            RunError: the directory holds something that is not a run, or another run, or `resume` forbids what was found.
        """
        occupied = self.root.exists() and any(self.root.iterdir())
        stored = self.root / CONFIG
        if occupied and not stored.is_file():
            raise RunError(
                f"{self.root} holds files that are no run of magdi (there is no {CONFIG}). Choose an empty --out directory."
            )
        if occupied and resume == "never":
            raise RunError(f"{self.root} already holds a run. Choose another --out directory, or allow --resume if_possible.")
        if not occupied and resume == "always":
            raise RunError(f"--resume always: there is no run in {self.root} to resume.")
        if occupied and (name := _stored_name(stored)) != config.name:
            raise RunError(f"{self.root} holds the run {name!r}, not {config.name!r}. Choose another --out directory.")
        self.root.mkdir(parents=True, exist_ok=True)
        self.lock()
        if not self.identity:
            write_atomically(self.root / IDENTITY, f"{uuid.uuid4().hex[:12]}\n")
        write_atomically(stored, dump_config(config))

    @property
    def identity(self) -> str:
        """A name of its own, drawn when the run is begun; "" before that."""
        file = self.root / IDENTITY
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def lock(self) -> None:
        """Keep other processes from working in this directory; the operating system lets go of it when this process ends.

        Raises:
            RunError: another process works in it.
        """
        if self._lock is not None:
            return
        lock = (self.root / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise RunError(f"{self.root} is in use by {holder}. Wait for it to end, or choose another --out directory.") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        self._lock = lock

    def unlock(self) -> None:
        """Let other processes work in this directory again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read_manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage, or None where the stage is not complete."""
        path = self.path(stage) / MANIFEST
        if not path.is_file():
            return None
        try:
            return Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}). Move the directory away to run the stage again.") from None

    def require(self, stage: str) -> Manifest:
        """The manifest of a stage that must be complete."""
        manifest = self.read_manifest(stage)
        if manifest is None:
            raise RunError(f"{self.root} has no finished {stage!r} stage. Run it first: magdi run CONFIG --out {self.root}")
        return manifest

    def state(self, stage: str, shaped_by: Any, inputs: Iterable[str]) -> State:
        """What is on disk for a stage, held against the configuration and the stages it reads."""
        manifest = self.read_manifest(stage)
        if manifest is None:
            directory = self.path(stage)
            return "unfinished" if directory.is_dir() and any(directory.iterdir()) else "missing"
        wanted = (content_hash(shaped_by), self._contents(inputs))
        return "complete" if (manifest.config_hash, manifest.inputs) == wanted else "stale"

    def clear(self, stage: str) -> Path:
        """An empty directory for a stage; whatever stood there is moved to `superseded/`."""
        directory = self.path(stage)
        if directory.exists() and any(directory.iterdir()):
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            superseded = self.root / "superseded"
            superseded.mkdir(exist_ok=True)
            directory.rename(Path(tempfile.mkdtemp(prefix=f"{stage.replace('/', '-')}-{stamp}-", dir=superseded)))
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def finish(self, stage: str, shaped_by: Any, inputs: Iterable[str], *, seconds: float, facts: Mapping[str, Any]) -> Manifest:
        """Declare a stage complete: hash its files and write the manifest, last."""
        directory = self.path(stage)
        files = {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}
        manifest = Manifest(
            stage=stage,
            config_hash=content_hash(shaped_by),
            inputs=self._contents(inputs),
            content=_hash_files(files),
            files={name: path.stat().st_size for name, path in files.items()},
            seconds=round(seconds, 3),
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            facts=dict(facts),
        )
        write_atomically(directory / MANIFEST, json.dumps(asdict(manifest), indent=1))
        return manifest

    def _contents(self, stages: Iterable[str]) -> dict[str, str]:
        manifests = {stage: self.read_manifest(stage) for stage in stages}
        return {stage: manifest.content if manifest else "" for stage, manifest in manifests.items()}


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


LARGE = 1 << 26
"""Files from this many bytes on are told apart by size and time of change instead of by their content."""


def file_hash(path: str) -> str:
    """Hash of a local file, or of the files of a directory, that a run starts from; "" for what is not here (a hub name)."""
    root = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root] if root.is_file() else []:
        digest.update(f"{file.relative_to(root)}\0".encode())
        status = file.stat()
        if status.st_size >= LARGE:
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        else:
            digest.update(file.read_bytes())
    return digest.hexdigest() if root.exists() else ""


def _hash_files(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as stream:
            digest.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _stored_name(stored: Path) -> str | None:
    import yaml

    data = yaml.safe_load(stored.read_text(encoding="utf-8"))
    return data.get("name") if isinstance(data, dict) else None

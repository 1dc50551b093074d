"""The run directory: where each stage keeps its files, which stages are complete, and what has to run again.

    RUN/student/                       a finished stage: complete if and only if its `manifest.json` exists
    RUN/attempts/00000003-9f3a6c02/student/     the same stage while it is made; renamed to the above when it is whole
    RUN/leases/                        who works at the run (`lease`)
    RUN/superseded/                    what stale stages and unfinished attempts left; moved there, never deleted

A manifest holds the hash of the configuration that shaped the stage and of the stages it read; when either no longer matches,
the stage is stale and runs again. The directory may also be at a URL, which cannot rename: there a finished stage stays where its
attempt wrote it, and its manifest says where that is (`mirror`).
"""

from __future__ import annotations

import hashlib
import json
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from magdi_ray.config import RunConfig, content_hash, dump_config
from magdi_ray.config.reading import read_file, read_yaml
from magdi_ray.errors import RunError
from magdi_ray.lease import Lease
from magdi_ray.mirror import STAGES, Mirror, file_of
from magdi_ray.progress import console
from magdi_ray.storage import adopt, check_run_place, fetched, is_url, make_run_directory, names, write_atomically

Resume = Literal["never", "always", "if_possible"]
State = Literal["missing", "unfinished", "stale", "complete"]

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
IDENTITY = "run.id"
ATTEMPTS = "attempts"
LEASES = "leases"
SUPERSEDED = "superseded"


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
    at: str = ""
    """Of a run at a URL: where the files are, relative to it."""
    attempt: int = 0
    """That made it."""


class Run:
    """One run directory: a path, or a URL of any file system fsspec knows."""

    def __init__(self, where: str | Path) -> None:
        """Open a directory, which need not be there yet."""
        place = str(where)
        check_run_place(place)
        self._mirror = Mirror(place.rstrip("/"), self._still_held) if is_url(place) else None
        self.root = self._mirror.root if self._mirror else Path(where).resolve()
        """The local directory: the run's own, or that which stands for its small files."""
        self.where = self._mirror.home if self._mirror else str(self.root)
        """What people call it."""
        self._lease: Lease | None = None
        self._let_go = False
        self._number, self._draw = 0, ""
        self._read: dict[str, dict[str, str]] = {}
        if self._mirror:
            self._mirror.pull()

    @property
    def attempt(self) -> int:
        """The number of this attempt at the run; 0 before `lock`."""
        return self._number

    def path(self, stage: str) -> Path:
        """The directory of a stage on this machine: "questions", "student", "ablations/level1". Of a URL a copy is fetched."""
        if self._mirror and (manifest := self.read_manifest(stage)):
            return fetched(f"{self.where}/{manifest.at}")
        return self.root / stage

    def place(self, stage: str) -> str:
        """Where every machine finds a finished stage's files."""
        if self._mirror and (manifest := self.read_manifest(stage)):
            return f"{self.where}/{manifest.at}"
        return self.beside(stage)

    def beside(self, name: str) -> str:
        """Where every machine finds what belongs to the run and to no stage: replies, checkpoints."""
        return f"{self.where}/{name}"

    def place_of(self, directory: Path) -> str:
        """Where every machine finds a directory that is being made (`clear`)."""
        return self.beside(directory.relative_to(self.root).as_posix())

    def gather(self, directory: Path) -> None:
        """Have on this machine what workers wrote to `place_of(directory)`."""
        if self._mirror:
            self._mirror.gather(directory)

    @property
    def metrics(self) -> Path:
        """One JSON line a training step, and more; of a URL the lines that training workers write are in files beside it."""
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> str:
        """Where training workers of this attempt write their lines: the file itself, or a directory at a URL."""
        return f"{self.where}/logs/{self.attempt:08d}" if self._mirror else str(self.metrics)

    def refresh(self) -> None:
        """See what training workers have written since."""
        if self._mirror:
            self._mirror.pull_logs()

    def push(self) -> None:
        """Deliver what changed among the small files of a run at a URL."""
        if self._mirror:
            self._mirror.push()

    def prepare(self, config: RunConfig, resume: Resume) -> None:
        """Create or take up the directory and store the resolved configuration in it.

        Raises:
            RunError: the directory holds something that is not a run, or another run, or `resume` forbids what was found.
        """
        self._refuse_others(config, resume)
        make_run_directory(self.root)
        self.lock()
        try:
            self._refuse_others(config, resume)  # another attempt may have begun and ended meanwhile
            if not self.identity:
                write_atomically(self.root / IDENTITY, f"{uuid.uuid4().hex[:12]}\n")
            write_atomically(self.root / CONFIG, dump_config(config))
            self.push()
        except BaseException:
            self.unlock()
            raise

    def _refuse_others(self, config: RunConfig, resume: Resume) -> None:
        stored = self.root / CONFIG
        if self.root.is_file():
            raise RunError(f"{self.where} is a file, and a run is a directory. Choose another --out directory.")
        occupied = bool(names(self.where) - {LEASES})
        if occupied and not stored.is_file():
            raise RunError(
                f"{self.where} holds files that are no run of magdi (there is no {CONFIG}). Choose an empty --out directory."
            )
        if occupied and resume == "never":
            raise RunError(f"{self.where} already holds a run. Choose another --out directory, or allow --resume if_possible.")
        if not occupied and resume == "always":
            raise RunError(f"--resume always: there is no run in {self.where} to resume. Check --out, or leave --resume out.")
        if occupied and (name := _stored_name(stored)) != config.name:
            raise RunError(f"{self.where} holds the run {name!r}, not {config.name!r}. Choose another --out directory.")

    @property
    def identity(self) -> str:
        """A name of its own, drawn when the run is begun; "" before that."""
        file = self.root / IDENTITY
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def lock(self) -> None:
        """Become the one attempt that works in this directory; what an attempt before left unfinished is moved away.

        When another attempt takes over later, since this one was not heard of, the main thread is interrupted as by Ctrl-C.

        Raises:
            RunError: another attempt works in it.
        """
        if self._lease is not None:
            return

        def waiting(text: str) -> None:
            console.print(f"[yellow]![/] {text}", soft_wrap=True)

        lease = Lease(self.beside(LEASES), on_lost=_interrupt, waiting=waiting)
        lease.acquire()
        _hear_interrupts()
        self._lease, self._let_go = lease, False
        self._number, self._draw = lease.number, uuid.uuid4().hex[:8]
        if self._mirror:
            self._mirror.pull()  # the attempt before may have ended only now
            self._mirror.start()
            return
        for left in sorted((self.root / ATTEMPTS).glob("[0-9]*")):
            self._supersede(left, f"attempt-{left.name}")

    def unlock(self) -> None:
        """Let another attempt work in this directory."""
        lease = self._lease
        if lease is None:
            return
        self._let_go = True
        with suppress(OSError):  # what an unfinished stage left stays for who takes the run up
            self._attempt_directory.rmdir()
            (self.root / ATTEMPTS).rmdir()
        if self._mirror:
            self._mirror.stop()
        self._lease = None
        lease.release()

    def check(self) -> None:
        """Make sure that this attempt still works at the run. Without `lock` before, nobody else is expected to.

        Raises:
            RunError: another one has taken over, or this one has ended.
        """
        if self._let_go:
            raise RunError(
                f"This attempt at {self.where} has ended; nothing more is put into its place. Run the same command again."
            )
        self._still_held()

    def _still_held(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def stop_if_lost(self) -> None:
        """As `check`, as far as is known without asking storage."""
        if self._lease is not None:
            self._lease.stop_if_lost()

    def read_manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage, or None where the stage is not complete."""
        path = self.root / STAGES / file_of(stage) if self._mirror else self.root / stage / MANIFEST
        if not path.is_file():
            return None
        try:
            return Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"{path} cannot be read ({str(error)[:200]}). Move the directory away to run the stage again."
            ) from None

    def require(self, stage: str) -> Manifest:
        """The manifest of a stage that must be complete."""
        manifest = self.read_manifest(stage)
        if manifest is None:
            raise RunError(f"{self.where} has no finished {stage!r} stage. Run it first: magdi run CONFIG --out {self.where}")
        return manifest

    def state(self, stage: str, shaped_by: Any, inputs: Iterable[str]) -> State:
        """What is on disk for a stage, held against the configuration and the stages it reads."""
        manifest = self.read_manifest(stage)
        if manifest is None:
            return "unfinished" if any((self.root / ATTEMPTS).glob(f"*/{stage}")) else "missing"
        wanted = (content_hash(shaped_by), self._contents(inputs))
        return "complete" if (manifest.config_hash, manifest.inputs) == wanted else "stale"

    def clear(self, stage: str, inputs: Iterable[str] = ()) -> Path:
        """An empty directory to make a stage in, under this attempt's number; what it left there before is moved away.

        `inputs`: the stages that will be read; they must still be the same when it is finished.
        """
        self.stop_if_lost()
        self._read[stage] = self._contents(inputs)
        directory = self._working(stage)
        if directory.exists():
            self._supersede(directory, stage)
        directory.mkdir(parents=True)
        return directory

    def finish(self, stage: str, shaped_by: Any, inputs: Iterable[str], *, seconds: float, facts: Mapping[str, Any]) -> Manifest:
        """Declare a stage complete: hash its files, write the manifest, and put it into its place. An older one is moved away.

        Raises:
            RunError: another attempt has taken over; what this one made stays under its number.
        """
        directory, read = self._working(stage), self._contents(inputs)
        if not directory.is_dir():
            raise RunError(
                f"{directory} is gone, where {stage!r} was made. Run again where the run is now: it was moved, or taken over."
            )
        if any(read.get(name) != content for name, content in self._read.get(stage, {}).items()):
            raise RunError(f"What {stage!r} was made from has changed meanwhile. Run the same command again.")
        files = {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}
        manifest = Manifest(
            stage=stage,
            config_hash=content_hash(shaped_by),
            inputs=read,
            content=_hash_files(files),
            files={name: path.stat().st_size for name, path in files.items()},
            seconds=round(seconds, 3),
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            facts=dict(facts),
            at=directory.relative_to(self.root).as_posix() if self._mirror else "",
            attempt=self.attempt,
        )
        text = json.dumps(asdict(manifest), indent=1)
        write_atomically(directory / MANIFEST, text)
        if self._mirror:
            place = self._mirror.hand_over(directory)
            self.check()
            self._mirror.publish(stage, text)
            adopt(directory, place)
            self.push()
            return manifest
        self.check()
        self._put_in_place(directory, stage)
        return manifest

    def _put_in_place(self, directory: Path, stage: str) -> None:
        target = self.path(stage)
        # First out of the attempt's directory, which a successor has moved away: then this fails, and nothing has happened.
        own = self.root / ATTEMPTS / f"{self._attempt_directory.name}-finished-{stage.replace('/', '-')}"
        directory.rename(own)
        if (there := self.read_manifest(stage)) is not None and there.attempt > self.attempt:
            raise RunError(
                f"{target} was made by attempt {there.attempt} meanwhile; that of attempt {self.attempt} is in {own}. "
                "Run the same command again to go on from there."
            )
        if target.exists():
            self._supersede(target, stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        own.rename(target)
        with suppress(OSError):  # others of its kind are being made
            directory.parent.rmdir()

    @property
    def _attempt_directory(self) -> Path:
        """Where this attempt makes its stages: no other one, of this run or of one that was deleted, has the same name."""
        return self.root / ATTEMPTS / (f"{self.attempt:08d}-{self._draw}" if self._draw else f"{self.attempt:08d}")

    def _working(self, stage: str) -> Path:
        return self._attempt_directory / stage

    def _supersede(self, directory: Path, name: str) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        (self.root / SUPERSEDED).mkdir(exist_ok=True)
        directory.rename(tempfile.mkdtemp(prefix=f"{name.replace('/', '-')}-{stamp}-", dir=self.root / SUPERSEDED))

    def _contents(self, stages: Iterable[str]) -> dict[str, str]:
        manifests = {stage: self.read_manifest(stage) for stage in stages}
        return {stage: manifest.content if manifest else "" for stage, manifest in manifests.items()}


def _interrupt() -> None:
    """End what the main thread does, as Ctrl-C would; `_thread.interrupt_main` would wait for what it waits for."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)


def _hear_interrupts() -> None:
    """A process that a script started in the background ignores Ctrl-C, and would ignore that it was taken over from."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    data = read_yaml(read_file(stored), str(stored))
    return data.get("name") if isinstance(data, dict) else None

"""A segment is a file of lines that one writer appended and nobody changes. It knows neither replies nor keys.

    STORE/node7-4121-9f3a6c02.jsonl           a shared file system: one file a writer, it grows
    STORE/node7-4121-9f3a6c02-000001.jsonl    object storage: one object a commit, it never changes

What is kept when a process dies: on a file system every line whose `append` has returned, since the operating system holds
it (a machine that loses power may lose its last seconds: nothing waits for the disk). On object storage every line whose
`append` has returned is in an object; those still waiting for their commit, `COMMIT_S` at most, are lost.

A line is whole when it ends in a line break: what follows the last one is being written, or was torn, and is not read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.storage import as_fsspec, is_url, open_storage

SUFFIX = ".jsonl"
CHUNK = 1 << 24
"""Bytes read at once."""
COMMIT_S = 0.3
"""Seconds a line waits for others before its object is written."""
COMMIT_LINES = 200
"""Lines that make an object without waiting."""
OPEN_FILES = 256
"""Files kept open for reading."""
CACHE_BYTES = 1 << 26
"""Objects kept in memory: replies are asked for again in about the order they were written."""
FETCHED_TOGETHER = 64
"""Objects asked for at once."""


class Piece(NamedTuple):
    """Whole lines of a segment."""

    name: str
    offset: int
    """Where in the segment they begin, in bytes."""
    data: bytes


class Segments(Protocol):
    """All segments of one store."""

    remote: bool
    """Whether reading one waits for a network."""

    def grown(self, seen: dict[str, int]) -> Iterator[Piece]:
        """What lies beyond `seen` (segment -> bytes), which is moved on as each piece is done with."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Part of a segment; `FileNotFoundError`, or nothing, where it is gone."""
        ...

    async def append(self, line: bytes) -> tuple[str, int]:
        """Add one line, which ends in a line break, and return when it is kept: the segment and where in it the line begins."""
        ...

    async def flush(self) -> None:
        """Return when nothing waits to be written."""
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...


def open_segments(url: str) -> Segments:
    """The segments in a directory or below a URL.

    Raises:
        ConfigError: no driver for the URL, or a directory that cannot be written.
    """
    if not is_url(url):
        return LocalSegments(Path(url))
    try:
        filesystem, root = open_storage(url)
    except ConfigError as problem:
        raise ConfigError(f"The reply store: {problem}") from None
    return ObjectSegments(as_fsspec(filesystem), root)


def writer_name() -> str:
    """A name no other writer has, which tells a person whose it is."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().split(".", maxsplit=1)[0])
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class LocalSegments:
    """Segments in a directory of this machine, or of a file system that several machines share."""

    remote = False

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = ""
        self._file: int | None = None
        self._size = 0
        self._readers: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        try:
            root.mkdir(parents=True, exist_ok=True)
            writable = os.access(root, os.W_OK | os.X_OK)
            found = "its permissions forbid it"
        except OSError as error:
            writable, found = False, str(error)
        if not writable:
            raise ConfigError(f"The reply store {root} cannot be written: {found}. Choose a directory this user may write.")

    def grown(self, seen: dict[str, int]) -> Iterator[Piece]:
        """Segments in order of name, each from where `seen` ends."""
        with os.scandir(self._root) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(SUFFIX)}
        for name in sorted(name for name, size in sizes.items() if size > seen.get(name, 0)):
            file = os.open(self._root / name, os.O_RDONLY)
            try:
                yield from _whole_lines(file, name, seen)
            finally:
                os.close(file)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Part of a segment."""
        with self._lock:
            file = self._readers.get(name)
            if file is None:
                file = self._readers[name] = os.open(self._root / name, os.O_RDONLY)
            self._readers.move_to_end(name)
            if len(self._readers) > OPEN_FILES:
                os.close(self._readers.popitem(last=False)[1])
            return os.pread(file, length, offset)

    async def append(self, line: bytes) -> tuple[str, int]:
        """Hand a line to the operating system; nothing else runs in between."""
        try:
            if self._file is None:
                self._name, self._size = writer_name() + SUFFIX, 0
                self._file = os.open(self._root / self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:] if written else line)
        except OSError as error:
            self._abandon()
            raise EngineError(
                f"A reply could not be written to {self._root}: {error}. Free space there, or choose another reply store."
            ) from None
        self._size += len(line)
        return self._name, self._size - len(line)

    def _abandon(self) -> None:
        """Leave a segment whose last line may be torn: a line after it would be glued to it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def flush(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """Close every file. The next `append` begins another segment."""
        self._abandon()
        with self._lock:
            while self._readers:
                os.close(self._readers.popitem()[1])


def _whole_lines(file: int, name: str, seen: dict[str, int]) -> Iterator[Piece]:
    offset, wanted = seen.get(name, 0), CHUNK
    while data := os.pread(file, wanted, offset):
        whole = data.rfind(b"\n") + 1
        if whole:
            yield Piece(name, offset, data[:whole])
            offset, wanted = offset + whole, CHUNK
            seen[name] = offset
        elif len(data) < wanted:
            return
        else:
            wanted *= 2


@dataclass
class _Commit:
    """Lines that become one object."""

    loop: asyncio.AbstractEventLoop
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[str] | None = None
    """Ends with the object's name."""

    def add(self, line: bytes) -> int:
        self.lines.append(line)
        self.size += len(line)
        return self.size - len(line)


class ObjectSegments:
    """Segments as objects behind fsspec, for storage that cannot append."""

    remote = True

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._writer = writer_name()
        self._commits = 0
        self._open: _Commit | None = None
        self._running: set[asyncio.Task[str]] = set()
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._cache_lock = threading.Lock()
        self._fetching = [threading.Lock() for _ in range(FETCHED_TOGETHER)]

    def grown(self, seen: dict[str, int]) -> Iterator[Piece]:
        """Objects that were not seen, in order of name, a few dozen in memory at a time."""
        sizes = self._listing()
        new = sorted(name for name in sizes if name not in seen)
        for start in range(0, len(new), FETCHED_TOGETHER):
            names = new[start : start + FETCHED_TOGETHER]
            for name, data in zip(names, self._fetch(names), strict=True):
                whole = data.rfind(b"\n") + 1
                if whole:
                    yield Piece(name, 0, data[:whole])
                seen[name] = sizes[name]

    def _listing(self) -> dict[str, int]:
        try:
            self._filesystem.invalidate_cache(self._root)
            entries = self._filesystem.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # every driver raises errors of its own
            raise EngineError(
                f"The reply store {self._root} cannot be listed: {error}. Check its address and your rights."
            ) from error
        return {entry["name"].rsplit("/", maxsplit=1)[-1]: entry["size"] for entry in entries if entry["name"].endswith(SUFFIX)}

    def _fetch(self, names: list[str]) -> list[bytes]:
        """Objects by name, nothing for one that is gone."""
        paths = [f"{self._root}/{name}" for name in names]
        fetched = self._filesystem.cat_ranges(paths, None, None, on_error="return")
        for error in fetched:
            if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                raise EngineError(f"The reply store {self._root} cannot be read: {error}. Check your rights there, or try again.")
        return [b"" if isinstance(data, Exception) else data for data in fetched]

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Part of an object. The whole object is fetched, since its other lines are likely to be next."""
        with self._fetching[hash(name) % len(self._fetching)]:
            data = self._cache.get(name)
            if data is None:
                data = self._fetch([name])[0]
                self._remember(name, data)
        return data[offset : offset + length]

    def _remember(self, name: str, data: bytes) -> None:
        with self._cache_lock:
            self._cache[name] = data
            self._cached_bytes += len(data)
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    async def append(self, line: bytes) -> tuple[str, int]:
        """Put a line into the open commit and wait until its object is written."""
        loop = asyncio.get_running_loop()
        commit = self._open
        if commit is None or commit.loop is not loop:
            commit = self._open = _Commit(loop)
            commit.task = loop.create_task(self._write(commit))
            self._running.add(commit.task)
            commit.task.add_done_callback(self._running.discard)
        offset = commit.add(line)
        if len(commit.lines) >= COMMIT_LINES:
            self._open = None
            commit.full.set()
        assert commit.task is not None
        # one caller that gives up takes no other's line with it
        return await asyncio.shield(commit.task), offset

    async def _write(self, commit: _Commit) -> str:
        with suppress(TimeoutError):
            await asyncio.wait_for(commit.full.wait(), COMMIT_S)
        if self._open is commit:
            self._open = None
        self._commits += 1
        name = f"{self._writer}-{self._commits:06d}{SUFFIX}"
        try:
            await asyncio.to_thread(self._filesystem.pipe_file, f"{self._root}/{name}", b"".join(commit.lines))
        except Exception as error:  # every driver raises errors of its own
            raise EngineError(
                f"Replies could not be written to {self._root}: {error}. Check your rights there, or choose another reply store."
            ) from error
        return name

    async def flush(self) -> None:
        """Write the open commit now and wait for all that are under way."""
        if self._open is not None:
            self._open.full.set()
        await asyncio.gather(*self._running, return_exceptions=True)

    def close(self) -> None:
        """Nothing is kept open."""

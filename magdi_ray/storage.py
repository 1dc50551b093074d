"""Where files lie that several machines use: a directory all of them see, or a URL (s3://, gs://, any fsspec file system).

A *place* is a string that means the same on every machine: an absolute path, or a URL. Files at a URL are made in a local
directory and delivered when they are whole; who reads them fetches a copy, once a machine. A path is used as it is. What lies at
the place of something finished never changes: whatever is made anew gets a place of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from magdi_ray.errors import ConfigError, MagdiError, RunError

DRIVERS = {"s3a": "s3fs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Scheme -> the package fsspec needs for it; s3 and gs are pyarrow's own."""

COPIED_TOGETHER = 8
"""Files under way to a URL at once."""

CACHE = "MAGDI_CACHE"
"""Environment variable: the directory of a machine's copies; default ~/.cache/magdi."""


def is_url(place: str) -> bool:
    """Whether a place is a URL; `pkg://package/path` is none: it names files of an installed package."""
    return "://" in place and not place.startswith("pkg://")


def check_run_place(place: str) -> None:
    """Refuse what can be no run's place.

    Raises:
        ConfigError: a URL that takes options or lacks a slash.
    """
    if is_url(place) and "?" in place:
        raise ConfigError(
            f"A run's URL takes no options, found {place!r}. Region and endpoint are set in the environment: AWS_REGION, "
            "AWS_ENDPOINT_URL (docs/runs.md)."
        )
    if lacking := re.match(r"([a-z][a-z0-9]+):/(?!/)", place):
        raise ConfigError(f"A run's URL is written {lacking[1]}://BUCKET/RUN, found {place!r}. Write it so.")


def make_run_directory(directory: Path) -> None:
    """Make a run's directory, with those above it.

    Raises:
        RunError: this machine forbids it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be made: {error.strerror}. Choose another --out directory.") from None


def open_storage(where: str) -> tuple[Any, str]:
    """The file system of a place, and the path on it. pyarrow's own where it has one, else fsspec's.

    Raises:
        ConfigError: nobody knows the URL's scheme, the package that does is not installed, or the URL holds `..`.
    """
    import pyarrow as pa
    import pyarrow.fs as pafs

    if not is_url(where):
        return pafs.LocalFileSystem(), str(Path(where).resolve())
    if ".." in where.split("/"):
        raise ConfigError(f"A URL names a place without `..`, found {where!r}. Write the place itself.")
    try:
        filesystem, path = pafs.FileSystem.from_uri(where.replace(" ", "%20"))
        return filesystem, path.rstrip("/")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(where)
    except ImportError as error:
        package = DRIVERS.get(where.split("://", maxsplit=1)[0])
        what = f"pip install {package}" if package else str(error)
        raise ConfigError(f"{where} needs a package that is not installed: {what}") from None
    except ValueError as error:
        raise ConfigError(
            f"A directory, or the URL of a file system fsspec knows, is required; found {where!r}: {error}"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path.rstrip("/")


def as_fsspec(filesystem: Any) -> Any:
    """The same file system with fsspec's methods."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import PyFileSystem

    return filesystem.handler.fs if isinstance(filesystem, PyFileSystem) else ArrowFSWrapper(filesystem)


def retrying(attempts: int = 5) -> Retrying:
    """Some attempts, five of them over at most eight seconds, for failures of storage; then the last one is raised.

    Not every fsspec file system raises OSError, so only what tells of a mistake in the call is not tried again.
    """
    wait = wait_random_exponential(multiplier=0.5, max=8)
    mistakes = (MagdiError, TypeError, ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    # Within its blocks tenacity catches what interrupts a process too.
    failure = retry_if_exception(lambda error: isinstance(error, Exception) and not isinstance(error, mistakes))
    return Retrying(stop=stop_after_attempt(attempts), wait=wait, retry=failure, reraise=True)


def listing(place: str, *, recursive: bool = False) -> dict[str, int]:
    """The files at a place, by their paths relative to it, and their bytes; nothing where there is no such directory."""
    found = _entries(place, recursive=recursive)
    return {name: info.size for name, info in found.items() if info.is_file}


def names(place: str) -> set[str]:
    """The files and directories right at a place."""
    return set(_entries(place, recursive=False))


def _entries(place: str, *, recursive: bool) -> dict[str, Any]:
    from pyarrow.fs import FileSelector

    found = list[Any]()
    with _told(place, "listed"):
        filesystem, root = open_storage(place)
        for attempt in retrying():
            with attempt:
                forget_listings(filesystem)
                found = filesystem.get_file_info(FileSelector(root, recursive=recursive, allow_not_found=True))
    entries = {_below(info.path, root): info for info in found}
    # The keys of a bucket are any text; on a local disk they become paths.
    if strays := [name for name in entries if ".." in name.split("/") or "\0" in name]:
        raise RunError(
            f"{place} holds a file named {strays[0]!r}, which as a path would lie outside of it. Nothing of magdi is named so: "
            "find out who may write there, and delete it."
        )
    return entries


@contextmanager
def _told(place: str, doing: str) -> Iterator[None]:
    """Failures of a URL's storage in words for people; those of a path are the operating system's own."""
    try:
        yield
    except OSError as error:
        if not is_url(place):
            raise
        raise RunError(
            f"{place} could not be {doing}: {error}. Check the bucket's name, the region, the network, and whether this machine "
            "may list, read, write and delete there: magdi doctor --out URL"
        ) from error


def forget_listings(filesystem: Any) -> None:
    """Some fsspec file systems remember what they listed, and would miss what another process wrote."""
    from pyarrow.fs import PyFileSystem

    if isinstance(filesystem, PyFileSystem):
        filesystem.handler.fs.invalidate_cache()


def make_directory(filesystem: Any, path: str) -> None:
    """Make a directory and those above it; not in a bucket, which has none, and whose owner may not let this machine ask."""
    if path and filesystem.type_name not in ("s3", "gcs"):
        filesystem.create_dir(path)


def read_text(place: str) -> str | None:
    """A file's text; None where there is none."""
    with _told(place, "read"):
        filesystem, path = open_storage(place)
        for attempt in retrying():
            with attempt:
                forget_listings(filesystem)
                if not filesystem.get_file_info(path).is_file:
                    return None
                with filesystem.open_input_stream(path) as stream:
                    return bytes(stream.read()).decode(errors="replace")
    raise AssertionError("either returned or raised")


def write_text(place: str, text: str) -> None:
    """Write a file; readers see the old one or the whole new one (on a path too: it is renamed into its place)."""
    if not is_url(place):
        write_atomically(Path(place), text)
        return
    with _told(place, "written"):
        filesystem, path = open_storage(place)
        for attempt in retrying():
            with attempt:
                make_directory(filesystem, path.rpartition("/")[0])
                with filesystem.open_output_stream(path) as stream:
                    stream.write(text.encode())


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """A local log to append to; what its storage does not take at the end is lost, and hides no error of the body."""
    log = path.open("a", encoding="utf-8")
    try:
        yield log
    finally:
        with suppress(OSError):
            log.close()


def write_atomically(path: Path, text: str, *, attempts: int = 5) -> None:
    """Write a local file so that a reader sees the old or the whole new one; storage that fails is asked again (`retrying`)."""
    for attempt in retrying(attempts):
        with attempt:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}.tmp")
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(path)
            except OSError:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise


def deliver(source: Path, place: str) -> None:
    """Copy a local file, or the files of a directory, to a place; nothing where they are at it already.

    Raises:
        RunError: the URL's storage still fails after some attempts.
    """
    filesystem, path = open_storage(place)
    if is_url(place) or Path(path) != source.resolve():
        with _told(place, "written"):
            upload(source, filesystem, path)


def upload(source: Path, filesystem: Any, path: str) -> None:
    """Copy a local file, or the files of a directory, to a path of a file system, some at a time.

    Raises:
        OSError: storage still fails after some attempts.
    """
    files = {source: path} if source.is_file() else {file: f"{path}/{_inside(file, source)}" for file in _files(source)}
    with ThreadPoolExecutor(COPIED_TOGETHER) as pool:
        for copied in [pool.submit(_upload_file, file, filesystem, target) for file, target in files.items()]:
            copied.result()


def _upload_file(file: Path, filesystem: Any, target: str) -> None:
    from pyarrow.fs import copy_files

    for attempt in retrying():
        with attempt:
            make_directory(filesystem, target.rpartition("/")[0])
            copy_files(str(file), target, destination_filesystem=filesystem)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _inside(file: Path, directory: Path) -> str:
    return file.relative_to(directory).as_posix()


def missing_at(directory: Path, place: str) -> list[str]:
    """The files of a local directory that are not at a place, or in another size."""
    there = listing(place, recursive=True)
    return [name for file in _files(directory) if there.get(name := _inside(file, directory)) != file.stat().st_size]


def collect(place: str, directory: Path) -> None:
    """Copy the files at a place into a local directory; nothing where they are in it already, or there are none."""
    from pyarrow.fs import copy_files

    filesystem, path = open_storage(place)
    if not is_url(place) and Path(path) == directory.resolve():
        return
    if listing(place, recursive=True):
        directory.mkdir(parents=True, exist_ok=True)
        with _told(place, "read"):
            for attempt in retrying():
                with attempt:
                    copy_files(path, str(directory), source_filesystem=filesystem)


@contextmanager
def delivered(place: str) -> Iterator[Path]:
    """A local directory to write into; what is in it at the end of the body is delivered. A path is written into directly."""
    if not is_url(place):
        Path(place).mkdir(parents=True, exist_ok=True)
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="magdi-deliver-") as directory:
        yield Path(directory)
        deliver(Path(directory), place)


def fetched(place: str) -> Path:
    """Something finished on this machine: the path itself, or a copy of what lies at a URL, made once a machine.

    Raises:
        RunError: there is nothing at the URL.
    """
    if not is_url(place):
        return Path(place)
    target = copy_of(place)
    if target.exists():
        return target
    with alone(target.name):
        if not target.exists():
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                collect(place, temporary)
                if not temporary.exists():
                    raise RunError(f"Finished files are required at {place}, found none. Was the run deleted, or never finished?")
                adopt(temporary, place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return target


@contextmanager
def alone(name: str, directory: Path | None = None) -> Iterator[None]:
    """No other process of this machine, and no other thread, is in a body of this name. `directory`: of the lock's file."""
    directory = directory or own_directory("locks")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def copy_of(place: str) -> Path:
    """Where this machine's copy of a URL's files is, or would be."""
    name = place.rstrip("/").rsplit("/", maxsplit=1)[-1]
    return own_directory("copies") / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def adopt(directory: Path, place: str) -> Path:
    """Make a local directory this machine's copy of what lies at a URL; where there is one already, that one stays."""
    target = copy_of(place)
    try:
        directory.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(directory, ignore_errors=True)
    return target


def cache_directory() -> Path:
    """Where this machine keeps copies of what lies at URLs. It may be deleted whenever nothing runs."""
    chosen = os.environ.get(CACHE, "").strip()
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "magdi"


def own_directory(part: str) -> Path:
    """A part of the cache, made where it is missing, in which nobody else can write: what is found in it is taken for what this
    user fetched, and its names can be guessed.

    Raises:
        RunError: it is somebody else's, or everybody may write there.
    """
    directory = cache_directory() / part
    directory.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.stat()
    owners = {directory.lstat().st_uid, found.st_uid} - {os.geteuid(), 0}
    if owners or found.st_mode & stat.S_IWOTH:
        whose = f"it belongs to user {min(owners)}" if owners else "everybody may write there"
        raise RunError(
            f"{directory} must be yours alone, but {whose}: another user could put files there that would be taken for copies. "
            f"Delete it, or name a directory of your own in {CACHE}."
        )
    if found.st_mode & stat.S_IWGRP and found.st_uid == os.geteuid():
        directory.chmod(stat.S_IMODE(found.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    return directory


def _below(path: str, root: str) -> str:
    """A listed path relative to the directory that was listed; some file systems leave out the leading slash of both."""
    return path.lstrip("/").removeprefix(root.lstrip("/")).lstrip("/")

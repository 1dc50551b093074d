"""Where a run keeps its files: whether they can be written, read, listed, renamed and removed there.

Writes one probe of a few bytes, under a name of its own, and removes it again. Makes no directory on a local disk.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from magdi_ray.doctor.check import Finding, failed, ok
from magdi_ray.doctor.machine import existing
from magdi_ray.errors import ConfigError
from magdi_ray.storage import DRIVERS, as_fsspec, is_url, open_storage

PROBE = b"magdi doctor\n"
OBJECT_STORES = ("s3", "gs", "gcs", *DRIVERS)


def check_storage(name: str, url: str) -> Iterator[Finding]:
    """A directory or URL can be worked in."""
    if not is_url(url):
        yield from check_local(name, Path(url))
        return
    try:
        filesystem, root = open_storage(url)
    except ConfigError as problem:
        package = DRIVERS.get(url.split("://", maxsplit=1)[0])
        yield failed(name, str(problem), f"pip install {package}" if package else "Correct it.")
        return
    yield from check_remote(name, url, as_fsspec(filesystem), root)


def check_local(name: str, directory: Path) -> Iterator[Finding]:
    """A local directory, or the nearest one above it where it is yet to be made."""
    place = existing(directory)
    where = str(directory) if place == directory.absolute() else f"{directory} (to be made in {place})"
    if not place.is_dir():
        yield failed(name, f"{where}: {place} is a file", "Name a directory.")
        return
    probe = place / f".magdi-doctor-{uuid.uuid4().hex[:12]}"
    renamed = probe.with_suffix(".renamed")
    doing = "written"
    try:
        with probe.open("xb") as stream:
            stream.write(PROBE)
            stream.flush()
            os.fsync(stream.fileno())  # a full or over-quota network disk says so only now
        doing = "renamed"
        probe.rename(renamed)
        doing = "read back"
        if renamed.read_bytes() != PROBE:
            raise OSError("another content came back")
        doing = "listed"
        if renamed not in place.iterdir():
            raise OSError("it is missing from the listing")
        doing = "removed"
        renamed.unlink()
    except OSError as error:
        yield failed(
            name,
            f"{where}: a file could not be {doing}: {error.strerror or error}",
            "Look at its owner, mode, quota and mount options, or choose another directory.",
        )
    else:
        yield ok(name, f"{where}: written, renamed, read, listed and removed a file")
    finally:
        for left in (probe, renamed):
            with suppress(OSError):
                left.unlink(missing_ok=True)


def check_remote(name: str, url: str, filesystem: Any, root: str) -> Iterator[Finding]:
    """Object storage, or any other file system that fsspec knows."""
    path = f"{root.rstrip('/')}/.magdi-doctor-{uuid.uuid4().hex[:12]}"
    doing, written = "written", False
    try:
        if url.split("://", maxsplit=1)[0] not in OBJECT_STORES:
            filesystem.makedirs(root.rstrip("/"), exist_ok=True)  # an object store has no directories, and could make a bucket
        filesystem.pipe_file(path, PROBE)
        written, doing = True, "read back"
        if filesystem.cat_file(path) != PROBE:
            raise OSError("another content came back")
        doing = "listed"
        filesystem.invalidate_cache()
        listed = {str(one).rsplit("/", maxsplit=1)[-1] for one in filesystem.ls(root, detail=False)}
        if path.rsplit("/", maxsplit=1)[-1] not in listed:
            raise OSError("it is missing from the listing")
        doing = "removed"
        filesystem.rm_file(path)
        written = False
    except Exception as error:  # every driver has errors of its own
        said = " ".join(str(error).split()) or "no message"
        todo = "Look at the credentials, the bucket's name, region and policy: get, put, list and delete are needed."
        yield failed(name, f"{url}: a file could not be {doing}: {type(error).__name__}: {said}", todo)
    else:
        yield ok(name, f"{url}: written, read, listed and removed a file")
    finally:
        if written:
            with suppress(Exception):
                filesystem.rm_file(path)

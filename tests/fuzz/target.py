"""A target: one parser of data from elsewhere, what it is fed with, and what it may do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from magdi_ray.errors import MagdiError

Feed = Callable[[bytes, Path], None]
"""Reads an example, in a directory of its own. It checks by assertion what must hold of what was read, and lets errors pass."""

TOLD = 6000
"""Characters of a message that a person may be expected to read."""


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    feed: Feed
    samples: tuple[bytes, ...]
    """What it is meant to read."""
    words: tuple[bytes, ...] = ()
    """What means something to it."""
    errors: tuple[type[Exception], ...] = ()
    """What it may raise; nothing else."""
    seconds: float = 4.0
    """Of computing that an example may take."""


def text_of(data: bytes) -> str:
    """Bytes as a text that may hold anything: what is no UTF-8 stands there as half of a surrogate pair."""
    return data.decode("utf-8", "surrogateescape")


def file_fed(name: str, read: Callable[[Path], object]) -> Feed:
    """Writes each example to a file and reads that: an error is for a person, of a readable length, and names the file."""

    def feed(data: bytes, directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        try:
            read(path)
        except MagdiError as error:
            told = str(error)
            assert path.name in told or path.stem in told, f"the file is not named: {told[:300]}"
            assert len(told) <= TOLD, f"a message of {len(told)} characters: {told[:300]}"
            raise

    return feed

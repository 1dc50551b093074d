"""A shelf of checkpoints on a local directory or any fsspec file system: a directory a step, each whole or to be removed.

Storage is the only record of what there is. Ray Train's own may lag behind it, or be cut off by a kill.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from magdi_ray.distill.checkpoint.state import INDEX, missing_files
from magdi_ray.storage import forget_listings, retrying, upload

logger = logging.getLogger(__name__)

NAME = re.compile(r"step-(\d{8,})")
ATTEMPT = re.compile(r"attempt-\d{8}")


def step_name(step: int) -> str:
    """The directory of a checkpoint; names sort as steps do."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step of a directory."""
    return int(name.removeprefix("step-"))


def attempt_name(attempt: int) -> str:
    """The directory of an attempt's checkpoints; names sort as attempts do."""
    return f"attempt-{attempt:08d}"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Checkpoints under one path. To be changed by one process at a time."""

    filesystem: Any
    path: str

    def names(self) -> list[str]:
        """Every step's directory, whole or not, oldest first."""
        found = [Path(info.path).name for info in self._list(self.path) if info.type == pafs.FileType.Directory]
        return sorted((name for name in found if NAME.fullmatch(name)), key=step_of)

    def is_whole(self, name: str) -> bool:
        """Whether it holds everything its index names."""
        sizes = {Path(info.path).name: info.size for info in self._list(f"{self.path}/{name}")}
        if INDEX not in sizes:
            return False
        with self.filesystem.open_input_stream(f"{self.path}/{name}/{INDEX}") as stream:
            return not missing_files(stream.read(), sizes)

    def put(self, directory: Path, name: str) -> str:
        """Copy a local directory's files into a step's. Returns its path.

        Raises:
            OSError: storage still fails after some attempts.
        """
        target = f"{self.path}/{name}"
        upload(directory, self.filesystem, target)
        return target

    def remove(self, name: str) -> None:
        """Delete a directory, if it is there."""
        for attempt in retrying():
            with attempt:
                if self.filesystem.get_file_info(f"{self.path}/{name}").type != pafs.FileType.NotFound:
                    self.filesystem.delete_dir(f"{self.path}/{name}")
                forget_listings(self.filesystem)

    def tidy(self) -> str | None:
        """Remove what is half written. Returns the newest that is left."""
        for name in self.names():
            if not self.is_whole(name):
                self.remove(name)
        return max(self.names(), key=step_of, default=None)

    def keep(self, names: set[str]) -> None:
        """Remove all others. One that cannot be deleted stays: it takes room, and harms nothing."""
        for name in self.names():
            if name not in names:
                try:
                    self.remove(name)
                except Exception as error:  # whatever a file system of others raises
                    logger.warning("%s/%s could not be deleted: %s", self.path, name, error)

    def discard(self) -> None:
        """Remove the shelf with everything on it; where that fails it stays, and harms nothing."""
        parent, _, name = self.path.rpartition("/")
        try:
            Shelf(self.filesystem, parent).remove(name)
        except Exception as error:  # whatever a file system of others raises
            logger.warning("%s could not be deleted: %s", self.path, error)

    def _list(self, path: str) -> list[Any]:
        forget_listings(self.filesystem)
        listing: list[Any] = self.filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return listing


def earlier_shelves(shelf: Shelf) -> list[Shelf]:
    """The shelves of attempts before a shelf's own, oldest first."""
    parent, _, own = shelf.path.rpartition("/")
    infos = shelf.filesystem.get_file_info(pafs.FileSelector(parent, allow_not_found=True))
    names = sorted(Path(info.path).name for info in infos if info.type == pafs.FileType.Directory)
    return [Shelf(shelf.filesystem, f"{parent}/{name}") for name in names if ATTEMPT.fullmatch(name) and name < own]

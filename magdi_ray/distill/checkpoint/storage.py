"""A shelf of checkpoints on a local directory or any fsspec file system: a directory a step, each whole or to be removed.

Storage is the only record of what there is. Ray Train's own may lag behind it, or be cut off by a kill.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_random_exponential

from magdi_ray.distill.checkpoint.state import INDEX, missing_files
from magdi_ray.errors import ConfigError, MagdiError

logger = logging.getLogger(__name__)

NAME = re.compile(r"step-(\d{8,})")


def open_storage(where: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a directory or URL, and the path on it. pyarrow's own where it has one, else fsspec's.

    Raises:
        ConfigError: nobody knows the URL's scheme, or the package that does is not installed.
    """
    if "://" not in where:
        return pafs.LocalFileSystem(), str(Path(where).resolve())
    try:
        return pafs.FileSystem.from_uri(where)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(where)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"checkpoints.storage must be a directory or the URL of a file system fsspec knows, found {where!r}: {error}"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def retrying() -> Retrying:
    """Five attempts over at most eight seconds, for failures of storage; then the last one is raised.

    Not every fsspec file system raises OSError, so only what tells of a mistake in the call is not tried again.
    """
    wait, mistakes = wait_random_exponential(multiplier=0.5, max=8), (MagdiError, TypeError, ValueError)
    return Retrying(stop=stop_after_attempt(5), wait=wait, retry=retry_if_not_exception_type(mistakes), reraise=True)


def step_name(step: int) -> str:
    """The directory of a checkpoint; names sort as steps do."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step of a directory."""
    return int(name.removeprefix("step-"))


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
        for attempt in retrying():
            with attempt:
                self.filesystem.create_dir(target)
                pafs.copy_files(str(directory), target, destination_filesystem=self.filesystem)
        return target

    def remove(self, name: str) -> None:
        """Delete a directory, if it is there."""
        for attempt in retrying():
            with attempt:
                if self.filesystem.get_file_info(f"{self.path}/{name}").type != pafs.FileType.NotFound:
                    self.filesystem.delete_dir(f"{self.path}/{name}")
                self._forget_listings()

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

    def _list(self, path: str) -> list[Any]:
        self._forget_listings()
        listing: list[Any] = self.filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return listing

    def _forget_listings(self) -> None:
        """Some fsspec file systems remember what they listed, and would miss what another process wrote."""
        if isinstance(self.filesystem, pafs.PyFileSystem):
            self.filesystem.handler.fs.invalidate_cache()

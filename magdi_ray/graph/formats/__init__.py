"""Debates that others have published, read into ours. Every format is one function of one signature, in a file of its own."""

from __future__ import annotations

from pathlib import Path

from magdi_ray.errors import ConfigError
from magdi_ray.graph.formats import convincing, eot, ford, i2i, llm_agora, magdi, reconcile, society
from magdi_ray.graph.formats.base import Import, Reader, Skipped
from magdi_ray.tasks.base import Task

__all__ = ["FORMATS", "Import", "Reader", "Skipped", "import_debates"]

FORMATS: dict[str, Reader] = {
    "society": society.read,
    "reconcile": reconcile.read,
    "magdi": magdi.read,
    "ford": ford.read,
    "llm_agora": llm_agora.read,
    "eot": eot.read,
    "i2i": i2i.read,
    "convincing": convincing.read,
}
"""The formats by the name a configuration gives them."""


def import_debates(format: str, path: Path | str, task: Task) -> Import:
    """The debates of a published file (of a folder, for `ford`).

    Raises:
        ConfigError: there is no such format.
        GraphError: the file as a whole is missing or not in the format. A single bad record is skipped and counted instead.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; found {format!r}.")
    return FORMATS[format](Path(path), task)

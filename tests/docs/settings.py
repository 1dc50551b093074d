"""The keys of a configuration as documents name them, and YAML blocks as the files they are parts of."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from magdi_ray.config import RunConfig
from magdi_ray.config.load import parse_config, parse_section, read_yaml
from tests.docs.blocks import ROOT, Block

WHOLE = ("name", "task", "distil")
"""Sections that a whole configuration has; a block with fewer is a part of one."""


TINY = ROOT / "configs" / "tiny.yaml"


def load_block(block: Block) -> None:
    """Read a YAML block as what it is: a whole configuration, a part of one, or the file its mark says.

    Raises:
        MagdiError or ValueError: it is not that.
    """
    data = read_yaml(block.text, block.place)
    if not isinstance(data, dict):
        raise ValueError(f"{block.place}: a mapping is required, found {type(data).__name__}")
    if named := block.marks.get("as"):
        FILES[named](data, block.place)
        return
    base = {} if set(WHOLE) <= set(data) else read_yaml(TINY.read_text(), TINY.name)
    parse_config(merged(base, data), block.place)


def merged(base: Any, part: Any) -> Any:
    """A configuration with a part of it replaced; a section of another name or type replaces the whole of the former one."""
    other = (
        isinstance(part, dict)
        and isinstance(base, dict)
        and any(part.get(k, base.get(k)) != base.get(k) for k in ("name", "type"))
    )
    if not isinstance(base, dict) or not isinstance(part, dict) or other:
        return copy.deepcopy(part)
    return {
        key: merged(base.get(key), part[key]) if key in part else base[key]
        for key in [*base, *(k for k in part if k not in base)]
    }


def _cluster(data: Any, place: str) -> None:
    from magdi_ray.config.cluster import ClusterConfig

    parse_section(data, place, ClusterConfig)


def _serve(data: Any, place: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(data)


def _study(data: Any, place: str) -> None:
    from magdi_ray.config.study import StudyConfig

    parse_section(data, place, StudyConfig)


def _plain(data: Any, place: str) -> None:
    """A file of another program, of which only the syntax is known here."""


FILES: dict[str, Callable[[Any, str], None]] = {
    "cluster-prices": _cluster,
    "serve-config": _serve,
    "study": _study,
    "foreign": _plain,
}
"""What a YAML block may be besides a configuration."""

KEY = re.compile(r"`((?:task|debate|graph|distil|evaluate|serve|resources)(?:\.[a-z_0-9]+)+)(?<!\.json)`")
"""A key, as sentences name it."""


def named_keys(text: str) -> Iterator[str]:
    """Every dotted key a text names in code marks."""
    return (found[1] for found in KEY.finditer(text))


def exists(key: str) -> bool:
    """Whether a configuration has a key, in any of the kinds a section may be of."""
    sections: list[Any] = [RunConfig]
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if part.isdigit():
            continue
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if not fields:
            return False
        sections = [model for one in fields for model in models_in(one.annotation)]
        if not sections and depth < len(parts) - 1:
            return any("dict" in str(one.annotation) for one in fields)
    return True


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]


TOP = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"runs"}


def named_files(text: str) -> Iterator[str]:
    """Paths of this repository that a text names in code marks."""
    for found in re.finditer(r"`([\w./-]+)`", text):
        path = Path(found[1])
        if "/" in found[1] and path.parts[0] in TOP and path.suffix and not path.stem.isupper():  # NAME.py stands for any
            yield found[1]

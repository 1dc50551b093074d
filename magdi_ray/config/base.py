"""What every section of the configuration shares: strictness, the operational mark, and the hash of what shapes a result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined


class Section(BaseModel):
    """A strict, immutable part of the configuration: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, validate_default=True)


def operational(default: Any = PydanticUndefined, **rules: Any) -> Any:
    """A field that says how work is carried out (replicas, ports), not what comes out of it.

    Changing it never makes a finished stage run again.
    """
    return Field(default, json_schema_extra={"operational": True}, **rules)


def later(default: Any, **rules: Any) -> Any:
    """A field that was added to a section which finished work was hashed by before: at its default it leaves no trace."""
    return Field(default, exclude_if=lambda value: value == default, **rules)


def shaping(value: Any) -> Any:
    """Plain data of everything in a section that shapes its result: operational fields left out, recursively.

    So are fields that exclude themselves (`exclude_if`): one that came later, and is not used, leaves finished work finished.
    """
    if isinstance(value, BaseModel):
        kept = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            found = getattr(value, name)
            unused = field.exclude_if is not None and field.exclude_if(found)
            if not unused and not (isinstance(extra, dict) and extra.get("operational")):
                kept[name] = shaping(found)
        return kept
    if isinstance(value, (list, tuple)):
        return [shaping(item) for item in value]
    if isinstance(value, dict):
        return {key: shaping(item) for key, item in value.items()}
    return value


def some_workers(value: int | tuple[int, int]) -> int | tuple[int, int]:
    """A number of workers, or [min, max], as it was given.

    Raises:
        ValueError: there would be none, or more at least than at most.
    """
    low, high = value if isinstance(value, tuple) else (value, value)
    if not 1 <= low <= high:
        raise ValueError("must be at least 1, or [min, max] with 1 <= min <= max")
    return value


def absolute(name: str) -> str:
    """A local path made absolute; hub names and `pkg://` names as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def content_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, operational fields left out."""
    text = json.dumps(shaping(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

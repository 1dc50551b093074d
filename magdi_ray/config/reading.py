"""Text files that people write, read as plain data: UTF-8, YAML, nothing too deep and nothing too large. Knows no section."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from magdi_ray.errors import ConfigError

MOST_VALUES = 100_000
"""In one file, with what its aliases stand for written out: a few short lines of aliases of aliases are billions."""

MOST_DEEP = 100
"""Sections and lists within each other."""

MERGE = "tag:yaml.org,2002:merge"
"""Of the key `<<`, which brings in the keys of another section."""

LONGEST_LINE = 400
"""Characters of what is wrong with one value."""


class Loader(yaml.SafeLoader):
    """YAML with the numbers people write: `5e-6` is a float (YAML 1.1 reads it as text); a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if key.tag != MERGE]
            held = [self.construct_object(key, deep=True) for key in keys]  # type: ignore[no-untyped-call]
            counts = Counter(key for key in held if isinstance(key, Hashable))
            if twice := sorted(str(key) for key, count in counts.items() if count > 1):
                raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep=deep)


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads: a text that it would take for a number (`5e6`, a commit's hash) stands in quotes."""


for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; a syntax error becomes a `ConfigError` with line and column.

    So does what no configuration holds: more than `MOST_VALUES` values or `MOST_DEEP` levels, and keys that are no single value.
    """
    try:
        found = yaml.load(text, Loader)  # noqa: S506 - Loader is a SafeLoader
    except yaml.YAMLError as error:
        told = str(error).replace('"<unicode string>"', where)  # PyYAML does not know where its text is from
        raise ConfigError(f"{where} is not valid YAML: {told}\nCorrect that line, or what stands before it.") from None
    except RecursionError:
        raise ConfigError(f"{where} holds more than {MOST_DEEP} levels within each other. Correct its brackets.") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # PyYAML's own constructors: !!int "", 2001-99-99
        raise ConfigError(f"{where} holds a value that cannot be read: {error}. Put it in quotes.") from None
    _check_size(found, where)
    return found


def _check_size(found: Any, where: str) -> None:
    """Look at every value as often as it will be: an alias stands for all that it names."""
    waiting, seen = [(found, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MOST_DEEP:
            raise ConfigError(f"{where} holds more than {MOST_DEEP} levels within each other. Correct its brackets and aliases.")
        if seen + len(waiting) > MOST_VALUES:
            raise ConfigError(
                f"{where} holds more than {MOST_VALUES} values once its aliases (*name) are written out. Write less of them."
            )
        if isinstance(value, dict):
            if odd := next((key for key in value if not isinstance(key, str | int | float | bool | None)), None):
                raise ConfigError(f"{where} must have texts as keys, found {short(odd)}. Put it in quotes.")
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += [(item, depth + 1) for item in value]


def read_file(file: Path) -> str:
    """The text of a file that a person wrote.

    Raises:
        ConfigError: it cannot be read, or is no UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read as UTF-8 text: {error}. Save it as UTF-8, and see that it may be read."
        ) from None


def read_mapping(path: str | Path, *, kind: str, example: str, holds: str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: there is none (`kind` of file, with an `example` to start from), or it holds something else than `holds`.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"No {kind} file at {file}. Check the path. {example}")
    data = read_yaml(read_file(file), str(file))
    if not isinstance(data, dict):
        raise ConfigError(f"{file} must hold a mapping {holds}, found {'nothing' if data is None else type(data).__name__}.")
    return data


def cut(line: str) -> str:
    """A line for people, of `LONGEST_LINE` characters at most."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..."


def short(value: Any) -> str:
    """What was found, as it is written in Python, in a few words."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""YAML and overrides in, one validated `RunConfig` out. Everything wrong is said at once, each with field, value and rule."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from magdi_ray.config.base import Section
from magdi_ray.config.engines import UNQUOTED
from magdi_ray.config.reading import MOST_DEEP, Dumper, cut, read_mapping, read_yaml, short
from magdi_ray.config.run import RunConfig
from magdi_ray.errors import ConfigError

SectionType = TypeVar("SectionType", bound=Section)

MOST_TOLD = 30
"""Mistakes that are told at once."""

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file and apply `a.b=c` overrides.

    `${NAME}` and `${NAME:-default}` in text values are taken from the environment.

    Raises:
        ConfigError: the file is missing or malformed, or a value breaks a rule.
    """
    ready = "Ready-made ones are in configs/."
    data = read_mapping(path, kind="configuration", example=ready, holds="of sections (name, task, ...)")
    for override in overrides:
        apply_override(data, override)
    return parse_config(expand(data, f"{path}, config"), str(path))


def parse_config(data: Any, where: str) -> RunConfig:
    """Validate plain data as a run's configuration. All errors are reported together."""
    return parse_section(data, where, RunConfig)


def parse_section(data: Any, where: str, model: type[SectionType]) -> SectionType:
    """Validate plain data as any section.

    Raises:
        ConfigError: everything that is wrong, a line each.
    """
    try:
        # JSON mode is what lets a strict model take a YAML list where it wants a tuple.
        text = json.dumps(data, default=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where} holds a value that cannot be read: {error}. Write it as a plain text or number.") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        told = explain(error.errors(include_url=False), model)
        lines = [f"  - {cut(line)}" for line in told[:MOST_TOLD]]
        lines += [f"  ... and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
        raise ConfigError("\n".join([f"{where} is not a valid configuration:", *lines])) from None


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one value in place: `distil.train.max_steps=200`, `debate.agents.0.sampling.temperature=0.7`."""
    path, found, text = override.partition("=")
    if not found or not path.strip():
        raise ConfigError(f"--set needs NAME=VALUE, found {short(override)}. Example: --set distil.train.max_steps=200")
    keys = path.strip().split(".")
    if len(keys) > MOST_DEEP:
        raise ConfigError(f"--set {cut(override)}: a name has at most {MOST_DEEP} parts, found {len(keys)}. Name a key there is.")
    target: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        value = read_yaml(text, f"--set {cut(path)}") if last else None
        try:
            target = _step(target, key, value, last)
        except (ValueError, IndexError, TypeError):
            spot = ".".join(keys[:depth]) or "the configuration"
            held = f"a list of {len(target)}, counted from 0" if isinstance(target, list) else f"the value {short(target)}"
            raise ConfigError(f"--set {cut(override)}: {spot} is {held}; it has no {key!r}. Name what it has.") from None


def _step(target: Any, key: str, value: Any, last: bool) -> Any:
    if isinstance(target, list):
        if last:
            target[int(key)] = value
        return target[int(key)]
    if not isinstance(target, dict):
        raise TypeError(key)
    if last:
        target[key] = value
    elif target.get(key) is None:
        target[key] = {}
    return target[key]


def expand(value: Any, where: str) -> Any:
    """Replace `${NAME}` by the environment's value in every text of a nested structure."""
    if isinstance(value, dict):
        return {key: expand(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, f"{where}.{index}") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"], match["default"])
        if found is None:
            raise ConfigError(
                f"{where}: environment variable {match['name']} is not set. Set it, or write ${{{match['name']}:-default}}."
            )
        return found

    return VARIABLE.sub(lookup, value)


def explain(errors: Iterable[ErrorDetails], model: type[BaseModel]) -> list[str]:
    """One line an error: field, found value, rule; for an unknown key, the nearest known one."""
    errors = one_branch(list(errors), model)
    lines: list[str] = []
    for error in errors:
        if error["type"] == "too_short" and any(e["loc"][: len(error["loc"])] == error["loc"] for e in errors if e is not error):
            continue  # pydantic counts an item that failed as absent
        where = written_path(model, error["loc"])
        if error["type"] == "extra_forbidden":
            known = known_keys(model, error["loc"][:-1])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            lines.append(f"{where}: unknown key; {hint}")
        elif error["type"] == "missing":
            lines.append(f"{where}: required, but not given")
        elif error["type"] in (UNQUOTED, ELSEWHERE):
            lines.append(f"{where}: {error['msg']}")
        elif error["type"] == "union_tag_invalid":
            lines.append(_unknown_kind(where, error["ctx"]))
        else:
            lines.append(_broken_rule(where, error))
    return list(dict.fromkeys(lines))


def _broken_rule(where: str, error: ErrorDetails) -> str:
    """A rule over a whole section says itself what it found; one over a single value does not."""
    message, found = error["msg"].removeprefix("Value error, "), error.get("input")
    message = message.replace("Input should be a valid array", "must be a list")
    message = message.replace("Input should be a valid dictionary or object to extract fields from", "must be a section")
    if error["type"] == "value_error" and isinstance(found, dict):
        return message if where == WHOLE else f"{where}: {message}"
    return f"{where}: {message} (found {short(found)})"


WHOLE = "the whole"

ELSEWHERE = "no kind of value that may stand here"
"""Type of the error that `one_branch` makes of several."""

BRANCH = re.compile(r"int|float|bool|str|[a-z-]+\[.*\]")
"""What pydantic adds to a location for each kind of value a field may hold: "tuple[int, int]", "function-after[..., Recipe]"."""

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def one_branch(errors: list[ErrorDetails], model: type[BaseModel]) -> list[ErrorDetails]:
    """Errors without pydantic's names for the branches of a union, of which it reports all.

    Kept is the branch whose kind of value was given (of a recipe: the section, if one was written out); where there is none,
    one error tells all kinds that may stand there.
    """
    unions: dict[tuple[int | str, ...], dict[str, list[ErrorDetails]]] = {}
    settled: list[ErrorDetails | tuple[int | str, ...]] = []
    for error in errors:
        depth = next((d for d in range(len(error["loc"])) if _is_branch(error, d, model)), None)
        if depth is None:
            settled.append(error)
            continue
        place, branch = error["loc"][:depth], str(error["loc"][depth])
        if place not in unions:
            settled.append(place)
        inner: Any = error | {"loc": place + error["loc"][depth + 1 :]}
        unions.setdefault(place, {}).setdefault(branch, []).append(inner)
    found: list[ErrorDetails] = []
    for item in settled:
        if isinstance(item, tuple):
            found += one_branch(_chosen(item, unions[item], model), model)
        else:
            found.append(item)
    return found


def _is_branch(error: ErrorDetails, depth: int, model: type[BaseModel]) -> bool:
    part, last = error["loc"][depth], depth == len(error["loc"]) - 1
    if not isinstance(part, str) or (last and error["type"] in ("extra_forbidden", "missing")):
        return False
    known = _sections_at(model, error["loc"][:depth])
    if any(part in section.model_fields or part in _tags(section) for section in known):
        return False
    return BRANCH.fullmatch(part) is not None or part in _models_below(known)


def _chosen(place: tuple[int | str, ...], branches: dict[str, list[ErrorDetails]], model: type[BaseModel]) -> list[ErrorDetails]:
    fitting = [errors for errors in branches.values() if not any(e["loc"] == place and _is_other_kind(e) for e in errors)]
    if fitting:
        return [error for errors in fitting for error in errors]
    first = next(iter(branches.values()))[0]
    kinds = [_kind(branch, errors[0], known_keys(model, (*place, branch))) for branch, errors in branches.items()]
    message = f"must be {' or '.join(kinds)} (found {short(first['input'])})"
    named = next((e["ctx"]["expected"] for errors in branches.values() for e in errors if e["type"] == "literal_error"), None)
    if named is not None and isinstance(first["input"], str):
        others = [_kind(b, e[0], known_keys(model, (*place, b))) for b, e in branches.items() if e[0]["type"] != "literal_error"]
        message = "; or ".join((_not_among(first["input"], re.findall(r"'([^']+)'", named)), *others))
    made: Any = first | {"type": ELSEWHERE, "loc": place, "msg": message}
    return [made]


def _is_other_kind(error: ErrorDetails) -> bool:
    """Whether a branch was not meant at all: another type of value, or none of its words."""
    return error["type"].endswith("_type") or error["type"] == "literal_error"


def _kind(branch: str, error: ErrorDetails, keys: Sequence[str]) -> str:
    """What a branch of a union takes, in words."""
    if error["type"] == "literal_error":
        return f"one of {error['ctx']['expected'].replace(' or ', ', ')}"
    if error["type"] == "model_type":
        return f"a section of its own ({', '.join(keys)})"
    if branch.startswith("tuple["):
        items = branch[len("tuple[") : -1].split(", ")
        words = KINDS.get(items[0], "an item").removeprefix("a ")
        return f"a list of {words}s" if items[-1] == "..." else f"a list of {len(items)} {words}s"
    return KINDS.get(branch, branch.replace("dict[str,str]", "a mapping of texts"))


def _not_among(found: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Known" if near else "known"
    return f"there is no {found!r}; {hint}: {', '.join(known)}"


def _models_below(sections: Iterable[type[BaseModel]]) -> set[str]:
    return {m.__name__ for s in sections for field in s.model_fields.values() for m in _models_in(field.annotation)}


def _unknown_kind(where: str, context: dict[str, Any]) -> str:
    """A section whose `name` or `type` names no known kind."""
    known = re.findall(r"'([^']+)'", context["expected_tags"])
    near = difflib.get_close_matches(str(context["tag"]), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{where}.{context['discriminator'].strip(chr(39))}: there is no {context['tag']!r}; {hint}"


def written_path(model: type[BaseModel], location: Sequence[int | str]) -> str:
    """A pydantic location as the user wrote it: without the tags of unions."""
    parts = [
        str(part)
        for depth, part in enumerate(location)
        if isinstance(part, int) or depth == len(location) - 1 or part in known_keys(model, location[:depth])
    ]
    return ".".join(parts) or WHOLE


def known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the section at a location of a pydantic error (which names list indices and union tags too)."""
    return sorted({name for section in _sections_at(model, location) for name in section.model_fields})


def _sections_at(model: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        deeper = [m for c in candidates if part in c.model_fields for m in _models_in(c.model_fields[str(part)].annotation)]
        tagged = [m for m in candidates if part == m.__name__ or part in _tags(m)]
        candidates = deeper or tagged or candidates
    return candidates


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


def _tags(model: type[BaseModel]) -> set[str]:
    return {
        value
        for name in ("name", "type")
        if name in model.model_fields
        for value in getattr(model.model_fields[name].annotation, "__args__", ())
        if isinstance(value, str)
    }


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML; reading it back gives an equal configuration."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def config_schema() -> dict[str, Any]:
    """JSON schema of the whole configuration, for editors."""
    schema = RunConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""Configurations: any valid one survives being written, a misspelt key is always named, and `--set` says what YAML says."""

from __future__ import annotations

import copy
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from magdi_ray.config import RunConfig, content_hash, load_config, parse_config
from magdi_ray.config.load import apply_override, dump_config
from magdi_ray.config.reading import read_yaml
from magdi_ray.errors import ConfigError
from tests.properties.rules import rule

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["1e-3", "null", "yes", "2001-01-01", "a: b", "- x", "\u2028", "{", "x" * 200, " "]
)
NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)


def values(annotation: Any, rules: list[Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one a kind of type
    """Values of a field's type that keep the rules of its bounds; other rules may refuse them."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return st.none()
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (Union, UnionType):
        return st.one_of(*(values(part, rules) for part in inside))
    if origin is tuple:
        if inside[-1] is ...:
            return st.lists(values(inside[0], []), min_size=1, max_size=3).map(tuple)
        return st.tuples(*(values(part, []) for part in inside))
    if origin is dict:
        return st.dictionaries(NAMES, TEXTS, max_size=3)
    if hasattr(annotation, "__metadata__"):
        return values(inside[0], [*rules, *annotation.__metadata__])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sections(annotation)
    return _plain(annotation, rules)


def _plain(annotation: Any, rules: list[Any]) -> st.SearchStrategy[Any]:
    bounds = {name: getattr(rule, name) for rule in rules for name in ("ge", "gt", "le", "lt", "pattern") if hasattr(rule, name)}
    low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", bounds.get("lt", 2**40))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(int(low) + ("gt" in bounds), int(high) - ("lt" in bounds))
    if annotation is float:
        return st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds, allow_nan=False)
    if annotation is str:
        return NAMES if bounds.get("pattern") else TEXTS.filter(bool)
    return st.nothing()


@cache
def shipped(path: Path) -> RunConfig:
    """A configuration of those that come with the package."""
    return load_config(path)


@st.composite
def sections(draw: st.DrawFn, kind: type[BaseModel]) -> BaseModel:
    """A section in which a few fields are given, those that are required among them."""
    given_ = {}
    optional = [name for name, held in kind.model_fields.items() if not held.is_required()]
    chosen = draw(st.sets(st.sampled_from(optional), max_size=4)) if optional else set()
    for name, held in kind.model_fields.items():
        if held.is_required() or name in chosen:
            given_[name] = draw(values(held.annotation, held.metadata))
    try:
        return kind(**given_)
    except (ValidationError, TypeError):
        reject()


@st.composite
def configurations(draw: st.DrawFn) -> RunConfig:
    """A shipped configuration with a section or two of another kind."""
    config = shipped(draw(st.sampled_from(SHIPPED)))
    names = [name for name in RunConfig.model_fields if name not in ("debate", "task", "graph")]
    changed = {}
    for name in draw(st.sets(st.sampled_from(names), min_size=1, max_size=2)):
        held = RunConfig.model_fields[name]
        changed[name] = draw(values(held.annotation, held.metadata))
    try:
        return RunConfig.model_validate({**{n: getattr(config, n) for n in RunConfig.model_fields}, **changed})
    except ValidationError:
        reject()


@pytest.fixture(autouse=True, scope="module")
def variables() -> Iterator[None]:
    """What the shipped configurations take from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAGDI_DATA", "/data")
        yield


@rule(20)
@given(configurations())
def test_a_configuration_is_read_as_it_was_written(config: RunConfig) -> None:
    again = parse_config(read_yaml(dump_config(config), "here"), "here")
    assert again == config
    assert content_hash(again) == content_hash(config)
    assert dump_config(again) == dump_config(config)


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], BaseModel]]:
    """Every section of a configuration, with its place."""
    if isinstance(value, BaseModel):
        yield path, value
        for name in type(value).model_fields:
            yield from places(getattr(value, name), (*path, name))
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from places(item, (*path, str(place)))


def at(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data


@rule(120)
@given(st.data())
def test_a_misspelt_key_is_refused_anywhere_and_the_nearest_is_named(data: st.DataObject) -> None:
    config = shipped(data.draw(st.sampled_from(SHIPPED)))
    path, section = data.draw(st.sampled_from(list(places(config))))
    name = data.draw(st.sampled_from(sorted(type(section).model_fields)))
    letter, cut = data.draw(st.sampled_from(string.ascii_lowercase)), data.draw(st.integers(1, len(name)))
    wrong = name[:cut] + letter + name[cut:]
    assume(wrong not in type(section).model_fields)
    plain = config.model_dump(mode="json")
    at(plain, path)[wrong] = 1
    with pytest.raises(ConfigError) as told:
        parse_config(plain, "here")
    where = ".".join((*path, wrong))
    [line] = [line for line in str(told.value).splitlines() if f"  - {where}: unknown key" in line]
    assert "did you mean" in line
    assert any(repr(known) in line for known in type(section).model_fields)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, value
    held = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in held:
        if "." not in str(name) and str(name).strip() == str(name) and str(name):
            yield from leaves(item, (*path, str(name)))


@rule(40)
@given(st.data())
def test_setting_a_value_gives_what_writing_it_gives(data: st.DataObject) -> None:
    one, other = (data.draw(configurations()).model_dump(mode="json") for _ in range(2))
    path, value = data.draw(st.sampled_from(list(leaves(other))))
    try:
        at(one, path)
    except (KeyError, IndexError, TypeError, ValueError):
        return
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n")
    expected, found = copy.deepcopy(one), one
    target = at(expected, path[:-1])
    target[int(path[-1]) if isinstance(target, list) else path[-1]] = value
    apply_override(found, f"{'.'.join(path)}={written}")
    assert found == expected

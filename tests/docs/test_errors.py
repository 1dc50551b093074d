"""The page of errors: read from the code, whole, and with a cure for every message."""

from __future__ import annotations

import ast

import pytest

from magdi_ray.errors import MagdiError
from tests.docs.errors import GROUPS, PACKAGE, PAGE, group_of, own_cure, page, split, without_cure
from tests.docs.messages import Module, find_messages, texts

MESSAGES = find_messages(PACKAGE)


def said(code: str) -> list[str]:
    """The texts of the last expression of a module."""
    tree = ast.parse(code)
    last = tree.body[-1]
    assert isinstance(last, ast.Expr)
    return texts(last.value, None, Module("x.py", tree))


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.docs.errors --write"


def test_every_message_says_what_to_do_or_belongs_to_a_group_that_does() -> None:
    assert [f"{message.module}:{message.line} {message.text}" for message in without_cure(MESSAGES)] == []


def test_every_message_stands_in_a_group_and_no_group_is_empty() -> None:
    assert {group_of(message).title for message in MESSAGES} == {group.title for group in GROUPS}


def test_errors_of_every_class_are_found() -> None:
    known = {message.kind for message in MESSAGES}
    assert {error.__name__ for error in MagdiError.__subclasses__()} <= known
    assert {"ApiError", "RecordError", "ValueError"} <= known


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("f'No file at {path}.'", ["No file at <path>."]),
        ("f'found {len(names)}: {names!r}'", ["found <count of names>: '<names>'"]),
        ("'one' if x else 'other'", ["one", "other"]),
        ("todo = 'Give one.'\nf'{place}: {todo}'", ["<place>: Give one."]),
        ("def why(x):\n    return f'bad {x}'\nwhy(1)", ["bad <x>"]),
    ],
)
def test_a_message_is_read_with_its_placeholders(code: str, expected: list[str]) -> None:
    assert said(code) == expected


@pytest.mark.parametrize(
    ("text", "cause", "cure"),
    [
        ("No file at <path>. Check the path.", "No file at <path>.", "Check the path."),
        ("x cannot be used; choose y.", "x cannot be used", "Choose y."),
        ("It broke: <error> Name the model.", "It broke: <error>", "Name the model."),
        ("It broke.", "It broke.", ""),
    ],
)
def test_what_to_do_is_told_from_what_is_wrong(text: str, cause: str, cure: str) -> None:
    assert split(text) == (cause, cure)


def test_a_message_that_only_describes_is_noticed() -> None:
    message = next(message for message in MESSAGES if message.kind == "ConfigError" and own_cure(message))
    silent = type(message)(message.module, 1, "ConfigError", "It is so.")
    assert without_cure([message, silent]) == [silent]

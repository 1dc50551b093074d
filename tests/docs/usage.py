"""Whether a command line of `magdi` means something to the real application: its verb, its options, their values."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer

from magdi_ray.cli import app

ENDS = {";", "&&", "||", "|", "&", ">", "<", ">>", "2>"}
"""Where a command's own arguments end."""

WRONG = typer.BadParameter.__bases__[0]
"""What the application's parser raises: a usage error."""


def application() -> Any:
    """The command `magdi` as it is parsed."""
    return typer.main.get_command(app)


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb and sub-verb with its command: (("graph", "show"), ...)."""
    for name, one in (command or application()).commands.items():
        if hasattr(one, "commands"):
            yield from verbs(one, (*path, name))
        else:
            yield (*path, name), one


def magdi_calls(command: str) -> Iterator[list[str]]:
    """The arguments of every call of `magdi` in a shell command."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    words = list(lexer)
    for place, word in enumerate(words):
        if word == "magdi" and all(one in ENDS or "=" in one for one in words[max(0, place - 1) : place]):
            rest = words[place + 1 :]
            end = next((at for at, one in enumerate(rest) if one in ENDS), len(rest))
            yield rest[:end]


def fault(arguments: list[str], *, mentioned: bool = False) -> str:
    """Why the application refuses these arguments; "" where it does not. Nothing is run.

    `mentioned`: they stand in a sentence, where a verb or an option is named without all that belongs to it.
    """
    command, rest = application(), list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"there is no verb {name!r}"
        command = command.commands[name]
    if mentioned:
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "--version"}
        lost = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
        return f"there is no option {lost[0]}" if lost else ""
    try:
        command.make_context("magdi", rest)
    except typer.Exit:  # --help, --version
        return ""
    except WRONG as error:
        return str(error.format_message())
    return ""

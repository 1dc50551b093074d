"""`magdi keys`: API keys of served students. A key is shown once, when it is made; only its SHA-256 is kept."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from magdi_ray.cli.options import option, out
from magdi_ray.errors import ConfigError

keys_app = typer.Typer(no_args_is_help=True, help="Make API keys for served students.")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; stands in the access log.", show_default=False)],
    file: Annotated[Path | None, option(help="Append it to this key file (`api_keys_file`), made where it is missing.")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, show_default=False, help="Requests a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, show_default=False, help="Tokens a minute.")] = None,
) -> None:
    """Make a key and print it, this once. Example: magdi keys new alice --file keys.yaml --rpm 60"""
    from magdi_ray.serving.keys import digest, new_key

    if not NAME.fullmatch(name):
        raise ConfigError(f"A key's name is letters, digits, '_', '.' and '-', at most 64; found {name!r}.")
    key = new_key()
    limits = "".join(f", {unit}: {value}" for unit, value in (("rpm", rpm), ("tpm", tpm)) if value is not None)
    # Quoted: a name such as 007 or `on` would be read as something else than text.
    entry = f'- {{name: "{name}", sha256: "{digest(key)}"{limits}}}'
    if file is not None:
        append(file, name, entry)
        out.print(f"added to {file}", soft_wrap=True, markup=False)
    else:
        out.print("keys:", f"  {entry}", sep="\n", soft_wrap=True, markup=False)
        if not limits:
            out.print(f"or, in an environment variable: {name}:{digest(key)}", soft_wrap=True, markup=False)
    out.print(f"the key, shown only now: {key}", soft_wrap=True, markup=False)


@keys_app.command("hash")
def hash_key() -> None:
    """Print the SHA-256 of a key read from standard input, never from the command line. Example: magdi keys hash < key.txt"""
    from magdi_ray.serving.keys import digest

    key = typer.prompt("Key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise ConfigError("A key is required on standard input; found an empty line.")
    print(digest(key.strip()))


def append(file: Path, name: str, entry: str) -> None:
    """Add an entry to a key file: all of it or nothing, readable by its owner alone where it is new.

    Raises:
        ConfigError: the file is no key file, has this name already, or is not written so that a line can be added.
    """
    from magdi_ray.serving.keys import read_keys

    try:
        text = file.read_text(encoding="utf-8") if file.exists() else "keys:\n"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: a readable file of API keys is required: {error}") from None
    before = read_keys(text, str(file))
    if name in {key.name for key in before}:
        raise ConfigError(f"{file}: there is a key called {name} already. Take another name, or remove that entry first.")
    body = text if text.endswith("\n") or not text else text + "\n"
    indents = re.findall(r"^( *)- ", body, re.MULTILINE)
    extended = f"{body}{indents[-1] if indents else '  '}{entry}\n"
    try:
        fits = read_keys(extended, str(file))[:-1] == before
    except ConfigError:
        fits = False
    if not fits:
        raise ConfigError(
            f"{file}: no line can be added, for `keys:` is not a list of lines at the file's end. Write it so, and repeat."
        )
    write(file, extended)


def write(file: Path, text: str) -> None:
    """Replace a file, so that whoever reads it meanwhile sees the old or the new one. Its mode stays; a new one's is 0600."""
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o600
    target = file.resolve()
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}. Name another --file.") from None

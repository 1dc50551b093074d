"""The files a report is written to, tried before anything is computed: nothing but an earlier report is ever replaced."""

from __future__ import annotations

import tempfile
from pathlib import Path

from magdi_ray.errors import ConfigError

HEAD = 16384
"""Bytes of a page in which its title stands."""


def check_outputs(page: Path, markdown: Path | None) -> None:
    """See that both files can be written, and that no file of anybody's is lost. Makes the directories they go to.

    Raises:
        ConfigError: one of them cannot be written, is no file, holds something else, or both are the same.
    """
    if markdown is not None and page.resolve() == markdown.resolve():
        raise ConfigError(f"--out and --markdown must be two files; found {page} for both. Name another one.")
    _check(page, "--out")
    if page.exists() and not is_page(page):
        raise ConfigError(f"--out may replace an earlier report; {page} exists and is none. Name another file with --out.")
    if markdown is not None:
        _check(markdown, "--markdown")
        if markdown.exists() and markdown.suffix.lower() != ".md":
            raise ConfigError(f"--markdown may replace a .md file; {markdown} exists and is named otherwise. Name another one.")


def is_page(path: Path) -> bool:
    """Whether a file begins as `write_page` begins it."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    return head.startswith(b"<!doctype html>") and b"magdi_ray report</title>" in head


def _check(path: Path, option: str) -> None:
    try:
        if path.is_dir():
            raise ConfigError(f"{option} names the file to write, {path} is a directory. Name a file in it.")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{option} names the file to write, {path} is a device or a pipe. Name another one.")
        if (above := next(one for one in path.absolute().parents if one.exists())) and not above.is_dir():
            raise ConfigError(f"{option} {path} cannot be written: {above} is no directory. Name another file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be written: {error.strerror or error}. Name another file.") from error

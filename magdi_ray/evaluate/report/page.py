"""The report's page: its data, its questions, style and script in one HTML file that needs nothing else.

The page computes no result: it shows what it is given. The figures (`data`) are embedded as JSON; the questions are embedded
in gzipped, base64-coded blocks of `CHUNK` each, which the browser inflates only when a question of theirs is looked at:

    <script type="text/plain" id="chunk-0">H4sIAAAAAAAC/...</script>

A policy in the page's head lets the browser run and fetch nothing but what was written here, so that a reply which looks like
HTML stays a text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from magdi_ray.looks import SHEETS, sheet

CHUNK = 100
"""Questions a block: what is inflated to look at one of them."""

STYLES = ("base.css", "tables.css", "plots.css", "viewer.css")
SCRIPTS = (
    *("dom.js", "format.js", "plot.js", "labels.js", "table.js", "headline.js", "frontier.js", "scores.js", "differences.js"),
    *("lines.js", "curves.js", "rounds.js", "influence.js", "calibration.js", "labelling.js", "cost.js"),
    *("questions.js", "finder.js", "graph.js", "reading.js", "viewer.js", "main.js"),
)
"""In the order in which they need each other; behind what all pages share (`looks`)."""

INDEXED = ("id", "text", "set", "kinds", "gold")


def write_page(
    path: Path, data: Mapping[str, Any], questions: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()
) -> None:
    """Write the page, so that a reader sees the old file or the whole new one.

    `questions` are pairs of an index entry (id, text, set, kinds as a bit mask, gold) and the question's detail, read once and
    held `CHUNK` at a time. How many there are, of which kind and in how many blocks, is counted here and replaces what
    `data["viewer"]` says; where that is None there is no viewer and no question is read.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pages = _Blocks(data, questions)
    styles, scripts = "\n".join([*map(sheet, SHEETS), _joined(STYLES)]), _joined(SCRIPTS)
    pieces = _template().generate(
        title=data.get("title") or "report",
        policy=_policy(styles, scripts),
        styles=Markup(styles),  # noqa: S704 - the package's own file
        scripts=Markup(scripts),  # noqa: S704 - the package's own files
        blocks=pages.blocks(),
        data=pages.data,
    )
    try:
        with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(pieces)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Blocks:
    """The embedded data. What was counted is known once `blocks` has run out, so `data` is asked for after that."""

    def __init__(self, data: Mapping[str, Any], questions: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        self._data = data
        self._viewer: Mapping[str, Any] | None = data.get("viewer")
        self._questions = questions if self._viewer else ()
        self._index: dict[str, list[Any]] = {name: [] for name in INDEXED}

    def blocks(self) -> Iterator[tuple[str, Markup]]:
        """Name and text of every block: the details in chunks, then the index."""
        chunk: list[Mapping[str, Any]] = []
        written = 0
        for entry, detail in self._questions:
            for name in INDEXED:
                self._index[name].append(entry.get(name))
            chunk.append(detail)
            if len(chunk) == CHUNK:
                yield f"chunk-{written}", _packed(chunk)
                chunk, written = [], written + 1
        if chunk:
            yield f"chunk-{written}", _packed(chunk)
        if self._index["id"]:
            yield "index", _packed(self._index)

    def data(self) -> Markup:
        """The figures as JSON that no HTML parser mistakes for a tag."""
        viewer = None
        if self._viewer and (count := len(self._index["id"])):
            kinds = [{**kind, "count": self._of_kind(bit)} for bit, kind in enumerate(self._viewer["kinds"])]
            viewer = {**self._viewer, "count": count, "chunk": CHUNK, "chunks": math.ceil(count / CHUNK), "kinds": kinds}
        return Markup(_json({**self._data, "viewer": viewer}).replace("<", "\\u003c"))  # noqa: S704 - no "<" is left

    def _of_kind(self, bit: int) -> int:
        return sum(mask >> bit & 1 for mask in self._index["kinds"])


def _packed(value: Any) -> Markup:
    """Gzip and base64; the same value gives the same bytes."""
    return Markup(base64.b64encode(gzip.compress(_json(value).encode("ascii"), mtime=0)).decode("ascii"))  # noqa: S704 - base64


def _json(value: Any) -> str:
    """JSON in ASCII, so that half of a surrogate pair in a reply is no error."""
    return json.dumps(_known(value), separators=(",", ":"), allow_nan=False)


def _known(value: Any) -> Any:
    """The value with null for every number that JSON has no word for: a diverged loss, a mean of nothing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return value


def _policy(styles: str, scripts: str) -> str:
    """What the page may do: apply this style and run this script, known by their hashes; nothing else."""
    allowed = {"script-src": scripts, "style-src": styles}
    parts = [
        f"{name} 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for name, text in allowed.items()
    ]
    return "; ".join(["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'", *parts])


@cache
def _joined(names: Sequence[str]) -> str:
    return "\n".join((files(__package__) / "assets" / name).read_text(encoding="utf-8").strip() for name in names) + "\n"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True)
    return environment.from_string((files(__package__) / "assets" / "template.html").read_text(encoding="utf-8"))

"""Rows from anywhere: where each row of a question file stands, and what it holds. Knows nothing of tasks or questions.

A source is a `.jsonl`, `.json`, `.csv` or `.parquet` file, a directory written by `datasets.save_to_disk`, the name of a Hugging
Face dataset, or a directory of `.json` files that each hold one row, as MATH is published. Of a saved directory and a hub dataset
a split may be named behind a colon (`tau/commonsense_qa:validation`). A `.json` file holds an array of rows, an object of which
exactly one value is a list of objects (`{"metadata": {...}, "examples": [...]}`), or lines of JSON. Three rows of a CSV file; a
field in quotes may hold line breaks, and the third row is the one of line 5:

    id,question,answer
    q1,"Janet has 16 eggs
    and eats 3. How many are left?",#### 13
    q2,How many legs have 2 cats?,#### 8
    ,"How much is 2 + 2?",#### 4

Rows are drawn one after the other: nothing holds all of them (of a `.json` array, its text is held).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from magdi_ray.errors import ConfigError, TaskError

ROWS_PER_BATCH = 1024
HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?::[\w.-]+)?")
EXCERPT = 80
LONGEST = 400
"""Characters that are repeated of what was found, at most."""
BLANKS = re.compile(r"\s*")
DECODER = json.JSONDecoder()


class Place(NamedTuple):
    """Where a row stands: "data/train.csv, line 2"."""

    source: str
    unit: str
    """"line" where a person can look it up in an editor, "file" where every file holds one, else "row"."""
    number: int
    """From 1; of a record over several lines, its first."""

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.number}"


Row = Mapping[str, Any] | ValueError
"""The fields of a row; the error, in words, where it cannot be read. A blank line is a row without fields."""


def read_rows(source: str, *, split: str, subset: str | None = None) -> Iterator[tuple[Place, Row]]:
    """The rows of a source in order. Blank lines at the end of a file are no rows.

    `split` is the split taken from a directory or hub dataset whose name says none, `subset` a hub dataset's configuration.

    Raises:
        TaskError: the source is missing, of an unknown kind, or cannot be read any further.
        ConfigError: it takes the package `datasets`, which is not installed.
    """
    local = local_path(source)
    path, suffix = Path(local), Path(local).suffix.lower()
    if path.is_file():
        if suffix not in READERS:
            raise TaskError(f"{source}: a question file ends in one of {', '.join(READERS)}; found {suffix or 'no ending'!r}.")
        yield from _without_blank_end(_in_words(source, READERS[suffix](path)))
    elif path.is_dir() and not is_saved(path) and any(path.rglob("*.json")):
        yield from _folder(path)
    elif path.is_dir():
        yield from _from_dataset(source, _saved_dataset(path, source[len(local) + 1 :], split))
    elif suffix in READERS or not HUB_NAME.fullmatch(source):
        raise TaskError(f"a question file is required, found nothing at {source}. Check the path.")
    else:
        yield from _from_dataset(source, _hub_dataset(source, subset, split))


def local_path(source: str) -> str:
    """The file or directory a source names, without the split behind it; what is not on this machine as it is."""
    directory, colon, _ = source.rpartition(":")
    return directory if colon and not Path(source).exists() and Path(directory).is_dir() else source


def is_saved(directory: Path) -> bool:
    """Whether a directory was written by `datasets.save_to_disk`."""
    return any((directory / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _in_words(source: str, rows: Iterator[tuple[Place, Row]]) -> Iterator[tuple[Place, Row]]:
    last: Place | None = None
    after = "its beginning"
    try:
        for place, row in rows:
            last = place
            yield place, row
    except (csv.Error, OSError, ValueError, RecursionError, NotImplementedError, LookupError, AttributeError) as error:
        after = f"{last.unit} {last.number}" if last else after
        remedy = "save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else "repair the file"
        required = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"a {Path(source).suffix} file that can be read"
        told = f"{source}, after {after}: required {required}; found {str(error)[:LONGEST]}. To go on: {remedy}."
        raise TaskError(told) from error


def _without_blank_end(rows: Iterator[tuple[Place, Row]]) -> Iterator[tuple[Place, Row]]:
    blank: list[tuple[Place, Row]] = []
    for place, row in rows:
        if isinstance(row, Mapping) and not row:
            blank.append((place, row))
            continue
        yield from blank
        blank.clear()
        yield place, row


def _json_lines(path: Path) -> Iterator[tuple[Place, Row]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            yield Place(str(path), "line", number), _json_row(line) if line.strip() else {}


def _json_row(text: str) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(f"required one JSON object per line; found {text[:EXCERPT]!r} ({error})")
    return _object(row)


def _object(row: object) -> Row:
    return row if isinstance(row, dict) else ValueError(f"required a JSON object; found {repr(row)[:EXCERPT]}")


def _json(path: Path) -> Iterator[tuple[Place, Row]]:
    text = path.read_text(encoding="utf-8-sig")
    start = _past_blanks(text, 0)
    if start == len(text):
        return
    if text[start] == "{":
        held, end = DECODER.raw_decode(text, start)
        if (rest := _past_blanks(text, end)) < len(text):
            if text[rest] != "{":
                raise ValueError(f"{text[rest : rest + EXCERPT]!r} behind the object")
            yield from _json_lines(path)
            return
        lists = [name for name, value in held.items() if value and isinstance(value, list) and all(map(_is_object, value))]
        if len(lists) != 1:
            found = f"an object with {len(lists)} lists of objects, {', '.join(held)[:EXCERPT]!r}"
            raise ValueError(f"{found}, instead of a JSON array, an object with one, or lines of JSON")
        start = _value_of(text, start, lists[0])
    elif text[start] != "[":
        raise ValueError(f"{text[start : start + EXCERPT]!r} instead of a JSON array")
    yield from _json_array(path, text, start)


def _json_array(path: Path, text: str, start: int) -> Iterator[tuple[Place, Row]]:
    line, counted = 1, 0
    position = _past_blanks(text, start + 1)
    while not text.startswith("]", position):
        row, end = DECODER.raw_decode(text, position)
        line, counted = line + text.count("\n", counted, position), position
        yield Place(str(path), "line", line), _object(row)
        position = _past_blanks(text, end)
        if text.startswith(",", position):
            position = _past_blanks(text, position + 1)
        elif not text.startswith("]", position):
            raise ValueError(f"{text[position : position + EXCERPT]!r} where the array goes on or ends")


def _value_of(text: str, start: int, name: str) -> int:
    """Where the value of a name begins in an object that is known to be sound and begins at `start`."""
    position = start
    while True:
        held, end = DECODER.raw_decode(text, _past_blanks(text, position + 1))
        value = _past_blanks(text, _past_blanks(text, end) + 1)
        if held == name and text[value] == "[":  # of a name that stands there twice, the last counts
            return value
        position = _past_blanks(text, DECODER.raw_decode(text, value)[1])


def _past_blanks(text: str, position: int) -> int:
    return BLANKS.match(text, position).end()  # type: ignore[union-attr]  # it matches anywhere, if only nothing


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _csv(path: Path) -> Iterator[tuple[Place, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise ValueError(f"a column name twice in {names}"[:LONGEST])
        while True:
            number = reader.line_num + 1
            if (fields := next(reader, None)) is None:
                return
            yield Place(str(path), "line", number), _csv_row(names, fields)


def _csv_row(names: list[str], fields: list[str]) -> Row:
    if fields and len(fields) != len(names):
        return ValueError(f"required {len(names)} fields, as in the file's first line; found {len(fields)}")
    return {name: field or None for name, field in zip(names, fields, strict=True)} if fields else {}


def _parquet(path: Path) -> Iterator[tuple[Place, Row]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as parquet:
        names = _class_names((parquet.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        for batch in parquet.iter_batches(ROWS_PER_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield Place(str(path), "row", number), _named(row, names)


def _class_names(noted: bytes) -> dict[str, list[str]]:
    """The names of each column of classes, as `datasets` notes them in a parquet file."""
    features = json.loads(noted).get("info", {}).get("features", {})
    return {column: held["names"] for column, held in features.items() if "names" in held}


def _named(row: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row with classes by name in place of their numbers; -1, which is no class, is nothing."""
    for column, held in names.items():
        if isinstance(number := row.get(column), int):
            row[column] = held[number] if number >= 0 else None
    return row


def _folder(directory: Path) -> Iterator[tuple[Place, Row]]:
    files = sorted(directory.rglob("*.json"), key=lambda path: (path.parent, path.stem.zfill(20)))
    for number, path in enumerate(files, start=1):
        yield Place(str(path), "file", number), _json_row(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))


READERS: dict[str, Callable[[Path], Iterator[tuple[Place, Row]]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""The files by their ending."""


def _datasets(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(f'{source} is read with the package datasets: pip install "magdi-ray[datasets]".') from None
    return datasets


def _saved_dataset(directory: Path, named: str, split: str) -> Any:
    datasets = _datasets(str(directory))
    if not is_saved(directory):
        raise TaskError(
            f"{directory}: a question file, a directory written by datasets.save_to_disk or one of .json files is required, "
            "found a directory without such files. Name one of its files."
        )
    try:
        found = datasets.load_from_disk(str(directory))
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{directory}: this directory of datasets cannot be read ({error}). Save it again.") from error
    if not isinstance(found, dict):
        return found
    if (wanted := named or split) not in found:
        raise TaskError(f"{directory}: there is no split {wanted!r}; it has {', '.join(found)}. Write {directory}:SPLIT.")
    return found[wanted]


def _hub_dataset(source: str, subset: str | None, split: str) -> Any:
    datasets = _datasets(source)
    name, _, named = source.partition(":")
    try:
        return datasets.load_dataset(name, subset, split=named or split)
    except Exception as error:  # the hub, the network and the dataset's own files each fail in classes of their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise TaskError(
            f"{source}: found nothing there, and no dataset of that name could be loaded from the Hugging Face hub, "
            f"subset {subset!r}, split {named or split!r} ({reason}). Check the name, task.subset, the split (write NAME:SPLIT) "
            "and the connection; without one, download the questions elsewhere and name the file."
        ) from error


def _from_dataset(source: str, dataset: Any) -> Iterator[tuple[Place, Row]]:
    names = {column: held.names for column, held in dataset.features.items() if hasattr(held, "names")}
    for number, row in enumerate(dataset, start=1):
        yield Place(source, "row", number), _named(row, names)

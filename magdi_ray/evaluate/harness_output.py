"""What the lm-evaluation-harness says and finds: its talk kept from the terminal, its results written and shown as a table."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

SUPERSEDED = "superseded"
FIGURE = len("0.5000 ± 0.2500")
"""Columns that a value and its standard error take: a longer name of a system is folded to them, not they."""


class Count:
    """Replies counted as they come: stands where the harness would keep a cache of them."""

    done = 0

    def add_partial(self, *_: Any) -> None:
        """One reply has come."""
        self.done += 1


class Log(logging.FileHandler):
    """The harness's own messages, into a file; none reaches the terminal while it is open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.warnings = 0
        self.last = ""
        """The last warning; errors are raised as well and need no second saying."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        if record.levelno >= logging.WARNING:
            self.warnings += 1
        if record.levelno == logging.WARNING:
            self.last = record.getMessage()
        super().emit(record)

    def __enter__(self) -> Log:
        logger = logging.getLogger("lm_eval")
        self._before = (logger.level, logger.propagate)
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        return self

    def __exit__(self, *failure: object) -> None:
        logger = logging.getLogger("lm_eval")
        logger.removeHandler(self)
        logger.level, logger.propagate = self._before
        self.close()


class Nowhere(io.TextIOBase):
    """A stream that drops what is written; rich, which shows our progress, writes past it to the real one."""

    def __init__(self, real: Any) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(real, "rich_proxied_file", real)

    def write(self, text: str) -> int:
        """Drop a text."""
        return len(text)


@contextmanager
def aside() -> Iterator[None]:
    """Keep bars and prints of other packages from the terminal."""
    with redirect_stdout(Nowhere(sys.stdout)), redirect_stderr(Nowhere(sys.stderr)):
        yield


@contextmanager
def without_git() -> Iterator[None]:
    """Keep the harness from noting the commit of the working directory, which is none of its own: where there is no repository,
    git says so on the terminal, past every stream of this process."""
    from lm_eval import evaluator

    known = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = known


@contextmanager
def replaced(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` to write into, renamed to it at the end; what stood there before moves to `superseded`."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp")
    fresh.mkdir()
    try:
        yield fresh
        if directory.exists():
            superseded = directory.parent / SUPERSEDED
            superseded.mkdir(exist_ok=True)
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            directory.rename(Path(tempfile.mkdtemp(prefix=f"{directory.name}-{stamp}-", dir=superseded)))
        fresh.rename(directory)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def write_results(directory: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Write the figures to `results.json` and every question with its replies to `samples_TASK.jsonl`; returns the figures."""
    from lm_eval.utils import handle_non_serializable

    figures = {key: value for key, value in results.items() if key != "samples"}
    text = json.dumps(figures, indent=1, default=handle_non_serializable, ensure_ascii=False)
    (directory / "results.json").write_text(text, encoding="utf-8")
    for task, rows in results["samples"].items():
        with (directory / f"samples_{task.replace('/', '-')}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n")
    return dict(json.loads(text))


def harness_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of some systems side by side, with their standard errors. `results`: system -> what `run_harness` returned."""
    first = next(iter(results.values()))
    limit = first["options"]["limit"]
    asked = f", the first {limit} questions of each task" if limit else ""
    title = f"lm-evaluation-harness {first['lm_eval_version']}{asked}"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.caption, table.caption_justify = "±: standard error", "left"
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("examples", "questions"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in results:
        table.add_column(name, justify="right", overflow="fold", min_width=FIGURE)
    for task, figures in first["results"].items():
        for key in (key for key in figures if "," in key and "_stderr," not in key):
            shots, counts = first["n-shot"].get(task, ""), first["n-samples"].get(task, {})
            values = [figure(one["results"][task], key) for one in results.values()]
            table.add_row(figures["alias"], metric_name(first, task, key), str(shots), str(counts.get("effective", "")), *values)
    return table


def metric_name(result: Mapping[str, Any], task: str, key: str) -> str:
    """ "exact_match,strict-match" -> "exact_match (strict-match)", with "lower is better" where it is."""
    metric, _, chosen = key.partition(",")
    notes = [chosen] if chosen != "none" else []
    if result["higher_is_better"].get(task, {}).get(metric) is False:
        notes.append("lower is better")
    return f"{metric} ({', '.join(notes)})" if notes else metric


def figure(figures: Mapping[str, Any], key: str) -> str:
    """A value and its standard error, where there is one."""
    metric, _, chosen = key.partition(",")
    value, error = figures[key], figures.get(f"{metric}_stderr,{chosen}")
    text = f"{value:.4f}" if isinstance(value, (int, float)) else str(value)
    return f"{text} ± {error:.4f}" if isinstance(error, (int, float)) else text

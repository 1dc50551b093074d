"""Tables of tasks and of what a check found, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from magdi_ray.tasks.catalogue import CATALOGUE
from magdi_ray.tasks.load import Fault
from magdi_ray.tasks.verify import Failure, FileReport


def catalogue_table() -> Table:
    """Every task: what is asked, what an answer is, where its questions come from."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    for heading in ("what is asked", "answer", "published files", "hub name (subset)"):
        table.add_column(heading, overflow="fold")
    for entry in CATALOGUE:
        table.add_row(entry.name, entry.asks, entry.answer, entry.published, "\n".join(entry.hub) or "-")
    return table


def check_table(reports: Sequence[FileReport], names: Sequence[str]) -> Table:
    """A line a checked file, under the names given."""
    counted: tuple[Fault, ...] = ("without a gold answer", "doubled", "empty")
    shown = [fault for fault in counted if fault != "empty" or any(report.left_out[fault] for report in reports)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("file", overflow="fold", min_width=20)
    table.add_column("task", no_wrap=True)
    for heading in ("rows", "questions", *(fault.replace("without a gold answer", "no gold") for fault in shown), "failed"):
        table.add_column(heading, justify="right")
    for report, name in zip(reports, names, strict=True):
        figures = (report.rows, report.questions, *(report.left_out[fault] for fault in shown))
        table.add_row(escape(name), report.task, *map(str, figures), f"[bold red]{report.failed}[/]" if report.failed else "0")
    return table


def failure_lines(report: FileReport, name: str) -> list[str]:
    """A line a failure that was kept, and one that counts the others."""
    lines = [f"{name}, {failure.question}: {_said(failure)}" for failure in report.failures]
    more = report.failed - len(report.failures)
    return [*lines, f"{name}: ... and {more} more"] if more else lines


def _said(failure: Failure) -> str:
    if failure.rule is None:
        return str(failure.read)
    return f"required: {failure.rule}; gold {failure.gold!r}, found {failure.read!r}"

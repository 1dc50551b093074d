"""`magdi tasks`: what can be asked, and whether the golds of question files come back under their task's rules."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from magdi_ray.errors import TaskError

if TYPE_CHECKING:
    from magdi_ray.progress import Progress
    from magdi_ray.tasks.verify import FileReport

tasks_app = typer.Typer(no_args_is_help=True, help="Look at tasks, and check question files against them.")
out = Console(highlight=False)


@tasks_app.command("list")
def list_tasks(as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead.")] = False) -> None:
    """Print every task, the files it reads and its names on the Hugging Face hub. Example: magdi tasks list"""
    from magdi_ray.tasks.catalogue import CATALOGUE
    from magdi_ray.tasks.show import catalogue_table

    if as_json:
        print(json.dumps([asdict(entry) for entry in CATALOGUE]))
        return
    out.print(catalogue_table())


@tasks_app.command("check")
def check(
    data: Annotated[Path | None, typer.Option(help="Directory of question files, searched through.", show_default=False)] = None,
    path: Annotated[str | None, typer.Option(help="One file, saved dataset or hub name.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option(help="Only this task; default: recognised by the rows.", show_default=False)] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a hub dataset, such as main.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=0, help="Failures shown per file.")] = 20,
) -> None:
    """Write every gold answer as a reply and require that it is read back and judged right; exit code 1 where one is not.

    Example: magdi tasks check --data data/
    """
    from magdi_ray.tasks.load import READERS
    from magdi_ray.tasks.show import check_table, failure_lines

    if task is not None and task not in READERS:
        raise TaskError(f"--task must be one of {', '.join(READERS)}, found {task!r}.")
    if (data is None) == (path is None):
        raise TaskError("Either --data DIR or --path FILE is required, and not both.")
    reports, unknown = _check_all(data, path, task, subset, limit)
    names = [_short(report.source, data) for report in reports]
    out.print(check_table(reports, names))
    for source, reason in unknown.items():
        out.print(f"no question file: {_short(source, data)} ({reason})", soft_wrap=True, markup=False)
    for report, name in zip(reports, names, strict=True):
        for line in failure_lines(report, name):
            out.print(line, soft_wrap=True, markup=False)
    if any(report.failed for report in reports):
        raise typer.Exit(1)


def _check_all(
    data: Path | None, path: str | None, task: str | None, subset: str | None, limit: int
) -> tuple[list[FileReport], dict[str, str]]:
    """The checks of all sources, and those that hold no task's questions, with the reason."""
    from magdi_ray.progress import Progress
    from magdi_ray.tasks.verify import check_source, question_sources, recognise

    chosen: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for source in question_sources(data) if data is not None else [path or ""]:
        if path is not None and task is not None:
            chosen[source] = task
            continue
        found = recognise(source, subset=subset)
        if found.task is None:
            unknown[source] = found.reason
        elif task in (None, found.task):
            chosen[source] = found.task
    if not chosen:
        looked = "".join(f"\n  {_short(source, data)}: {reason}" for source, reason in unknown.items())
        raise TaskError(f"{data or path}: questions of {task or 'a known task'} are required, found none.{looked}")
    reports: list[FileReport] = []
    with Progress("rows checked", None) as progress:
        for source, name in chosen.items():
            counted = partial(_count, progress, sum(report.rows for report in reports), _short(source, data))
            reports.append(check_source(name, source, subset=subset, limit=limit, progress=counted))
        progress.update(sum(report.rows for report in reports), note=f"{len(reports)} files")
    return reports, unknown


def _count(progress: Progress, before: int, file: str, rows: int) -> None:
    progress.update(before + rows, note=file)


def _short(source: str, data: Path | None) -> str:
    """A source's path from the directory that was searched."""
    return str(Path(source).relative_to(data)) if data is not None and Path(source) != data else source

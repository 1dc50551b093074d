"""`magdi tasks`: what can be asked, and whether the golds of question files come back under their task's rules."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magdi_ray.cli.options import option, out, print_table
from magdi_ray.errors import TaskError

if TYPE_CHECKING:
    from magdi_ray.progress import Progress
    from magdi_ray.tasks.verify import FileReport

tasks_app = typer.Typer(no_args_is_help=True, help="Look at tasks, and check question files against them.")


@tasks_app.command("list")
def list_tasks(as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead.")] = False) -> None:
    """Print every task, the files it reads and its names on the Hugging Face hub. Example: magdi tasks list"""
    from magdi_ray.tasks.catalogue import CATALOGUE
    from magdi_ray.tasks.show import catalogue_table

    if as_json:
        print(json.dumps([asdict(entry) for entry in CATALOGUE]))
        return
    print_table(catalogue_table())


@tasks_app.command("check")
def check(
    data: Annotated[Path | None, option(help="Directory of question files, searched through.")] = None,
    path: Annotated[str | None, option(help="One file, saved dataset or hub name.")] = None,
    task: Annotated[str | None, option(help="Only this task; default: recognised by the rows.")] = None,
    subset: Annotated[str | None, option(help="Configuration of a hub dataset, such as main.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Failures shown per file.")] = 20,
) -> None:
    """Write every gold answer as a reply and require that it is read back and judged right; exit code 1 where one is not.

    Example: magdi tasks check --data data/
    """
    from magdi_ray.tasks.show import check_table, failure_lines

    if (data is None) == (path is None):
        raise TaskError("Either --data DIR or --path FILE is required, and not both.")
    if task is not None:
        _check_name(task)
    if subset is not None:
        _check_subset(data, path or "", subset)
    reports, unknown = _check_all(data, path, task, subset, limit)
    names = [_short(report.source, data) for report in reports]
    print_table(check_table(reports, names))
    lines = [] if task else [f"{name}: recognised as {one.task} by its rows" for one, name in zip(reports, names, strict=True)]
    lines += [f"no question file: {_short(source, data)} ({reason})" for source, reason in unknown.items()]
    lines += [line for report, name in zip(reports, names, strict=True) for line in failure_lines(report, name)]
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
    if any(report.failed for report in reports):
        raise typer.Exit(1)


def _check_name(task: str) -> None:
    """Refuse a task that no file can be of."""
    import difflib

    from magdi_ray.tasks.load import READERS, TASKS

    if task in READERS:
        return
    if task in TASKS:
        raise TaskError(
            f"--task {task}: the questions of {task} are generated, so there is no file of them to check. Leave --task out, or "
            "name another."
        )
    near = difflib.get_close_matches(task.lower(), READERS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise TaskError(f"--task must be one of {', '.join(READERS)}; found {task!r}.{hint}")


def _check_subset(data: Path | None, path: str, subset: str) -> None:
    """Refuse a subset of what is on this machine."""
    from magdi_ray.tasks.source import local_path

    if data is not None or Path(local_path(path)).exists():
        raise TaskError(f"--subset names a configuration of a hub dataset; {data or path} is on this machine. Leave it out.")


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
        taken = found.task or (found.doubtful if found.doubtful == task else None)
        if taken is None:
            unknown[source] = found.reason
        elif task in (None, taken):
            chosen[source] = taken
    if not chosen:
        raise TaskError(_none_found(data, path, task, unknown))
    reports: list[FileReport] = []
    with Progress("rows checked", None) as progress:
        for source, name in chosen.items():
            counted = partial(_count, progress, sum(report.rows for report in reports), _short(source, data))
            reports.append(check_source(name, source, subset=subset, limit=limit, progress=counted))
        files = f"{len(reports)} file{'s' * (len(reports) != 1)}"
        progress.update(sum(report.rows for report in reports), note=files)
    return reports, unknown


def _none_found(data: Path | None, path: str | None, task: str | None, unknown: dict[str, str]) -> str:
    """What was required of a file or a directory, and what was found instead, file by file."""
    required = f"questions of {task or 'a known task'} are required"
    if data is None:
        return f"{path}: {required}; found none: {unknown[path or '']}"
    looked = "".join(f"\n  {_short(source, data)}: {reason}" for source, reason in unknown.items())
    return f"{data}: {required}; found none.{looked}"


def _count(progress: Progress, before: int, file: str, rows: int) -> None:
    progress.update(before + rows, note=file)


def _short(source: str, data: Path | None) -> str:
    """A source's path from the directory that was searched."""
    return str(Path(source).relative_to(data)) if data is not None and Path(source) != data else source

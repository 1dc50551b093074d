"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from magdi_ray.config import RunConfig, load_config
from magdi_ray.observe.screen import Screen
from magdi_ray.runs import Resume, Run

out = Screen(highlight=False)
"""Where results go; progress and remarks go to `progress.console`."""

UNCUT = 1000
"""Columns of a table that no terminal shows: what reads it looks for whole names."""


def print_table(table: RenderableType) -> None:
    """Print a table as wide as the terminal (or as COLUMNS says), and as wide as it needs to be where there is none."""
    fitted = out.is_terminal or "COLUMNS" in os.environ
    Screen(highlight=False, width=None if fitted else UNCUT).print(table)  # anew: a console keeps the width it began with


def option(*names: str, **settings: Any) -> Any:
    """An option whose default is said in its help, or is nothing."""
    return typer.Option(*names, show_default=False, **settings)


ConfigFile = Annotated[Path, typer.Argument(help="YAML file of the run; ready-made ones are in configs/.", show_default=False)]
Out = Annotated[Path, option(help="Directory to write.")]
DefaultOut = Annotated[str | None, option("--out", help="The run: a directory, or a URL (s3://, gs://). Default: runs/NAME.")]
Set = Annotated[list[str] | None, option("--set", help="Override a value: distil.train.max_steps=200. Repeatable.")]
ResumeOption = Annotated[Resume, typer.Option("--resume", help="What to do with a run directory that is already in use.")]
RunDirectory = Annotated[str, typer.Argument(help="A run: its directory or URL.", show_default=False)]


def open_run(config: Path, directory: str | None, overrides: list[str] | None) -> tuple[RunConfig, Run]:
    """A configuration, and the directory of its run."""
    loaded = load_config(config, overrides or ())
    return loaded, Run(directory or Path("runs") / loaded.name)


def report_at(run: Run, page: Path) -> str:
    """Where people find a run's page: of a run at a URL the page was delivered there."""
    return run.beside(page.name) if page.parent == run.root else str(page)


def run_until(stage: str, config: Path, directory: str | None, overrides: list[str] | None, resume: Resume) -> None:
    """Run what is missing up to a stage."""
    from magdi_ray.pipeline import run_pipeline

    loaded, opened = open_run(config, directory, overrides)
    run_pipeline(loaded, opened, resume=resume, until=stage)
    out.print(f"run: {opened.where}", soft_wrap=True, markup=False)

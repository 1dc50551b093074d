"""`magdi study`: many recipes, many trainings of each, on one world of debates; and what the figures support."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magdi_ray.cli.options import option, out


def study(
    config: Annotated[
        Path,
        typer.Argument(help="YAML file of the study; a ready-made one is configs/studies/structure.yaml.", show_default=False),
    ],
    out_: Annotated[Path | None, option("--out", help="Directory of its runs and its page. Default: runs/NAME.")] = None,
) -> None:
    """Hold recipes against a tuned baseline: what is missing is run, and the page says what the numbers support.

    Example: magdi study configs/studies/structure.yaml --out runs/structure
    """
    from magdi_ray.study.conduct import conduct, load_study
    from magdi_ray.study.page import write_page

    loaded = load_study(config)
    directory = out_ or Path("runs") / loaded.name
    directory.mkdir(parents=True, exist_ok=True)
    result = conduct(loaded, config.parent, directory)
    page = write_page(result, directory / "study.md")
    for sentence in result["said"]:
        out.print(f"- {sentence}", soft_wrap=True, markup=False)
    out.print(f"page: {page}", soft_wrap=True, markup=False)

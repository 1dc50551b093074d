"""`magdi plan`: what a run will take, here and on a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from magdi_ray.cli.options import ConfigFile, DefaultOut, Set, open_run, option, out, print_table
from magdi_ray.config import RunConfig
from magdi_ray.errors import ConfigError
from magdi_ray.runs import Run


def plan(
    config: ConfigFile,
    out_: DefaultOut = None,
    set_: Set = None,
    cluster: Annotated[Path | None, option(help="A cluster's machines and prices, as cluster/prices.yaml has them.")] = None,
    questions: Annotated[list[int] | None, option(min=1, help="With --cluster: so many questions. Repeatable.")] = None,
    measured: Annotated[Path | None, option(help="With --cluster: a finished run to take times and lengths from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="With --cluster: print the table as markdown instead.")] = False,
) -> None:
    """Estimate calls, tokens, money and time of a run's debates, and tokens, FLOPs, memory and time of its distillation.

    Sends nothing, writes nothing, needs neither keys nor GPUs. With `--cluster` the debates are simulated, and every stage has
    its machines, hours, money, storage and network, for as many questions as are asked for.

    Example: magdi plan configs/gsm8k-api.yaml --set debate.protocol.rounds=2

    Example: magdi plan configs/tiny.yaml --cluster cluster/prices.yaml --measured runs/first --questions 1000000
    """
    loaded, directory = open_run(config, out_, set_)
    if cluster is not None:
        if as_json and as_markdown:
            raise ConfigError("--json and --markdown are two ways to print a plan. Give one of them.")
        printed = "json" if as_json else "markdown" if as_markdown else "tables"
        _plan_cluster(loaded, directory, cluster, questions or (), measured, printed)
        return
    if questions or measured is not None or as_markdown:
        raise ConfigError("--questions, --measured and --markdown are of a plan for a cluster; they need --cluster FILE.")
    from magdi_ray.debate.view import plan_remarks, plan_table
    from magdi_ray.distill.forecast.prospect import as_json as distil_json
    from magdi_ray.distill.forecast.prospect import memory_table, recipe_table
    from magdi_ray.planning import debate_figures, plan_run

    made = plan_run(loaded, directory)
    if as_json:
        figures: dict[str, Any] = debate_figures(made.debate, made.paid) if made.debate else {}
        print(json.dumps(figures | {"distil": distil_json(made.distil)}))
        return
    if made.debate is not None and loaded.debate is not None:
        print_table(plan_table(made.debate, made.paid))
        for remark in plan_remarks(made.debate, loaded.debate):
            out.print(remark, soft_wrap=True)
        out.print()
    print_table(recipe_table(made.distil))
    if (memory := memory_table(made.distil)) is not None:
        print_table(memory)
    for remark in made.distil.remarks:
        out.print(remark, soft_wrap=True, markup=False)


def _plan_cluster(
    config: RunConfig, run: Run, cluster: Path, questions: Sequence[int], measured: Path | None, printed: str
) -> None:
    from magdi_ray.config.cluster import load_cluster
    from magdi_ray.planning import plan_run
    from magdi_ray.simulate import report
    from magdi_ray.simulate.calibrate import calibrate

    prices = load_cluster(cluster)
    known = calibrate(measured) if measured else None
    made = plan_run(report.unplaced(config), run)
    asked = tuple(questions) or report.QUESTIONS
    found = report.cluster_plan(config, made.distil, prices, questions=asked, measured=known, seed=config.seed)
    if printed == "json":
        print(json.dumps(report.as_json(found)))
        return
    if printed == "markdown":
        print(report.markdown(found))
        return
    for table in report.tables(found):
        print_table(table)
    for remark in found.remarks:
        out.print(remark, soft_wrap=True, markup=False)

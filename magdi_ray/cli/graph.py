"""`magdi graph`: look at interaction graphs, bring them in and hand them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magdi_ray.cli.options import option, out, print_table
from magdi_ray.errors import GraphError
from magdi_ray.runs import CONFIG, Run
from magdi_ray.storage import is_url

graph_app = typer.Typer(no_args_is_help=True, help="Look at, and import, interaction graphs.")
TASK_NAMES = "gsm8k, math, strategyqa, commonsenseqa, arc, boolq, svamp, aqua, ecare, tiny or small"
RunOrFile = Annotated[str, typer.Argument(help="A run (directory or URL), or a graph file.", show_default=False)]
IMPORTED = "society, reconcile, magdi, ford, llm_agora, eot, i2i or convincing."


@graph_app.command("import")
def graph_import(
    path: Annotated[Path, typer.Argument(help="A published file of recorded debates (ford: a folder).", show_default=False)],
    format: Annotated[str, option(help=IMPORTED)],
    out: Annotated[Path, option(help="Parquet file to write.")],
    task: Annotated[str, typer.Option(help=f"The task whose rules judge the answers: {TASK_NAMES}.")] = "gsm8k",
) -> None:
    """Import recorded debates as graphs.

    Example: magdi graph import gsm_3_2_100.json --format society --out graphs.parquet
    """
    from magdi_ray.graph.build import build_mag
    from magdi_ray.graph.formats import import_debates
    from magdi_ray.graph.store import write_mags
    from magdi_ray.tasks.load import TASKS

    if task not in TASKS:
        raise GraphError(f"--task must be one of {', '.join(TASKS)}, found {task!r}.")
    if out.exists():
        raise GraphError(f"{out} exists already; choose another --out.")
    chosen = TASKS[task]()
    found = import_debates(format, path, chosen)
    write_mags(out, [build_mag(debate, chosen) for debate in found.debates])
    _say_skipped([(skipped.record, skipped.reason) for skipped in found.skipped])
    print(f"{len(found.debates)} graphs written to {out}, {len(found.skipped)} records skipped")


@graph_app.command("export")
def graph_export(
    run: RunOrFile,
    format: Annotated[str, option(help="messages, prompt-completion, preference or unpaired.")],
    out: Annotated[Path, option(help="File to write: .jsonl, .json or .parquet.")],
    task: Annotated[str | None, option(help=f"{TASK_NAMES}. Default: the run's own; gsm8k for a graph file.")] = None,
    split: Annotated[str, typer.Option(help="train, dev, test, ood or all.")] = "train",
    conversational: Annotated[bool, typer.Option(help="Lists of messages in place of texts, for chat models in TRL.")] = False,
) -> None:
    """Write the labelled replies as a training file of TRL, axolotl or LLaMA-Factory; held-out questions stay out.

    Example: magdi graph export runs/tiny --format preference --out preference.jsonl
    """
    from magdi_ray.exporting import stored_config
    from magdi_ray.graph.export import export_mags
    from magdi_ray.graph.store import iter_mags
    from magdi_ray.progress import console
    from magdi_ray.tasks.load import TASKS

    own = stored_config(opened).task.name if (opened := _run(run)) else None
    name = task or own or "gsm8k"
    if name not in TASKS:
        raise GraphError(f"--task must be one of {', '.join(TASKS)}, found {task!r}.")
    if own and name != own:
        raise GraphError(f"{run} is a run of the task {own!r}, found --task {name}. Leave --task out.")
    mags = iter_mags(_graphs(run))
    done = export_mags(mags, TASKS[name](), out, format=format, split=split, conversational=conversational)
    for reason, count in done.left_out.items():
        console.print(f"left out: {count} {reason}", soft_wrap=True, markup=False)
    print(f"{done.rows} rows written to {out}")


def _say_skipped(skipped: list[tuple[str, str]]) -> None:
    from magdi_ray.progress import console

    for record, reason in skipped[:20]:
        console.print(f"skipped {record}: {reason}", soft_wrap=True, markup=False)
    if len(skipped) > 20:
        console.print(f"... and {len(skipped) - 20} more")


@graph_app.command("show")
def graph_show(
    run: RunOrFile,
    question_id: Annotated[str, typer.Argument(help="Id of the question.", show_default=False)],
) -> None:
    """Print one debate: agents by rounds, right and wrong, who was shown what.

    Example: magdi graph show runs/tiny tiny-test-00012
    """
    import difflib

    from magdi_ray.graph.show import render_mag
    from magdi_ray.graph.store import iter_mags

    known = []
    for mag in iter_mags(_graphs(run)):
        if mag.question.id == question_id:
            out.print(render_mag(mag))
            return
        known.append(mag.question.id)
    near = difflib.get_close_matches(question_id, known, n=3) or known[:3]
    raise GraphError(
        f"No graph of question {question_id!r} in {run}. It holds {len(known)}, such as {', '.join(near)}. Name one of them."
    )


@graph_app.command("stats")
def graph_stats(run: RunOrFile) -> None:
    """Count what the graphs hold. Example: magdi graph stats runs/tiny"""
    from magdi_ray.graph.stats import describe, render_stats
    from magdi_ray.graph.store import iter_mags

    print_table(render_stats(describe(iter_mags(_graphs(run)))))


def _graphs(place: str) -> Path:
    """The graphs of a run, or the file or directory of graphs itself."""
    if (run := _run(place)) is None:
        return Path(place)
    run.require("graphs")
    return run.path("graphs")


def _run(place: str) -> Run | None:
    """The run at a place; None where a file or a directory of graphs is."""
    return Run(place) if is_url(place) or (Path(place) / CONFIG).is_file() else None

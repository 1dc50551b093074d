"""The command line: one thin verb a stage. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from magdi_ray import __version__
from magdi_ray.config import RunConfig, config_schema, dump_config, load_config
from magdi_ray.distill.export.student import Dtype
from magdi_ray.errors import GraphError, MagdiError
from magdi_ray.runs import CONFIG, Resume, Run

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
graph_app = typer.Typer(no_args_is_help=True, help="Look at, and import, interaction graphs.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
tiny_app = typer.Typer(no_args_is_help=True, help="The bundled offline world of tiny real models.")
app.add_typer(graph_app, name="graph")
app.add_typer(config_app, name="config")
app.add_typer(tiny_app, name="tiny")

ConfigFile = Annotated[Path, typer.Argument(help="YAML file of the run; ready-made ones are in configs/.", show_default=False)]
Out = Annotated[Path, typer.Option(help="The run directory.", show_default=False)]
DefaultOut = Annotated[Path | None, typer.Option(help="The run directory. Default: runs/NAME.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value: distil.train.max_steps=200. Repeatable.", show_default=False)
]
ResumeOption = Annotated[Resume, typer.Option(help="What to do with a run directory that is already in use.")]
RunDirectory = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]

out = Console(highlight=False)
TASK_NAMES = "gsm8k, strategyqa, commonsenseqa, ecare or tiny"
IMPORTED = "society, reconcile, magdi, ford, llm_agora, eot, i2i or convincing."


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Debates between language models, distilled into one small student.

    Start with `magdi run configs/tiny.yaml`.
    """
    if version:
        print(__version__)
        raise typer.Exit()


@app.command()
def run(
    config: ConfigFile,
    out_: Annotated[Path | None, typer.Option("--out", help="The run directory. Default: runs/NAME.", show_default=False)] = None,
    set_: Set = None,
    resume: ResumeOption = "if_possible",
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the headline figures.")] = False,
) -> None:
    """Run every stage that is missing: questions, debates, graphs, students, evaluation.

    Example: magdi run configs/tiny.yaml --out runs/first --set distil.train.max_steps=300
    """
    from magdi_ray.evaluate.table import result_tables
    from magdi_ray.pipeline import load_results, run_pipeline, summary

    started = time.monotonic()
    loaded, directory = _open(config, out_, set_)
    run_pipeline(loaded, directory, resume=resume)
    out.print(result_tables(load_results(directory)))
    out.print(f"run: {directory.root}", soft_wrap=True)
    if as_json:
        print(json.dumps(summary(loaded, directory, seconds=time.monotonic() - started)))


def _open(config: Path, directory: Path | None, overrides: list[str] | None) -> tuple[RunConfig, Run]:
    loaded = load_config(config, overrides or ())
    return loaded, Run(directory or Path("runs") / loaded.name)


def _until(stage: str, config: Path, directory: Path | None, overrides: list[str] | None, resume: Resume) -> None:
    from magdi_ray.pipeline import run_pipeline

    loaded, opened = _open(config, directory, overrides)
    run_pipeline(loaded, opened, resume=resume, until=stage)
    out.print(f"run: {opened.root}", soft_wrap=True)


@app.command()
def debate(config: ConfigFile, out: DefaultOut = None, set_: Set = None, resume: ResumeOption = "if_possible") -> None:
    """Run up to the debates. Example: magdi debate configs/tiny.yaml --out runs/first"""
    _until("debates", config, out, set_, resume)


@app.command()
def plan(
    config: ConfigFile,
    out_: Annotated[Path | None, typer.Option("--out", help="The run directory. Default: runs/NAME.", show_default=False)] = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead.")] = False,
) -> None:
    """Estimate calls, tokens, money and time of a run's debates, and tokens, FLOPs, memory and time of its distillation.

    Sends nothing, writes nothing, needs neither keys nor GPUs.

    Example: magdi plan configs/gsm8k-api.yaml --set debate.protocol.rounds=2
    """
    from magdi_ray.debate.view import plan_remarks, plan_table
    from magdi_ray.distill.forecast.prospect import as_json as distil_json
    from magdi_ray.distill.forecast.prospect import memory_table, recipe_table
    from magdi_ray.planning import debate_figures, plan_run

    loaded, directory = _open(config, out_, set_)
    made = plan_run(loaded, directory)
    if as_json:
        figures: dict[str, Any] = debate_figures(made.debate, made.paid) if made.debate else {}
        print(json.dumps(figures | {"distil": distil_json(made.distil)}))
        return
    if made.debate is not None and loaded.debate is not None:
        out.print(plan_table(made.debate, made.paid))
        for remark in plan_remarks(made.debate, loaded.debate):
            out.print(remark, soft_wrap=True)
        out.print()
    out.print(recipe_table(made.distil))
    if (memory := memory_table(made.distil)) is not None:
        out.print(memory)
    for remark in made.distil.remarks:
        out.print(remark, soft_wrap=True, markup=False)


@app.command()
def distill(config: ConfigFile, out: DefaultOut = None, set_: Set = None, resume: ResumeOption = "if_possible") -> None:
    """Run up to the distilled student. Example: magdi distill configs/tiny.yaml --out runs/first"""
    _until("student", config, out, set_, resume)


@app.command()
def evaluate(config: ConfigFile, out: DefaultOut = None, set_: Set = None, resume: ResumeOption = "if_possible") -> None:
    """Run up to the evaluation. Example: magdi evaluate configs/tiny.yaml --out runs/first --set evaluate.num_cpus=0.5"""
    _until("evaluation", config, out, set_, resume)


@app.command()
def serve(
    run: RunDirectory,
    student: Annotated[str | None, typer.Option(help="A recipe of the run; default: the product.", show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="Default: serve.host of the run.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Default: serve.port of the run.", show_default=False)] = None,
) -> None:
    """Serve a run's student behind the OpenAI HTTP API until interrupted.

    Example: magdi serve runs/tiny --port 8000
    """
    from magdi_ray.serving.run import serve_run

    overrides = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    serve_run(Run(run), student=student, overrides=overrides)


@app.command("export")
def export_student(
    run: RunDirectory,
    out_: Annotated[Path, typer.Option("--out", help="Directory to write; it must not exist, or be empty.", show_default=False)],
    student: Annotated[str | None, typer.Option(help="A recipe of the run; default: the product.", show_default=False)] = None,
    merge: Annotated[bool, typer.Option(help="Add the adapter to its base's weights.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of merged or full weights; auto keeps theirs.")] = "auto",
    heads: Annotated[bool, typer.Option(help="Take the training heads along, in a file of their own.")] = False,
    push: Annotated[str | None, typer.Option(help="Upload to this hub repository, org/name.", show_default=False)] = None,
    private: Annotated[bool, typer.Option(help="The repository must be private.")] = False,
) -> None:
    """Write a run's student as a plain Hugging Face directory with a model card.

    Example: magdi export runs/tiny --out student --merge
    """
    from magdi_ray.exporting import ExportOptions, export_run

    options = ExportOptions(student, merge=merge, dtype=dtype, heads=heads, push=push, private=private)
    done = export_run(Run(run), out_, options)
    out.print(f"exported: {out_} ({done.form}, {done.dtype})", soft_wrap=True, markup=False)


@graph_app.command("import")
def graph_import(
    path: Annotated[Path, typer.Argument(help="A published file of recorded debates (ford: a folder).", show_default=False)],
    format: Annotated[str, typer.Option(help=IMPORTED, show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file to write.", show_default=False)],
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
    run: Annotated[Path, typer.Argument(help="A run directory or a graph file.", show_default=False)],
    format: Annotated[str, typer.Option(help="messages, prompt-completion, preference or unpaired.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write: .jsonl, .json or .parquet.", show_default=False)],
    task: Annotated[
        str | None, typer.Option(help=f"{TASK_NAMES}. Default: the run's own; gsm8k for a graph file.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="train, dev, test, ood or all.")] = "train",
    conversational: Annotated[bool, typer.Option(help="Lists of messages in place of texts, for chat models in TRL.")] = False,
) -> None:
    """Write the labelled replies as a training file of TRL, axolotl or LLaMA-Factory; held-out questions stay out.

    Example: magdi graph export runs/tiny --format preference --out preference.jsonl
    """
    from magdi_ray.graph.export import export_mags
    from magdi_ray.graph.store import iter_mags
    from magdi_ray.progress import console
    from magdi_ray.tasks.load import TASKS

    own = load_config(run / CONFIG).task.name if (run / CONFIG).is_file() else None
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
    run: Annotated[Path, typer.Argument(help="A run directory or a graph file.", show_default=False)],
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
    raise GraphError(f"No graph of question {question_id!r} in {run}. It holds {len(known)}, such as {', '.join(near)}.")


@graph_app.command("stats")
def graph_stats(run: Annotated[Path, typer.Argument(help="A run directory or a graph file.", show_default=False)]) -> None:
    """Count what the graphs hold. Example: magdi graph stats runs/tiny"""
    from magdi_ray.graph.stats import describe, render_stats
    from magdi_ray.graph.store import iter_mags

    out.print(render_stats(describe(iter_mags(_graphs(run)))))


def _graphs(path: Path) -> Path:
    """The graphs of a run directory, or the file or directory of graphs itself."""
    if (path / CONFIG).is_file():
        Run(path).require("graphs")
        return path / "graphs"
    return path


@config_app.command("schema")
def show_schema() -> None:
    """Print the JSON schema of a configuration. Example: magdi config schema > magdi.schema.json"""
    print(json.dumps(config_schema(), indent=1))


@config_app.command("show")
def show_config(config: ConfigFile, set_: Set = None) -> None:
    """Print a configuration with every default filled in. Example: magdi config show configs/tiny.yaml"""
    print(dump_config(load_config(config, set_ or ())), end="")


@tiny_app.command("build")
def tiny_build(
    out: Out,
    seed: Annotated[int, typer.Option(help="Root of every random draw.")] = 0,
    quick: Annotated[bool, typer.Option(help="Seconds instead of minutes; the models learn next to nothing.")] = False,
) -> None:
    """Train the three tiny teachers and the base student from nothing. Example: magdi tiny build --out models"""
    from magdi_ray.progress import console
    from magdi_ray.tiny.build import build

    build(out, seed=seed, quick=quick, progress=lambda line: console.print(line, markup=False))


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: an error meant for a person is printed as one, and the exit code is 2."""
    from magdi_ray.progress import console

    try:
        app(arguments, prog_name="magdi")
    except MagdiError as error:
        console.print(f"[bold red]{type(error).__name__}[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted. What is finished is kept; run the same command to go on.")
        sys.exit(130)


if __name__ == "__main__":
    main()

"""The command line: one verb a stage, thin. Every command says what it does and shows an example."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from magdi_ray import __version__
from magdi_ray.cli.doctor import doctor
from magdi_ray.cli.evaluation import evaluate, report
from magdi_ray.cli.graph import graph_app
from magdi_ray.cli.keys import keys_app
from magdi_ray.cli.options import (
    ConfigFile,
    DefaultOut,
    Out,
    ResumeOption,
    RunDirectory,
    Set,
    open_run,
    option,
    out,
    print_table,
    report_at,
    run_until,
)
from magdi_ray.cli.planning import plan
from magdi_ray.cli.study import study
from magdi_ray.cli.submit import submit
from magdi_ray.cli.tasks import tasks_app
from magdi_ray.config import config_schema, dump_config, load_config
from magdi_ray.distill.export.student import Dtype
from magdi_ray.errors import ConfigError, MagdiError, of_machine
from magdi_ray.observe.logs import set_up
from magdi_ray.runs import Run

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
tiny_app = typer.Typer(no_args_is_help=True, help="The bundled offline world of tiny real models.")
app.add_typer(graph_app, name="graph")
app.add_typer(config_app, name="config")
app.add_typer(tasks_app, name="tasks")
app.add_typer(tiny_app, name="tiny")
app.add_typer(keys_app, name="keys")


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
    out_: DefaultOut = None,
    set_: Set = None,
    resume: ResumeOption = "if_possible",
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the headline figures.")] = False,
) -> None:
    """Run every stage that is missing: questions, debates, graphs, students, evaluation.

    Example: magdi run configs/tiny.yaml --out runs/first --set distil.train.max_steps=300
    """
    from magdi_ray.evaluate.table import result_tables
    from magdi_ray.pipeline import load_results, run_pipeline, summary
    from magdi_ray.reporting import write_report

    started = time.monotonic()
    loaded, directory = open_run(config, out_, set_)
    run_pipeline(loaded, directory, resume=resume)
    print_table(result_tables(load_results(directory)))
    page = write_report([directory])
    directory.push()
    out.print(f"report: {report_at(directory, page)}", soft_wrap=True, markup=False)
    out.print(f"run: {directory.where}", soft_wrap=True, markup=False)
    if as_json:
        print(json.dumps(summary(loaded, directory, seconds=time.monotonic() - started)))


@app.command()
def debate(config: ConfigFile, out_: DefaultOut = None, set_: Set = None, resume: ResumeOption = "if_possible") -> None:
    """Run up to the debates. Example: magdi debate configs/tiny.yaml --out runs/first"""
    run_until("debates", config, out_, set_, resume)


@app.command()
def distill(config: ConfigFile, out_: DefaultOut = None, set_: Set = None, resume: ResumeOption = "if_possible") -> None:
    """Run up to the distilled student. Example: magdi distill configs/tiny.yaml --out runs/first"""
    run_until("student", config, out_, set_, resume)


app.command()(plan)
app.command()(evaluate)
app.command()(report)
app.command()(doctor)
app.command()(submit)
app.command()(study)


@app.command()
def serve(
    path: Annotated[str, typer.Argument(help="A run's directory or URL, or a model's directory.", show_default=False)],
    student: Annotated[str | None, option(help="A recipe of the run; default: the product.")] = None,
    task: Annotated[str | None, option(help="How answers are read, for votes; of a model directory only.")] = None,
    host: Annotated[str | None, option(help="Default: serve.host, 127.0.0.1.")] = None,
    port: Annotated[int | None, option(help="Default: serve.port, 8000.")] = None,
    set_: Set = None,
) -> None:
    """Serve a student behind the OpenAI HTTP API until interrupted; SIGHUP deploys anew what the directory holds by then.

    Example: magdi serve runs/tiny --port 8000 --set serve.replicas=[1,2]
    """
    from magdi_ray.endpoint import serve_path

    given = [f"serve.{key}={value}" for key, value in (("host", host), ("port", port)) if value is not None]
    serve_path(path, student=student, task=task, overrides=[*(set_ or ()), *given])


@app.command("export")
def export_student(
    run: RunDirectory,
    out_: Annotated[Path, option("--out", help="Directory to write; it must not exist, or be empty.")],
    student: Annotated[str | None, option(help="A recipe of the run; default: the product.")] = None,
    merge: Annotated[bool, typer.Option(help="Add the adapter to its base's weights.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of merged or full weights; auto keeps theirs.")] = "auto",
    heads: Annotated[bool, typer.Option(help="Take the training heads along, in a file of their own.")] = False,
    push: Annotated[str | None, option(help="Upload to this hub repository, org/name.")] = None,
    private: Annotated[bool, typer.Option(help="The repository must be private.")] = False,
) -> None:
    """Write a run's student as a plain Hugging Face directory with a model card.

    Example: magdi export runs/tiny --out student --merge
    """
    from magdi_ray.exporting import ExportOptions, export_run

    options = ExportOptions(student, merge=merge, dtype=dtype, heads=heads, push=push, private=private)
    done = export_run(Run(run), out_, options)
    out.print(f"exported: {out_} ({done.form}, {done.dtype})", soft_wrap=True, markup=False)


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
    world: Annotated[Literal["tiny", "small"], typer.Option(help="Whose models.")] = "tiny",
    reduced: Annotated[bool, typer.Option(help="Smaller models and less practice, for CPUs; `build.json` says so.")] = False,
    seed: Annotated[int, typer.Option(help="Root of every random draw.")] = 0,
    quick: Annotated[bool, typer.Option(help="Seconds instead of minutes; the models learn next to nothing.")] = False,
) -> None:
    """Train a world's teachers and students from nothing: for `tiny` those that are shipped, for `small` three teachers and nine
    students of three sizes and strengths, on a GPU; without one, build it reduced.

    Example: magdi tiny build --out models

    Example: magdi tiny build --world small --reduced --out runs/small-models
    """
    import torch

    from magdi_ray.progress import console
    from magdi_ray.small.corpus import REDUCED, WHOLE
    from magdi_ray.tiny.build import build
    from magdi_ray.tiny.corpus import SCHOOL

    if reduced and world == "tiny":
        raise ConfigError("the tiny world has one form only. Leave --reduced out, or build --world small.")
    if world == "small" and not (reduced or quick or torch.cuda.is_available()):
        raise ConfigError("the whole small world is built on a GPU, and this machine has none. Add --reduced for a smaller form.")
    school = SCHOOL if world == "tiny" else REDUCED if reduced else WHOLE
    build(school.quick if quick else school, out, seed=seed, progress=lambda line: console.print(line, markup=False))


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: an error meant for a person is printed as one, and the exit code is 2."""
    from magdi_ray.progress import console

    try:
        set_up()
        app(arguments, prog_name="magdi")
    except (MagdiError, OSError) as error:
        told = of_machine(error) if isinstance(error, OSError) else error
        if told is None:
            raise
        console.print(f"[bold red]{type(told).__name__}[/]", end=" ")
        console.print(str(told), markup=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as ended:
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):  # typer ends with 130, without a word
            console.print("Interrupted. What is finished is kept; run the same command to go on.")
        raise

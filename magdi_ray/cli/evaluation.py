"""`magdi evaluate` and `magdi report`: how good the students are, and the page that says so."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from magdi_ray.cli.options import (
    ConfigFile,
    DefaultOut,
    ResumeOption,
    Set,
    open_run,
    option,
    out,
    print_table,
    report_at,
    run_until,
)
from magdi_ray.errors import ConfigError
from magdi_ray.runs import Run

harness = partial(option, rich_help_panel="With --lm-eval")
"""An option that means nothing without --lm-eval."""


def evaluate(  # noqa: PLR0913, PLR0917 - options, each of which a person may leave out
    config: ConfigFile,
    out_: DefaultOut = None,
    set_: Set = None,
    resume: ResumeOption = "if_possible",
    lm_eval: Annotated[str | None, option("--lm-eval", help="Tasks of the lm-evaluation-harness: gsm8k,arc_easy.")] = None,
    student: Annotated[list[str] | None, harness(help="A recipe of the run, or base. Default: the product. Repeatable.")] = None,
    endpoint: Annotated[str | None, harness(help="Ask a served model: http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, harness(help="Its name at the endpoint. Default: the only one.")] = None,
    include_path: Annotated[Path | None, harness(exists=True, file_okay=False, help="Directory of further task files.")] = None,
    limit: Annotated[int | None, harness(min=1, help="Only so many questions of each task.")] = None,
    fewshot: Annotated[int | None, harness(min=0, help="Worked examples before a question. Default: the task's.")] = None,
    batch_size: Annotated[str | None, harness(help="Questions at once, or auto. Default: 8.")] = None,
    chat_template: Annotated[bool, harness("--chat-template", help="Ask in the student's chat format.")] = False,
) -> None:
    """Run up to the evaluation; with `--lm-eval`, ask a finished run's student tasks of the lm-evaluation-harness instead.

    Example: magdi evaluate configs/tiny.yaml --out runs/first --set evaluate.num_cpus=0.5

    Example: magdi evaluate configs/tiny.yaml --out runs/first --lm-eval arc_easy --limit 100
    """
    if lm_eval is None:
        given: dict[str, object] = {"--student": student or None, "--endpoint": endpoint, "--model": model}
        given |= {"--include-path": include_path, "--limit": limit, "--fewshot": fewshot, "--batch-size": batch_size}
        given |= {"--chat-template": chat_template or None}
        if named := [name for name, value in given.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(named)} belong{'s' * (len(named) == 1)} to --lm-eval TASKS. Give it, or leave them out."
            )
        run_until("evaluation", config, out_, set_, resume)
        return
    from magdi_ray.cluster import set_environment
    from magdi_ray.evaluate.harness import harness_options
    from magdi_ray.evaluate.harness_output import harness_table
    from magdi_ray.harnessing import evaluate_run

    if set_ or resume != "if_possible":
        raise ConfigError("--lm-eval takes a finished run as it is: leave out --set and --resume.")
    set_environment()
    settings = {"include_path": include_path, "limit": limit, "num_fewshot": fewshot, "batch_size": batch_size}
    chosen = {name: value for name, value in settings.items() if value is not None}
    options = harness_options(lm_eval, apply_chat_template=chat_template, **chosen)
    _, run = open_run(config, out_, None)
    print_table(harness_table(evaluate_run(run, options, students=student or (), endpoint=endpoint, model=model)))
    out.print(f"results: {run.beside('lm-eval')}", soft_wrap=True, markup=False)


def report(
    runs: Annotated[list[str], typer.Argument(help="One run (directory or URL), or several to be compared.", show_default=False)],
    out_: Annotated[Path | None, option("--out", help="The page. Default, of one run: report.html in it.")] = None,
    markdown: Annotated[Path | None, option(help="Also write the tables to this file, as markdown.")] = None,
    questions: Annotated[int | None, option(min=0, help="Show at most so many questions, evaluated ones first.")] = None,
) -> None:
    """Write what runs came to as one offline page: figures with their intervals, curves, and every debate to look at.

    Example: magdi report runs/tiny

    Example: magdi report runs/tiny runs/other --out comparison.html --markdown comparison.md
    """
    from magdi_ray.reporting import write_report

    opened = [Run(run) for run in runs]
    page = write_report(opened, out_, markdown=markdown, questions=questions)
    opened[0].push()
    out.print(f"report: {report_at(opened[0], page)}", soft_wrap=True, markup=False)
    if markdown is not None:
        out.print(f"tables: {markdown}", soft_wrap=True, markup=False)

"""`magdi submit`: a run as a job of a Ray cluster, followed from here."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magdi_ray.cli.options import ConfigFile, Set, option, out
from magdi_ray.submitting import StageOfJob

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def submit(  # noqa: PLR0913, PLR0917 - what a person may say about a job
    config: ConfigFile,
    address: Annotated[str, option(help="The cluster's dashboard: http://HOST:8265.", envvar="RAY_API_SERVER_ADDRESS")],
    out_: Annotated[str | None, option("--out", help="The run: a URL, or a directory that all nodes share.")] = None,
    set_: Set = None,
    stage: Annotated[StageOfJob, typer.Option(help="How far to go.")] = "pipeline",
    wait: Annotated[bool, typer.Option("--follow/--no-follow", help="Show what the job prints until it ends.")] = True,
    working_dir: Annotated[Path, typer.Option(help="What is uploaded; it holds CONFIG and the files that it names.")] = Path(),
    env: Annotated[list[str] | None, option(help="Name of a variable that goes along with its value. Repeatable.")] = None,
    env_insecure: Annotated[bool, typer.Option("--env-insecure", help="Also variables named like secrets.")] = False,
    cpus: Annotated[float, typer.Option(help="Reserved for the driver.", min=0)] = 0.0,
    label: Annotated[list[str] | None, option(help="KEY=VALUE of the node the driver runs on. Repeatable.")] = None,
) -> None:
    """Run a configuration on a cluster, as a Ray job. The same command again goes on where it was stopped.

    Ctrl-C leaves the job running. Exit code: 0 succeeded, 130 stopped, else the failed job's own; 2: it could not be submitted.

    Example: magdi submit configs/tiny.yaml --address http://head:8265 --out s3://bucket/tiny
    """
    from magdi_ray.submitting import connect, prepare
    from magdi_ray.submitting import submit as submit_job

    job = prepare(
        config,
        address=address,
        out=out_,
        stage=stage,
        overrides=set_ or (),
        working_dir=working_dir,
        env=env or (),
        env_insecure=env_insecure,
        environment=os.environ,
        cpus=cpus,
        labels=label or (),
    )
    client = connect(address)
    if job.missing:
        _say(f"{config} takes {', '.join(job.missing)} from the environment: the nodes need them, for --env does not name them.")
    submit_job(client, job)
    _say(f"submitted: {job.name}")
    if wait:
        raise typer.Exit(_follow(client, job.name, address))
    _how_to(job.name, address)


def _follow(client: JobSubmissionClient, name: str, address: str) -> int:
    from magdi_ray.submitting import exit_code, follow

    try:
        details = follow(client, name, write=_write)
    except KeyboardInterrupt:
        _say("\nThe job goes on without you.")
        _how_to(name, address)
        return 0
    _say(f"{name}: {details.status.value.lower()}")
    if (code := exit_code(details)) and code != 2:
        _say(f"resume: {_again()}")
    elif code:
        _say(f"It was refused, see above. When that is mended: {_again()}")
    return code


def _how_to(name: str, address: str) -> None:
    _say(f"follow: ray job logs --follow --address {address} {name}")
    _say(f"stop:   ray job stop --address {address} {name}")
    _say(f"resume: {_again()}")


def _again() -> str:
    """The command this process was given."""
    return shlex.join(["magdi", *sys.argv[1:]])


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)

"""One machine's endpoint: a run's student, or any model directory, served over HTTP until told to stop.

SIGHUP deploys anew what the directory holds by then, without a failed request; Ctrl-C and SIGTERM let requests under way end.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.markup import escape

from magdi_ray.cluster import check_port, free_ports, joins_cluster, ray_session, remarks_to, serve_over_http, socket_directory
from magdi_ray.config import dump_config, parse_config
from magdi_ray.config.load import apply_override, parse_section
from magdi_ray.config.reading import read_yaml
from magdi_ray.config.serving import Endpoint, ServeConfig, StudentArgs
from magdi_ray.errors import ConfigError, MagdiError
from magdi_ray.exporting import chosen_recipe, finished_student, stored_config
from magdi_ray.progress import console
from magdi_ray.runs import CONFIG, Run
from magdi_ray.stages import student_stage
from magdi_ray.storage import is_url
from magdi_ray.tasks.load import load_task, task_named
from magdi_ray.tasks.store import iter_stored


@dataclass(frozen=True, slots=True)
class Served:
    """What is to be served, and where."""

    args: StudentArgs
    config: ServeConfig
    question: str
    """The prompt of an example call."""


def serve_path(path: str, *, student: str | None, task: str | None, overrides: Sequence[str]) -> None:
    """Serve the student of a run directory, or a model directory. Returns when told to stop.

    Raises:
        RunError: the run has no such finished student.
        ConfigError: a setting cannot be used, or there is nothing to serve at `path`.
        EngineError: the model cannot start.
    """
    read = _reader(path, student, task, overrides)
    served = read()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to deploy anew
    with ExitStack() as stack:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="magdi-serve-", dir=socket_directory())))
        port = served.config.metrics_port or free_ports(1)[0]
        if not joins_cluster():
            check_port(served.config.host, served.config.port)
            serve_over_http(files)
        own = served.args.run is not None and not is_url(served.args.run) and os.access(served.args.run, os.W_OK)
        local = Path(served.args.run) if own and served.args.run else files
        stack.enter_context(remarks_to(local / "ray.log"))
        stack.enter_context(ray_session(metrics_port=port))
        from magdi_ray.agents.pool import retire_engines
        from magdi_ray.serving.app import APPLICATION, deploy, start_http

        start_http(served.config.host, served.config.port)
        with console.status(f"starting {served.args.model_name}"):
            deploy(served.args)
        _greet(served)
        if joins_cluster():
            say("\nIt goes on running on the cluster; `serve shutdown` ends it.")
            return
        say(f"\nMetrics for Prometheus: http://127.0.0.1:{port}/metrics")
        say("Ctrl-C stops it; SIGHUP deploys anew what the directory holds by then.")
        for sign in _signals():
            if sign != signal.SIGHUP:
                break
            say("deploying anew")
            _deploy_anew(read, served, deploy)
        say("stopping: requests under way are answered")
        retire_engines([APPLICATION])  # before Ray ends: what is under way needs all of it
    say("stopped")


def say(text: str) -> None:
    """A line for the person, at once, also where it goes to a file."""
    console.print(text, soft_wrap=True)
    console.file.flush()


def _deploy_anew(read: Callable[[], Served], before: Served, deploy: Callable[[StudentArgs], None]) -> None:
    """What the directory holds now takes over; what cannot be served leaves everything as it is."""
    try:
        now = read()
        if (now.config.host, now.config.port) != (before.config.host, before.config.port):
            say("[yellow]![/] serve.host and serve.port are those of the start; they change with a new start only.")
        deploy(now.args)
    except MagdiError as error:
        say(f"[red]✗[/] not deployed: {escape(str(error))}")
    else:
        say(f"[green]✓[/] {now.args.model_name} was deployed anew")


def _reader(place: str, student: str | None, task: str | None, overrides: Sequence[str]) -> Callable[[], Served]:
    path = Path(place)
    if not is_url(place) and not path.exists():
        raise ConfigError(
            f"There is nothing at {place}. Required is a run directory or a model's; a model of the hub is downloaded first, or "
            "named in a Serve config file (serve/student.yaml). Check the path."
        )
    if (
        is_url(place)
        or (path / CONFIG).is_file()
        or not ((path / "config.json").is_file() or (path / "adapter_config.json").is_file())
    ):
        if task is not None:
            raise ConfigError(
                "--task says how answers are read from a model directory's replies; a run has its own task. Leave --task out."
            )
        return lambda: from_run(Run(place), student=student, overrides=overrides)
    if student is not None:
        raise ConfigError("--student names a recipe of a run; a model directory is served as it is. Leave --student out.")
    return lambda: from_model(path, task=task, overrides=overrides)


def from_run(run: Run, *, student: str | None = None, overrides: Sequence[str] = ()) -> Served:
    """The product of a run, or the student of another of its recipes, with the run's teachers and questions at hand."""
    config = stored_config(run)
    data = read_yaml(dump_config(config), run.beside(CONFIG))
    for override in overrides:
        apply_override(data, override)
    config = parse_config(data, f"{run.beside(CONFIG)} with --set")
    recipe = chosen_recipe(config, student)
    stage = student_stage(config, recipe)
    version = finished_student(run, config, stage).content
    if config.serve.escalate and config.debate is None:
        raise ConfigError("serve.escalate asks the debate's teachers, but this run's graphs come from a file: it has none.")
    if config.serve.escalate and config.serve.escalations is None and is_url(run.where):
        raise ConfigError(f"serve.escalate keeps graphs in a directory, and {run.where} is a URL: name one, serve.escalations.")
    args = {
        "model": run.place(stage),
        "model_name": f"{config.name}-{recipe.name}",
        "task": config.task.name,
        "run": run.where,
        "debate": config.debate.model_dump(mode="json") if config.debate and config.serve.escalate else None,
        "resources": config.resources.model_dump(mode="json", include={"serve", "agents"}),
        "seed": config.seed,
        "version": version[:16],
        "debate_tokens": _debate_tokens(run),
        # Both grow a file at a time, which no URL is for.
        "escalations": config.serve.escalations or (None if is_url(run.where) else run.beside("escalations")),
        "access_log": config.serve.access_log or (None if is_url(run.where) else run.beside("access.log")),
    }
    questions = run.path("questions")
    held_out = (question for question in iter_stored(questions) if question.split == config.evaluate.splits[0])
    question = next(held_out, None) or next(iter_stored(questions))
    return _served(args, config.serve, load_task(config.task).prompt(question))


def from_model(directory: Path, *, task: str | None = None, overrides: Sequence[str] = ()) -> Served:
    """A model directory, full weights or an adapter, as an exported student is."""
    if task is not None:
        task_named(task)
    data: dict[str, Any] = {"serve": {}}
    for override in overrides:
        apply_override(data, override)
    if unknown := sorted(set(data) - {"serve"}):
        raise ConfigError(f"--set {unknown[0]}...: a model directory has no run; set only what begins with `serve.`.")
    config = parse_section(data["serve"], "--set", ServeConfig)
    if config.escalate:
        raise ConfigError("serve.escalate asks the teachers of a run's debate: serve the run directory instead of the model's.")
    args = {"model": str(directory.resolve()), "model_name": directory.resolve().name, "task": task}
    return _served(args, config, "2 + 2?")


def _served(args: dict[str, Any], config: ServeConfig, question: str) -> Served:
    shared = config.model_dump(mode="json", include=set(Endpoint.model_fields))
    return Served(parse_section(shared | args, "serve", StudentArgs), config, question)


def _greet(served: Served) -> None:
    host = "127.0.0.1" if served.config.host in ("0.0.0.0", "::") else served.config.host  # noqa: S104 - compared, not bound
    url = f"http://{host}:{served.config.port}"
    page = f", its page is {url}/" if served.args.playground else ""
    say(f"[green]✓[/] {served.args.model_name} answers at {url}/v1{page}")
    if not _keys(served) and served.config.host not in ("127.0.0.1", "localhost", "::1"):
        say("[yellow]![/] nobody is asked for a key, and other machines can reach it: see serve.api_keys_file")
    say("Try:\n")
    say(escape(example_call(served, url)))


def example_call(served: Served, url: str) -> str:
    """A curl command that asks a question."""
    messages = [{"role": "user", "content": served.question}]
    body = json.dumps({"model": served.args.model_name, "messages": messages, "temperature": 0}).replace("'", "'\\''")
    key = ' -H "Authorization: Bearer $KEY"' if _keys(served) else ""
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"


def _keys(served: Served) -> bool:
    return bool(served.args.api_keys_file or served.args.api_keys_env)


def _debate_tokens(run: Run) -> float | None:
    """Tokens the run's debates took, a question; None where its graphs come from a file that does not say."""
    manifest = run.read_manifest("debates")
    facts = manifest.facts if manifest else {}
    held = facts.get("debates", 0) - facts.get("failed", 0)
    return facts["tokens_out"] / held if held > 0 and facts.get("tokens_out") else None


def _signals() -> Any:
    """The signals that arrive, one after the other."""
    arrived: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda sign, _: arrived.put(sign))
    while True:
        yield arrived.get()

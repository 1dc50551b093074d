"""One machine's endpoint: a run's student, or any model directory, served over HTTP until told to stop.

SIGHUP deploys anew what the directory holds by then, without a failed request; Ctrl-C and SIGTERM let requests under way end.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from magdi_ray.cluster import joins_cluster, ray_session, serve_over_http
from magdi_ray.config import dump_config, parse_config
from magdi_ray.config.base import absolute
from magdi_ray.config.load import apply_override, parse_section, read_yaml
from magdi_ray.config.serving import Endpoint, ServeConfig, StudentArgs
from magdi_ray.errors import ConfigError, MagdiError
from magdi_ray.exporting import chosen_recipe, finished_student, stored_config
from magdi_ray.progress import console
from magdi_ray.runs import CONFIG, Run
from magdi_ray.stages import student_stage
from magdi_ray.tasks.load import load_task, task_named
from magdi_ray.tasks.store import iter_stored


@dataclass(frozen=True, slots=True)
class Served:
    """What is to be served, and where."""

    args: StudentArgs
    config: ServeConfig
    question: str
    """The prompt of an example call."""


def serve_path(path: Path, *, student: str | None, task: str | None, overrides: Sequence[str]) -> None:
    """Serve the student of a run directory, or a model directory. Returns when told to stop.

    Raises:
        RunError: the run has no such finished student.
        ConfigError: a setting cannot be used, or there is nothing to serve at `path`.
        EngineError: the model cannot start.
    """
    read = _reader(path, student, task, overrides)
    served = read()
    with ExitStack() as stack:
        if not joins_cluster():
            serve_over_http(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="magdi-serve-"))))
        stack.enter_context(ray_session())
        from magdi_ray.serving.app import deploy, start_http

        start_http(served.config.host, served.config.port)
        with console.status(f"starting {served.args.model_name}"):
            deploy(served.args)
        _greet(served)
        for sign in _signals():
            if sign != signal.SIGHUP:
                break
            _deploy_anew(read, served, deploy)
        console.print("stopping: requests under way are answered")
    console.print("stopped")


def _deploy_anew(read: Callable[[], Served], before: Served, deploy: Callable[[StudentArgs], None]) -> None:
    """What the directory holds now takes over; what cannot be served leaves everything as it is."""
    try:
        now = read()
        if (now.config.host, now.config.port) != (before.config.host, before.config.port):
            console.print("[yellow]![/] serve.host and serve.port are those of the start; they change with a new start only.")
        deploy(now.args)
    except MagdiError as error:
        console.print(f"[red]✗[/] not deployed: {error}", markup=True)
    else:
        console.print(f"[green]✓[/] {now.args.model_name} was deployed anew")


def _reader(path: Path, student: str | None, task: str | None, overrides: Sequence[str]) -> Callable[[], Served]:
    if (path / CONFIG).is_file() or not ((path / "config.json").is_file() or (path / "adapter_config.json").is_file()):
        if task is not None:
            raise ConfigError("--task says how answers are read from a model directory's replies; a run has its own task.")
        return lambda: from_run(Run(path), student=student, overrides=overrides)
    if student is not None:
        raise ConfigError("--student names a recipe of a run; a model directory is served as it is.")
    return lambda: from_model(path, task=task, overrides=overrides)


def from_run(run: Run, *, student: str | None = None, overrides: Sequence[str] = ()) -> Served:
    """The product of a run, or the student of another of its recipes, with the run's teachers and questions at hand."""
    config = stored_config(run)
    data = read_yaml(dump_config(config), str(run.root / CONFIG))
    for override in overrides:
        apply_override(data, override)
    config = parse_config(data, f"{run.root / CONFIG} with --set")
    recipe = chosen_recipe(config, student)
    stage = student_stage(config, recipe)
    version = finished_student(run, config, stage).content
    if config.serve.escalate and config.debate is None:
        raise ConfigError("serve.escalate asks the debate's teachers, but this run's graphs come from a file: it has none.")
    args = {
        "model": str(run.path(stage)),
        "model_name": f"{config.name}-{recipe.name}",
        "task": config.task.name,
        "run": str(run.root),
        "debate": config.debate.model_dump(mode="json") if config.debate and config.serve.escalate else None,
        "seed": config.seed,
        "version": version[:16],
        "debate_tokens": _debate_tokens(run),
        "escalations": config.serve.escalations or str(run.root / "escalations"),
        "access_log": config.serve.access_log or str(run.root / "access.log"),
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
        raise ConfigError(f"--set {unknown[0]}...: a model directory has no run; what can be set begins with `serve.`.")
    config = parse_section(data["serve"], "--set", ServeConfig)
    if config.escalate:
        raise ConfigError("serve.escalate asks the teachers of a run's debate: serve the run directory instead of the model's.")
    args = {"model": str(directory.resolve()), "model_name": directory.resolve().name, "task": task}
    return _served(args, config, "2 + 2?")


def _served(args: dict[str, Any], config: ServeConfig, question: str) -> Served:
    shared = config.model_dump(mode="json", include=set(Endpoint.model_fields))
    for name in ("api_keys_file", "escalations", "access_log"):  # what serves works in directories of its own
        shared[name] = str(Path(shared[name]).resolve()) if shared[name] else None
    shared["adapters"] = {name: absolute(adapter) for name, adapter in config.adapters.items()}
    return Served(parse_section(shared | args, "serve", StudentArgs), config, question)


def _greet(served: Served) -> None:
    host = "127.0.0.1" if served.config.host in ("0.0.0.0", "::") else served.config.host  # noqa: S104 - compared, not bound
    url = f"http://{host}:{served.config.port}"
    page = f", its page is {url}/" if served.args.playground else ""
    console.print(f"[green]✓[/] {served.args.model_name} answers at {url}/v1{page}")
    if not _keys(served) and served.config.host not in ("127.0.0.1", "localhost", "::1"):
        console.print("[yellow]![/] nobody is asked for a key, and other machines can reach it: see serve.api_keys_file")
    console.print("Try:\n")
    print(example_call(served, url), flush=True)
    console.print("\nCtrl-C stops it; SIGHUP deploys anew what the directory holds by then.")


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

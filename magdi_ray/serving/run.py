"""Serve a run's student from the command line until told to stop."""

from __future__ import annotations

import json
import signal
import threading
from typing import Any

from magdi_ray.cluster import ray_session, set_environment
from magdi_ray.config import RunConfig, load_config, parse_config, recipes
from magdi_ray.config.base import Section
from magdi_ray.errors import ConfigError, RunError
from magdi_ray.pipeline import plan
from magdi_ray.progress import console
from magdi_ray.runs import CONFIG, Run
from magdi_ray.stages import student_stage
from magdi_ray.tasks.load import load_task
from magdi_ray.tasks.store import iter_stored


def serve_run(run: Run, *, student: str | None, overrides: dict[str, Any]) -> None:
    """Serve the product of a run, or the student of another of its recipes, over HTTP. Returns when interrupted.

    Raises:
        RunError: the run has no such finished student.
        ConfigError: the run has no such recipe, or a setting cannot be used.
    """
    config = load_config(run.root / CONFIG)
    config = parse_config(_with(config, overrides), "serve options")
    chosen = {recipe.name: recipe for recipe in recipes(config.distil)}
    name = student or next(reversed(chosen))
    if name not in chosen:
        raise ConfigError(f"The run has no recipe {name!r}; it has {', '.join(chosen)}.")
    stage = student_stage(config, chosen[name])
    run.require(stage)
    current = next(item for item in plan(config) if item.name == stage)
    if run.state(stage, current.shaped_by, current.inputs) != "complete":
        raise RunError(f"{run.path(stage)} was made before the run's configuration changed. Finish the run first: magdi run.")
    set_environment()
    from magdi_ray.serving.app import serve_student

    with ray_session():
        model = f"{config.name}-{name}"
        with console.status(f"starting {model}"):
            url = serve_student(run.path(stage), model, config.serve)
        console.print(f"[green]✓[/] {model} answers at {url}. Try:\n")
        print(example_call(config, run, model, url), flush=True)
        console.print("\nCtrl-C stops it.")
        _wait_for_signal()
    console.print("stopped")


def _with(config: Section, overrides: dict[str, Any]) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    return data | {"serve": data["serve"] | overrides}


def example_call(config: RunConfig, run: Run, model: str, url: str) -> str:
    """A curl command that asks a held-out question of the run."""
    directory = run.path("questions")
    held_out = (question for question in iter_stored(directory) if question.split == config.evaluate.splits[0])
    question = next(held_out, None) or next(iter_stored(directory))
    body = {"model": model, "messages": [{"role": "user", "content": load_task(config.task).prompt(question)}], "temperature": 0}
    data = json.dumps(body).replace("'", "'\\''")
    return f"curl {url}/chat/completions -H 'Content-Type: application/json' -d '{data}'"


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()

"""The command `magdi evaluate --lm-eval`: which systems of a run the lm-evaluation-harness is pointed at. Above the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magdi_ray.agents.weights import base_and_adapter, check_model_directory, has_tokenizer
from magdi_ray.config import RunConfig
from magdi_ray.errors import ConfigError
from magdi_ray.evaluate.answers import BASE
from magdi_ray.evaluate.harness import HarnessOptions, LocalStudent, Target, find_endpoint, run_harness
from magdi_ray.exporting import chosen_recipe, finished_student, stored_config
from magdi_ray.runs import Run
from magdi_ray.stages import base_model, student_stage
from magdi_ray.storage import deliver

DIRECTORY = "lm-eval"
"""Beside the stages' directories, in none of them."""


def evaluate_run(
    run: Run, options: HarnessOptions, *, students: Sequence[str] = (), endpoint: str | None = None, model: str | None = None
) -> dict[str, dict[str, Any]]:
    """Ask students of a run, or an endpoint, the tasks; see `run_harness`. Without either, the product is asked.

    Raises:
        ConfigError: options that do not go together, or what `run_harness` refuses.
        RunError: there is no run, or it has no such finished student.
        EngineError: a model cannot be loaded, or gives no answer.
    """
    if endpoint is not None and students:
        raise ConfigError("--student takes weights of the run, --endpoint a served model. Give one of them.")
    if model is not None and endpoint is None:
        raise ConfigError("--model names a model of an endpoint; it needs --endpoint URL.")
    config = stored_config(run)
    if endpoint is not None:
        targets: list[Target] = [find_endpoint(endpoint, model)]
    else:
        targets = [run_student(run, config, name) for name in dict.fromkeys(students or (None,))]
    results = run_harness(options, targets, run.root / DIRECTORY)
    deliver(run.root / DIRECTORY, run.beside(DIRECTORY))
    return results


def run_student(run: Run, config: RunConfig, name: str | None) -> LocalStudent:
    """The weights of a run's student: a recipe's, the product's (None), or the untaught one's ("base").

    Raises:
        ConfigError: no recipe has that name, or the weights' files are missing.
        RunError: the student is not finished.
    """
    if name == BASE:
        system, weights = BASE, base_model(config, run)
    else:
        recipe = chosen_recipe(config, name)
        stage = student_stage(config, recipe)
        finished_student(run, config, stage)
        system, weights = recipe.name, str(run.path(stage))
    check_model_directory(weights)
    base, adapter = base_and_adapter(weights)
    tokenizer = adapter if adapter is not None and has_tokenizer(adapter) else base
    return LocalStudent(system, base, adapter, tokenizer, config.evaluate.dtype)

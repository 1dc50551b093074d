"""Tasks of EleutherAI's lm-evaluation-harness, asked of a student's weights or of a served endpoint.

The harness (package `lm_eval`) brings questions, prompts and metrics; here is what it is pointed at, what is refused before it
starts, and where its results go, one directory a system:

    lm-eval/level4/results.json, samples_gsm8k.jsonl, log.txt

Knows no run (see `magdi_ray.harnessing`) and no Ray.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import DirectoryPath, Field, ValidationError

from magdi_ray.config.base import Section
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.evaluate.harness_output import Count, Log, aside, replaced, without_git, write_results
from magdi_ray.progress import Progress, console, polled

CHAT = "/chat/completions"


class HarnessOptions(Section):
    """What is asked, and how."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks, groups and tags, as the harness names them."""
    include_path: DirectoryPath | None = None
    """A directory of further task files (YAML)."""
    limit: int | None = Field(None, ge=1)
    """Only so many questions of each task: a quick look, no result to publish."""
    num_fewshot: int | None = Field(None, ge=0)
    """Worked examples before each question; None: what the task says. A task that fixes it at 0 stays at 0."""
    batch_size: int | Literal["auto"] = 8
    """Questions read together, or under way at an endpoint; "auto" finds the largest that fits the GPU."""
    apply_chat_template: bool = False
    """Ask in the student's chat format. An endpoint is always asked so."""


def harness_options(tasks: str, **settings: Any) -> HarnessOptions:
    """Options as the command line gives them: `tasks` with commas between, a batch size in digits.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    names = tuple(dict.fromkeys(filter(None, (name.strip() for name in tasks.split(",")))))
    if not names:
        raise ConfigError("--lm-eval needs task names, such as gsm8k,arc_easy.")
    size = str(settings.get("batch_size", HarnessOptions.model_fields["batch_size"].default))
    if size != "auto" and not (size.isdecimal() and int(size) > 0):
        raise ConfigError(f"--batch-size must be a whole number from 1, or auto; found {size!r}.")
    try:
        return HarnessOptions(tasks=names, **settings | {"batch_size": size if size == "auto" else int(size)})
    except ValidationError as error:
        lines = "; ".join(f"{e['loc'][0]}: {e['msg']}, found {e['input']!r}" for e in error.errors(include_url=False))
        raise ConfigError(f"--lm-eval cannot be run with these options: {lines}. Correct them.") from None


@dataclass(frozen=True, slots=True)
class LocalStudent:
    """Weights on this machine, or on the hub."""

    name: str
    base: str
    """Full weights."""
    adapter: str | None
    """A PEFT adapter on them."""
    tokenizer: str
    dtype: str = "float32"

    def model(self, options: HarnessOptions) -> tuple[str, dict[str, Any]]:
        """The harness's name of the kind of model, and its arguments."""
        import torch

        adapter = {"peft": self.adapter} if self.adapter else {}
        place = {"device": "cuda" if torch.cuda.is_available() else "cpu", "batch_size": options.batch_size}
        weights = {"dtype": self.dtype, "use_safetensors": True, "trust_remote_code": False}
        return "hf", {"pretrained": self.base, **adapter, "tokenizer": self.tokenizer, **weights, **place}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind the OpenAI chat API."""

    url: str
    """Up to and with /v1."""
    served: str
    """What the endpoint calls the model."""

    @property
    def name(self) -> str:
        """The system's name, fit for a directory."""
        return "endpoint-" + "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in self.served)

    def model(self, options: HarnessOptions) -> tuple[str, dict[str, Any]]:
        """The harness's name of the kind of model, and its arguments. The key is in OPENAI_API_KEY, as everywhere."""
        place = {"base_url": self.url + CHAT, "num_concurrent": options.batch_size, "batch_size": 1}
        return "local-chat-completions", {"model": self.served, **place}


Target = LocalStudent | Endpoint


def check_target(options: HarnessOptions, tasks: Mapping[str, Any], target: Target) -> None:
    """Refuse what cannot be asked of a target, before any model is loaded or asked.

    Raises:
        ConfigError: what it is.
    """
    if isinstance(target, LocalStudent):
        from transformers import AutoTokenizer

        tokenizer = target.tokenizer
        if options.apply_chat_template and not AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False).chat_template:
            raise ConfigError(
                f"{target.name} has no chat template to apply: {target.tokenizer} brings none. Leave out --chat-template."
            )
        return
    if options.batch_size == "auto":
        raise ConfigError("An endpoint has no batch size to find: give --batch-size the number of requests under way.")
    scored = [name for name, task in tasks.items() if task.OUTPUT_TYPE != "generate_until"]
    if scored:
        raise ConfigError(
            f"{listed(scored)} cannot be asked of an endpoint: such a task compares the likelihoods of given answers, and "
            "the chat API returns none. Leave out --endpoint to take the weights, or choose tasks whose answers are written."
        )


def find_endpoint(url: str, model: str | None = None) -> Endpoint:
    """An endpoint and the model to ask there, which has answered once; None takes the only one it has.

    Raises:
        ConfigError: the address is none, the model must be named, or it does not answer.
    """
    from openai import OpenAI, OpenAIError

    base = url.rstrip("/").removesuffix(CHAT)
    if not base.startswith(("http://", "https://")):
        raise ConfigError(f"--endpoint must begin with http:// or https://, such as http://127.0.0.1:8000/v1; found {url!r}.")
    with OpenAI(base_url=base, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=1, timeout=120) as client:
        served = model or _only_model(client, base)
        try:
            client.chat.completions.create(model=served, messages=[{"role": "user", "content": "hi"}], max_tokens=1)
        except OpenAIError as error:
            raise ConfigError(
                f"{served!r} at {base} does not answer: {error}. Nothing was asked. Check --endpoint and --model."
            ) from None
    return Endpoint(base, served)


def _only_model(client: Any, base: str) -> str:
    from openai import OpenAIError

    try:
        names = [card.id for card in client.models.list()]
    except OpenAIError as error:
        raise ConfigError(f"{base}/models does not say what is served: {error} Name the model with --model.") from None
    if len(names) != 1:
        raise ConfigError(f"{base} serves {len(names)} models: {listed(names)}. Name one with --model.")
    return str(names[0])


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few of some names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True, slots=True)
class Asked:
    """Tasks of the harness, their questions loaded."""

    manager: Any
    items: list[Any]
    """Groups and single tasks, as they were named."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """Every single task."""

    def requests(self) -> int:
        """What a system is asked in all; 0 before the requests are made."""
        return sum(request.repeats for task in self.tasks.values() for request in task.instances or ())


def task_manager(include_path: Path | None = None) -> Any:
    """The harness's index of tasks; making it reads some fifteen thousand files, about 10 s.

    Raises:
        ConfigError: the harness is not installed, or a task file cannot be read.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError('--lm-eval needs the lm-evaluation-harness: pip install "magdi-ray[lm-eval]".')
    from lm_eval.tasks import TaskManager

    try:
        return TaskManager(include_path=include_path)
    except Exception as error:  # a task file may run code of its own
        raise ConfigError(
            f"The task files in {include_path} cannot be read: {type(error).__name__}: {error}. Mend them."
        ) from error


def load_tasks(manager: Any, names: Sequence[str]) -> Asked:
    """Find tasks by name and load their questions.

    Raises:
        ConfigError: there is no such task, its questions cannot be had, or it is of a kind that is not run here.
    """
    if unknown := [name for name in names if name not in manager.task_index]:
        near = difflib.get_close_matches(unknown[0], manager.all_tasks, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists them all."
        raise ConfigError(
            f"The lm-evaluation-harness has no task {unknown[0]!r}. {hint} Name task files of your own with --include-path."
        )
    items: list[Any] = []
    name = names[0]
    try:
        for name in names:
            items += _items(manager, name)
        name = listed(names)
        tasks = manager.load(items)["tasks"]
    except Exception as error:  # whatever the hub, the network or a task's own code raises
        raise ConfigError(
            f"The questions of {name} could not be loaded: {_why(error)} Nothing was asked; try again when that is mended."
        ) from error
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"{name} would run code that the model writes. Such tasks are not run here. Leave it out.")
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"{name} asks about images or sound; the students read text. Leave it out.")
    return Asked(manager, items, tasks)


def _items(manager: Any, name: str) -> list[Any]:
    found = manager.load([name])
    return [found["groups"][name]] if name in found["groups"] else list(found["tasks"].values())


def _why(error: BaseException) -> str:
    """Why questions could not be loaded: in words for what happens to people, else in the error's own."""
    if isinstance(error, StopIteration):
        return "a file of them is empty. At least one question is required; check the task's data files."
    if isinstance(error, ConnectionError):
        return (
            f"they are on the Hugging Face hub, which cannot be reached ({error}), and are not on this machine yet. Check the "
            "connection, or load them once where there is one and bring the hub's cache along (HF_HOME)."
        )
    return f"{type(error).__name__}: {error}. Check the task's data, and which version of the harness it is for."


def run_harness(
    options: HarnessOptions, targets: Sequence[Target], out: Path, *, manager: Any = None
) -> dict[str, dict[str, Any]]:
    """Ask every target all tasks; what the harness found, by the target's name, is also in `out/NAME`.

    All targets are checked before the first is loaded. What stood in `out/NAME` moves to `out/superseded`.

    Raises:
        ConfigError: the harness is not installed, a task cannot be had, or not be asked of a target.
        EngineError: a model cannot be loaded, or gives no answer.
    """
    with console.status("reading the tasks of the lm-evaluation-harness"), aside():
        asked = load_tasks(manager or task_manager(options.include_path), options.tasks)
        for target in targets:
            check_target(options, asked.tasks, target)
    return {target.name: evaluate_target(options, asked, target, out / target.name) for target in targets}


def evaluate_target(options: HarnessOptions, asked: Asked, target: Target, directory: Path) -> dict[str, Any]:
    """Ask one target all tasks and write what came of it."""
    count = Count()

    def look(progress: Progress) -> None:
        progress.update(count.done, total=asked.requests() or None)

    with replaced(directory) as fresh:
        with Log(fresh / "log.txt") as log, polled(Progress(f"lm-eval {target.name}", None), look), aside():
            try:
                results = _evaluate(options, asked, target, count)
            except Exception as error:  # torch, transformers, the network and the tasks raise dozens of types
                told = f" Before that: {log.last}" if log.last else ""
                raise EngineError(f"{target.name} could not be evaluated: {type(error).__name__}: {error}.{told}") from error
        figures = write_results(fresh, results)
    if log.warnings:
        console.print(f"  {log.warnings} warnings of the harness are in {directory / 'log.txt'}", markup=False, soft_wrap=True)
    return figures


def _evaluate(options: HarnessOptions, asked: Asked, target: Target, count: Count) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.api.registry import get_model

    kind, arguments = target.model(options)
    model = get_model(kind).create_from_arg_obj(arguments)
    model.set_cache_hook(count)
    with without_git():
        results = simple_evaluate(
            model=model,
            tasks=asked.items,
            task_manager=asked.manager,
            num_fewshot=options.num_fewshot,
            batch_size=options.batch_size,
            limit=options.limit,
            apply_chat_template=options.apply_chat_template or isinstance(target, Endpoint),
        )
    results["config"] |= {"model": kind, "model_args": arguments}
    asked_for = json.loads(options.model_dump_json())
    return {"system": target.name, "options": asked_for, **results}

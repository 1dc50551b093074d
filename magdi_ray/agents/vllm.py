"""A teacher that vLLM decodes, as a Serve application built by `ray.serve.llm`: vLLM's replicas, and one door in front of them.

The door writes the prompt as every other local engine does, to the token, asks for a completion of those tokens, and gives back
a `Reply`; so callers cannot tell it from an `EngineReplica`. Nothing is imported from vLLM, nor from `ray.serve.llm` (which
needs vLLM to be imported), before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from math import exp
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.pool import PoolSpec, copies
from magdi_ray.agents.weights import base_and_adapter
from magdi_ray.config.engines import VllmEngine
from magdi_ray.config.resources import Place
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.placement import bundle, remote_options

BASE = "base"
ADAPTER = "adapter"
"""What a request's `model` is called inside one application."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks vLLM reserves room for."""

ROWS = 128
"""Replies a replica decodes together, where engine_kwargs names no max_num_seqs."""


def has_vllm() -> bool:
    """Whether vLLM is installed, without importing it. A directory that happens to be called so has no origin, and is none."""
    found = find_spec("vllm")
    return found is not None and found.origin is not None


def check_vllm() -> None:
    """Check that vLLM is installed, without importing it.

    Raises:
        ConfigError: it is not; with the line that installs it.
    """
    if not has_vllm():
        raise ConfigError(
            "An engine of type vllm needs vLLM, which is not installed here: pip install vllm "
            "(or pip install 'ray[llm]' for the version this Ray was tested with)."
        )


def vllm_application(spec: PoolSpec) -> serve.Application:
    """The Serve application of a `VllmEngine`, not yet deployed.

    Raises:
        ConfigError: vLLM is not installed, or refuses the engine's configuration.
    """
    check_vllm()
    assert isinstance(spec.engine, VllmEngine)
    from ray.serve.llm import LLMConfig, build_llm_deployment

    engine = spec.engine.located()
    settings = llm_settings(spec)
    try:
        server = build_llm_deployment(LLMConfig(**settings), override_serve_options=placed(spec.place))
    except ValueError as error:
        raise ConfigError(
            f"vLLM cannot serve {engine.model!r}: {error}. Check engine_kwargs and the model, or take type: transformers."
        ) from None
    door = serve.deployment(VllmDoor).options(
        name="engine",
        ray_actor_options={"num_cpus": 0, **remote_options(Place(labels=spec.place.labels))},
        max_ongoing_requests=settings["deployment_config"]["max_ongoing_requests"] * spec.replicas[1],
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.1,
    )
    application: serve.Application = door.bind(engine, server)
    return application


def llm_settings(spec: PoolSpec) -> dict[str, Any]:
    """The fields of `ray.serve.llm.LLMConfig` for one engine."""
    assert isinstance(spec.engine, VllmEngine)
    engine = spec.engine.located()
    base, _ = base_and_adapter(engine.model)
    rows = engine.engine_kwargs.get("max_num_seqs", ROWS)
    # vLLM's workers live in the placement group's bundles. On CPUs there is none beside the replica, and no bundle may be empty.
    gpus = {"bundle_per_worker": bundle(spec.place, num_gpus=spec.num_gpus)}
    cpus = {"bundles": [bundle(spec.place, num_cpus=spec.num_cpus)]}
    return {
        "model_loading_config": {"model_id": BASE, "model_source": base},
        "engine_kwargs": engine_arguments(engine, num_gpus=spec.num_gpus),
        "placement_group_config": gpus if spec.num_gpus else cpus,
        "deployment_config": {
            "ray_actor_options": {"num_cpus": spec.num_cpus if spec.num_gpus else 0},
            "max_ongoing_requests": spec.max_ongoing_requests or 2 * rows,
            "max_constructor_retry_count": 2,
            **copies(spec.replicas, full=rows),
        },
    }


def placed(place: Place) -> dict[str, Any]:
    """Serve's options that keep a replica's placement group to the nodes of a place; what it reserves is in the bundles."""
    return {"placement_group_bundle_label_selector": [place.labels]} if place.labels else {}


def engine_arguments(engine: VllmEngine, *, num_gpus: float) -> dict[str, Any]:
    """Arguments of vLLM's engine, under its own names; `engine_kwargs` has the last word."""
    _, adapter = base_and_adapter(engine.model)
    arguments: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_num_seqs": ROWS,
        # The model's own temperature, top_k and penalties stay out: `Sampling` alone says how a reply is drawn.
        "generation_config": "vllm",
    }
    if engine.max_model_len is not None:
        arguments["max_model_len"] = engine.max_model_len
    if num_gpus == 0:
        arguments["enforce_eager"] = True  # compiling takes minutes, and a compiler
    elif num_gpus < 1:
        arguments["gpu_memory_utilization"] = round(0.9 * num_gpus, 3)  # the rest is the neighbours'
    if adapter is not None:
        from vllm.entrypoints.openai.models.protocol import LoRAModulePath

        arguments["enable_lora"] = True
        arguments["max_lora_rank"] = lora_room(adapter)
        arguments["lora_modules"] = [LoRAModulePath(name=ADAPTER, path=adapter)]
    return arguments | engine.engine_kwargs


def lora_room(adapter: str) -> int:
    """The smallest rank vLLM reserves room for that holds an adapter's; 64 where only the hub knows it.

    Raises:
        ConfigError: the adapter's rank is beyond them all.
    """
    file = Path(adapter) / "adapter_config.json"
    if not file.is_file():
        return 64
    config = json.loads(file.read_text(encoding="utf-8"))
    rank = max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()])
    room = next((room for room in LORA_RANKS if room >= rank), None)
    if room is None:
        raise ConfigError(f"The adapter {adapter} has rank {rank}; vLLM takes at most {LORA_RANKS[-1]}. Merge it into its base.")
    return room


class VllmDoor:
    """What callers reach: one small process in front of all of vLLM's replicas."""

    def __init__(self, config: VllmEngine, server: DeploymentHandle[Any]) -> None:
        from transformers import AutoConfig

        from magdi_ray.agents.transformers import load_tokenizer

        base, adapter = base_and_adapter(config.model)
        own = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config()
        self._config = config
        self._model = BASE if adapter is None else ADAPTER
        self._tokenizer = load_tokenizer(config.model)
        self._context_length = config.max_model_len or getattr(own, "max_position_embeddings", None)
        self._server = server.options(stream=True)

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Answer one conversation; see `Engine`.

        Raises:
            ContextLengthError: prompt and `max_tokens` exceed the model's context; both counts are named.
            EngineError: the chat template refuses the messages, or vLLM the request, in its own words.
        """
        from ray.serve.llm.openai_api_models import CompletionRequest

        from magdi_ray.agents.transformers import decode_text, fit_context, read_prompt

        if self._config.system_prompt is not None:
            messages = [Message("system", self._config.system_prompt), *messages]
        ids = read_prompt(self._tokenizer, messages)
        sampling = fit_context(sampling, len(ids), context_length=self._context_length, model=self._config.model)
        request = CompletionRequest(**completion_request(self._model, ids, sampling))
        async for response in self._server.completions.remote(request):
            text = partial(decode_text, self._tokenizer)
            return read_completion(response.model_dump(), model=self._config.model, stops=sampling.stop, decode=text)
        raise EngineError(f"vLLM gave no response for {self._config.model}.")


def completion_request(model: str, ids: list[int], sampling: Sampling) -> dict[str, Any]:
    """The fields of an OpenAI completion request for one prompt of token ids."""
    return {
        "model": model,
        "prompt": ids,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": [stop for stop in sampling.stop if stop],
        "seed": sampling.seed,
        "logprobs": 0,  # of the chosen tokens only, before temperature and top_p
        "return_token_ids": True,
    }


def read_completion(
    response: Mapping[str, Any], *, model: str, stops: Sequence[str], decode: Callable[[list[int]], str]
) -> Reply:
    """The reply in an OpenAI completion response. Its text is decoded here, for vLLM's own keeps a space in front of it.

    Raises:
        EngineError: the response is an error, or the reply ended in another way than by `stop` or `length`.
    """
    if error := response.get("error"):
        raise EngineError(f"vLLM refuses the request to {model}: {error['message']}")
    choice = response["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        raise EngineError(f"vLLM broke off a reply of {model}: finish_reason is {choice['finish_reason']!r}.")
    logprobs = [value for value in (choice.get("logprobs") or {}).get("token_logprobs") or [] if value is not None]
    text = decode(choice["token_ids"])
    return Reply(
        text=text[: min((cut for stop in stops if stop and (cut := text.find(stop)) >= 0), default=len(text))],
        tokens_in=response["usage"]["prompt_tokens"],
        tokens_out=response["usage"]["completion_tokens"],
        confidence=min(1.0, sum(map(exp, logprobs)) / len(logprobs)) if logprobs else None,
        finish_reason=choice["finish_reason"],
        model=model,
    )

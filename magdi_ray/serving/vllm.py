"""The student decoded by vLLM: the server that `ray.serve.llm` makes of it, and its copies as a `Backend`.

vLLM gets token ids and gives token ids back. Prompts are written, and replies spelled out, by the code that does it for our own
engine; so the front door, and whoever stands before it, cannot tell the two apart but by their speed. Nothing is imported from
vLLM, nor from `ray.serve.llm` (which needs vLLM to be imported), before it is used.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from magdi_ray.agents.base import ContextLengthError, PromptError
from magdi_ray.agents.chat import encode_reply
from magdi_ray.agents.choosing import Row
from magdi_ray.agents.pool import PoolSpec, copies
from magdi_ray.agents.prompting import PromptReader
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores
from magdi_ray.agents.vllm import ADAPTER, BASE, check_vllm, completion_request, llm_settings, lora_room, placed
from magdi_ray.agents.weights import base_and_adapter, resolve_model
from magdi_ray.agents.written import Scribe, Spelling
from magdi_ray.config.engines import VllmEngine
from magdi_ray.config.serving import StudentArgs
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.serving.backend import AHEAD, GRACE_SECONDS
from magdi_ray.serving.copies import Copies
from magdi_ray.serving.vllm_replies import Reading, events, outlived, read_logprobs, reply_request, write

HEALTH_SECONDS = 2.0
"""So often is every copy asked for its health: one whose engine died answers at once, with errors, until it is replaced."""

TOGETHER = 8
"""Adapters of one batch, at most; vLLM reserves room for all of them. Rows of further ones wait."""

WARM_UP = (
    Decoding(max_tokens=2),
    Decoding(max_tokens=2, temperature=1.0, top_p=0.9, seed=0, frequency_penalty=1.0, presence_penalty=1.0, top_logprobs=1),
)
"""Replies a copy writes before it is ready: one of each way of choosing tokens."""

CPU_CACHE = 2 << 30
"""Bytes of cache a copy on CPUs reserves, where engine_kwargs say nothing; vLLM itself would take nine tenths of the
machine's memory."""


def vllm_server(args: StudentArgs) -> serve.Application:
    """The deployment of a student that vLLM decodes; ask it through `VllmCopies`.

    Raises:
        ConfigError: vLLM is not installed, or refuses the arguments.
    """
    check_vllm()
    if "lora_modules" in args.engine_kwargs:
        raise ConfigError(
            "Adapters are named under adapters, by which clients ask for them, and not under engine_kwargs.lora_modules. "
            "Move them there."
        )
    from ray.serve.llm import LLMConfig, build_llm_deployment

    settings = server_settings(args)
    settings["engine_kwargs"] |= adapter_arguments(args)
    if not args.num_gpus:
        inherited = ray.get_runtime_context().runtime_env.get("env_vars") or {}
        settings["runtime_env"] = {"env_vars": inherited | threads(args)}
    try:
        return build_llm_deployment(
            LLMConfig(**settings), override_serve_options=server_options(args), deployment_cls=warm_server()
        )
    except ValueError as error:
        raise ConfigError(
            f"vLLM cannot serve {args.model!r}: {error}. Check engine_kwargs and the model, or take engine: transformers."
        ) from None


def warm_server() -> type:
    """`ray.serve.llm`'s server, ready when it has written a reply: what vLLM compiles for the first one takes seconds."""
    from ray.serve.llm.deployment import LLMServer
    from ray.serve.llm.openai_api_models import CompletionRequest

    class WarmServer(LLMServer):
        async def start(self) -> None:
            await super().start()
            for decoding in WARM_UP:
                async for item in await self.completions(CompletionRequest(**reply_request(BASE, [0], decoding))):
                    list(events(item))

    return WarmServer


def server_settings(args: StudentArgs) -> dict[str, Any]:
    """The fields of `ray.serve.llm.LLMConfig`, but for those about adapters. `engine_kwargs` has the last word."""
    workers = args.engine_kwargs.get("tensor_parallel_size") or max(1, int(args.num_gpus))
    workers *= args.engine_kwargs.get("pipeline_parallel_size", 1)
    engine_kwargs = {"max_num_seqs": args.max_batch_size, "enable_per_request_metrics": True, **args.engine_kwargs}
    if workers > 1:
        engine_kwargs.setdefault("tensor_parallel_size", workers)
    if not args.num_gpus:
        engine_kwargs.setdefault("kv_cache_memory_bytes", CPU_CACHE)
    length = args.context_length
    engine = VllmEngine(type="vllm", model=args.model, dtype=args.dtype, max_model_len=length, engine_kwargs=engine_kwargs)
    place = args.resources.serve
    spec = PoolSpec("student", engine, args.replicas, num_cpus=args.num_cpus, num_gpus=args.num_gpus / workers, place=place)
    return llm_settings(spec) | {"experimental_configs": {"stream_batching_interval_ms": args.stream_interval_ms}}


def server_options(args: StudentArgs) -> dict[str, Any]:
    """Serve's options for the deployment."""
    rows = args.engine_kwargs.get("max_num_seqs", args.max_batch_size)
    return {
        "name": "student",
        "max_ongoing_requests": AHEAD * rows,
        "max_surge_percent": args.max_surge_percent,
        "max_constructor_retry_count": 2,
        "health_check_period_s": HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": args.request_timeout_s + GRACE_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.1,
        **copies(args.replicas, full=rows, downscale_delay_s=args.downscale_delay_s),
        **placed(args.resources.serve),
    }


def threads(args: StudentArgs) -> dict[str, str]:
    """What keeps a copy on CPUs to those it reserves: vLLM itself would take, and bind, all but one of the machine's."""
    return {"OMP_NUM_THREADS": str(max(1, int(args.num_cpus))), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def adapter_arguments(args: StudentArgs) -> dict[str, Any]:
    """Arguments of vLLM's engine for the student's own adapter and those beside it; none where it has none.

    Raises:
        ConfigError: an adapter's rank is beyond vLLM's.
    """
    _, own = base_and_adapter(args.model)
    directories = {} if own is None else {ADAPTER: own}
    directories |= {called(name): _located(adapter) for name, adapter in args.adapters.items()}
    if not directories:
        return {}
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    arguments = {
        "enable_lora": True,
        "max_lora_rank": max(map(lora_room, directories.values())),
        "max_loras": min(TOGETHER, len(directories)),
        "max_cpu_loras": len(directories),
    }
    given = {name: args.engine_kwargs[name] for name in arguments if name in args.engine_kwargs}
    modules = [LoRAModulePath(name=name, path=path) for name, path in directories.items()]
    return arguments | given | {"lora_modules": modules}


def context_length(args: StudentArgs, config: Any) -> int | None:
    """Tokens of prompt and reply together; None where neither the arguments nor the model's configuration say a number."""
    own = getattr(config, "max_position_embeddings", None)
    for length in (args.context_length, args.engine_kwargs.get("max_model_len"), own):
        if isinstance(length, int) and length > 0:  # vLLM takes -1 and "auto" for what fits into memory
            return length
    return None


def called(adapter: str) -> str:
    """What vLLM calls an adapter that is served beside the student; never what it calls the student itself."""
    return f"beside:{adapter}"


def _located(adapter: str) -> str:
    path = resolve_model(adapter)
    return str(Path(path).resolve()) if Path(path).is_dir() else path


class VllmCopies(Copies):
    """Asks whichever copy of vLLM is least busy; failures are survived, and called, as those of our own engine."""

    def __init__(self, args: StudentArgs, handle: DeploymentHandle[Any]) -> None:
        """Load the tokenizer, but no weights.

        Raises:
            ConfigError: vLLM is not installed.
        """
        super().__init__(handle)
        check_vllm()
        from ray.serve.llm.openai_api_models import CompletionRequest
        from transformers import AutoConfig

        from magdi_ray.agents.transformers import decode_text, load_tokenizer

        base, own = base_and_adapter(args.model)
        config = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config()
        self._request = CompletionRequest
        self._model = args.model_name
        self._names: dict[str | None, str] = {None: BASE if own is None else ADAPTER}
        self._names |= {name: called(name) for name in args.adapters}
        self._tokenizer = load_tokenizer(args.model)
        self._context_length = context_length(args, config)
        self._reader = PromptReader(
            self._tokenizer,
            system_prompt=None,
            context_length=self._context_length,
            vocabulary=config.vocab_size,
            model=args.model_name,
        )
        self._decode = partial(decode_text, self._tokenizer)
        self._spelling = Spelling(self._tokenizer)
        self._ends = end_ids(base, self._tokenizer)

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        """See `Backend`; asked again where the copy dies."""
        ids = await self._reader.read(prompt)
        return await self._surviving(lambda: self._whole(ids, decoding))

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        """See `Backend`. vLLM knows nothing of the heads a student was taught with, so it tells the log-probability only."""
        ids = await self._reader.read(prompt)
        tokens = [*encode_reply(self._tokenizer, reply), self._tokenizer.eos_token_id]
        # vLLM has to write a token to read the others.
        if self._context_length is not None and len(ids) + len(tokens) >= self._context_length:
            raise ContextLengthError(
                f"The prompt's {len(ids)} tokens and the reply's {len(tokens)} (its end included) reach the "
                f"{self._context_length} tokens that {self._model} can read. Shorten one of them."
            )
        fields = completion_request(self._name(adapter), ids + tokens, Decoding(max_tokens=1))
        response = await self._surviving(lambda: self._answer(fields | {"prompt_logprobs": 0}))
        return Scores(sum(read_logprobs(response["choices"][0]["prompt_logprobs"], tokens)), len(tokens), None, None)

    async def _whole(self, ids: list[int], decoding: Decoding) -> Piece:
        fields, row, scribe = self._prepare(ids, decoding)
        write(row, await self._answer(fields))
        piece = scribe.read()
        assert piece is not None
        return piece

    async def _begin(self, prompt: Prompt, decoding: Decoding) -> tuple[Any, Piece]:
        fields, row, scribe = self._prepare(await self._reader.read(prompt), decoding)
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces = Reading(self._streaming.completions.remote(self._request(**fields)), row, scribe)
        try:
            return pieces, await anext(pieces)
        except BaseException:
            pieces.cancel()
            raise

    def _prepare(self, ids: list[int], decoding: Decoding) -> tuple[dict[str, Any], Row, Scribe]:
        """The request to vLLM, and what writes down its reply."""
        from magdi_ray.agents.transformers import fit_context

        fitted = fit_context(decoding, len(ids), context_length=self._context_length, model=self._model)
        assert isinstance(fitted, Decoding)
        row = Row(fitted)
        scribe = Scribe(row, len(ids), decode=self._decode, spelling=self._spelling, ends=self._ends)
        return reply_request(self._name(fitted.adapter), ids, fitted), row, scribe

    def _name(self, adapter: str | None) -> str:
        if adapter not in self._names:
            raise PromptError(f"{self._model} has no adapter {adapter!r}.")
        return self._names[adapter]

    async def _answer(self, fields: dict[str, Any]) -> dict[str, Any]:
        """vLLM's response to a request that asks for no stream."""
        responses = self._streaming.completions.remote(self._request(**fields))
        try:
            found = [event async for item in outlived(responses) for event in events(item)]
        except BaseException:
            responses.cancel()  # whoever waited has left; vLLM is to stop, too
            raise
        if not found:
            raise EngineError(f"vLLM gave no response for {self._model}.")
        return found[0]


def end_ids(base: str, tokenizer: Any) -> frozenset[int]:
    """Tokens at which vLLM ends a reply: the tokenizer's, and those of the model's generation settings."""
    from transformers import AutoConfig, GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:  # the model comes without such settings; vLLM takes those of its configuration, too
        own = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config().eos_token_id
    ids = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    return frozenset(id for id in ids if id is not None)

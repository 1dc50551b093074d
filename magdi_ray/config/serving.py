"""The configuration of the endpoint: what is served, how much of it, to whom, and with which bounds."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from magdi_ray.config.base import Section, operational
from magdi_ray.config.engines import UNQUOTED, no_foreign_code
from magdi_ray.config.resources import ServingResources
from magdi_ray.config.sections import DebateConfig, Name


class KeyLimits(Section):
    """What one API key may use; None sets no bound."""

    rpm: int | None = operational(None, ge=1)
    """Requests a minute."""
    tpm: int | None = operational(None, ge=1)
    """Tokens a minute, prompt and reply together."""


class Endpoint(Section):
    """Everything about an endpoint but its address and its model."""

    engine: Literal["transformers", "vllm"] = operational("transformers")
    """transformers: continuous batching, on CPUs and any GPU. vllm: through `ray.serve.llm`, where vLLM is installed."""
    replicas: tuple[int, int] = operational((1, 1))
    """Fewest and most copies of the student; Serve scales between them with the load, from 0 on."""
    max_surge_percent: int = operational(100, ge=0, le=100)
    """Copies beyond their number while a new version takes over, in percent. With 0 a copy is stopped before its successor
    starts: no room for a second one is needed, and requests wait as long as the model loads."""
    doors: int = operational(1, ge=1)
    """Front doors: processes that speak HTTP and hold no weights. One serves some hundred requests a second."""
    downscale_delay_s: float = operational(300.0, gt=0)
    """So long must the load stay low for a copy to be given up, the last one included."""
    dtype: Literal["float32", "bfloat16", "float16"] = operational("float32")
    max_batch_size: int = operational(32, ge=1)
    """Replies a copy decodes together."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs a copy reserves; also its number of torch threads."""
    num_gpus: float = operational(0.0, ge=0)
    """GPUs a copy reserves; with 0 it runs on the CPU."""
    context_length: int | None = operational(None, ge=2)
    """Tokens of prompt and reply together, at most; None takes the model's own. A copy keeps room for one whole context."""
    engine_kwargs: dict[str, Any] = operational({})
    """Further arguments of vLLM's engine, under its own names."""
    adapters: dict[Name, str] = operational({})
    """LoRA adapters on the same base, asked for as `model: "NAME:ADAPTER"`: name -> directory."""
    default_max_tokens: int = operational(512, ge=1)
    """Longest reply, in tokens, where a request does not say; less where the context leaves less."""
    max_tokens: int | None = operational(None, ge=1)
    """Longest reply a request may ask for; None: what the model's context leaves."""
    max_n: int = operational(16, ge=1)
    """Most choices (`n`) of one request."""
    max_samples: int = operational(64, ge=2)
    """Most replies (`magdi.samples`) of one request."""
    max_queued: int = operational(256, ge=1)
    """Replies that wait beyond those of full copies, of all front doors together; one more is told to come again (503)."""
    max_body_bytes: int = operational(1 << 20, ge=1024)
    """Largest request body."""
    request_timeout_s: float = operational(300.0, gt=0)
    """A request that takes longer is ended, and its generation with it."""
    stream_interval_ms: float = operational(20.0, ge=0)
    """Pieces of a stream are sent at most so often, the first one at once; 0 sends every token by itself."""
    api_keys_file: str | None = operational(None)
    """YAML file of hashed API keys (`magdi keys new`), read again when it changes; None here and below: no key is asked."""
    api_keys_env: str | None = operational(None)
    """Name of an environment variable that holds hashed API keys, `NAME:SHA256` separated by commas."""
    limits: KeyLimits = operational(KeyLimits())
    """Of each key that has none of its own; without keys, of everybody together."""
    cors_origins: tuple[str, ...] = operational(())
    """Web pages of other origins that may call the endpoint; none by default."""
    access_log: str | None = operational(None)
    """File to which every request adds a line of JSON; None: `access.log` in the run directory, and for a model directory or a
    Serve config file the front door's standard error, which is among Ray's logs."""
    log_prompts: bool = operational(False)
    """Write prompts and replies to the access log; otherwise no text of either is ever logged."""
    playground: bool = operational(True)
    """Serve the page at `/`."""
    escalate: bool = operational(False)
    """Keep the debate's teachers at hand, for requests with `magdi.escalate_below`."""
    escalations: str | None = operational(None)
    """Directory of the graphs of escalated debates; None is `escalations/` in the run directory."""

    @field_validator("replicas")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not (0 <= value[0] <= value[1] and value[1] >= 1):
            raise ValueError("must be [min, max] with 0 <= min <= max and max >= 1")
        return value

    @field_validator("api_keys_env")
    @classmethod
    def _no_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise PydanticCustomError(UNQUOTED, "names an environment variable (capitals, digits, _), never a key itself")
        return value

    @field_validator("engine_kwargs")
    @classmethod
    def _no_foreign_code(cls, value: dict[str, Any]) -> dict[str, Any]:
        return no_foreign_code(value)

    @model_validator(mode="after")
    def _arguments_have_an_engine(self) -> Endpoint:
        if self.engine_kwargs and self.engine != "vllm":
            raise ValueError("engine_kwargs are vLLM's; they need engine: vllm")
        return self


class ServeConfig(Endpoint):
    """The HTTP endpoint of a run's student."""

    host: str = operational("127.0.0.1")
    port: int = operational(8000, ge=1, le=65535)
    metrics_port: int | None = operational(None, ge=1, le=65535)
    """Where Prometheus finds the metrics of a Ray that `magdi serve` starts; None takes a free port, and says which."""


class StudentArgs(Endpoint):
    """What `magdi_ray.serving.app:build` is given by a Serve config file: the endpoint, and what it serves."""

    model: str = operational(min_length=1)
    """Model directory, `pkg://package/path` or hub name."""
    model_name: str = operational(min_length=1, pattern=r"^[^:\s]+$")
    """What clients call it."""
    task: str | None = operational(None)
    """How answers are read in replies (`gsm8k`, `tiny`, ...), for votes; None: replies cannot be voted over."""
    run: str | None = operational(None)
    """Run directory whose questions and debates the playground shows; None shows none."""
    debate: DebateConfig | None = operational(None)
    """The teachers and their protocol, where `escalate` is set."""
    seed: int = operational(0, ge=0)
    """Root of the draws of escalated debates."""
    debate_tokens: float | None = operational(None, gt=0)
    """Tokens the teachers generate for a question, on average, to tell what the student saves; None: unknown."""
    resources: ServingResources = operational(ServingResources())
    """On which nodes of a cluster the copies run, and the teachers beside them."""
    version: str = operational("")
    """Any text; another one makes Serve replace the running copies, as for weights that changed in place."""

    @model_validator(mode="after")
    def _escalation_has_a_debate(self) -> StudentArgs:
        lacking = [name for name in ("debate", "task", "escalations") if getattr(self, name) is None]
        if self.escalate and lacking:
            raise ValueError(f"escalate needs {', '.join(lacking)}")
        return self

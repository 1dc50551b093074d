"""The configuration of engines: who answers, and on what terms."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from magdi_ray.agents.weights import split_adapter
from magdi_ray.config.base import Section, absolute, operational, shaping

UNQUOTED = "unquoted"
"""Kind of a mistake whose value must not be quoted."""


def no_foreign_code(value: dict[str, Any]) -> dict[str, Any]:
    """vLLM's arguments, which must not let it run the code that comes with a model: nothing here ever does."""
    if value.get("trust_remote_code"):
        raise PydanticCustomError(
            UNQUOTED, "cannot hold trust_remote_code: code that comes with a model is never run. Take a model without such code"
        )
    return value


def plain_shape(engine: Section) -> dict[str, Any]:
    """Shaping settings that differ from their defaults, so that a field added later leaves earlier replies as they are."""
    return {
        name: value
        for name, value in shaping(engine).items()
        if value != type(engine).model_fields[name].get_default(call_default_factory=True)
    }


def model_files(model: str) -> tuple[str, ...]:
    """Base and adapter of a model's name, as far as it has them."""
    return tuple(filter(None, split_adapter(model)))


def located_model(model: str) -> str:
    """A model's name, with base and adapter made absolute."""
    return ":".join(map(absolute, model_files(model)))


class TransformersEngine(Section):
    """Local weights: a Hugging Face directory or hub name; `pkg://package/path` names files shipped with a package."""

    type: Literal["transformers"]
    model: str = Field(min_length=1)
    """`base:adapter` puts a LoRA adapter on a base; an adapter directory alone takes the base it was trained on."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batching: Literal["dynamic", "continuous"] = operational("dynamic")
    """dynamic: gather what waits, decode it to its end. continuous: rows leave and join at every step."""
    max_batch_size: int = operational(32, ge=1)
    """Replies decoded together, at most."""
    context_length: int | None = Field(None, ge=2)
    """Tokens of prompt and reply together, at most; None takes the model's own bound. A lower one takes less memory."""
    system_prompt: str | None = None
    """Sent before the conversation; None sends nothing."""

    def files(self) -> tuple[str, ...]:
        """What local files it reads; they count by their content."""
        return model_files(self.model)

    def request(self) -> dict[str, Any]:
        """What shapes a reply, local files aside: settings that differ from their defaults."""
        return plain_shape(self)

    def located(self) -> TransformersEngine:
        """The same engine with a local directory made absolute: workers have working directories of their own."""
        return self.model_copy(update={"model": located_model(self.model)})


class RecordedEngine(Section):
    """Replays replies that were recorded: JSON lines of `{"messages": [...], "text": ..., ...}`. Answers nothing else."""

    type: Literal["recorded"]
    path: str = Field(min_length=1)

    def files(self) -> tuple[str, ...]:
        """What local files it reads; they count by their content."""
        return (self.path,)

    def request(self) -> dict[str, Any]:
        """What shapes a reply, local files aside: settings that differ from their defaults."""
        return plain_shape(self)

    def located(self) -> RecordedEngine:
        """The same engine with its file made absolute."""
        return self.model_copy(update={"path": absolute(self.path)})


class Price(Section):
    """What a provider charges, in US dollars per million tokens."""

    input: float = Field(ge=0.0)
    output: float = Field(ge=0.0)

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What a call costs."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class Limits(Section):
    """What one provider allows, over all processes of the cluster."""

    rpm: int | None = operational(None, ge=1)
    """Requests a minute."""
    tpm: int | None = operational(None, ge=1)
    """Tokens a minute, prompt and reply together."""
    concurrency: int = operational(64, ge=1)
    """Requests under way at once, at most; fewer while the provider says that it is overloaded."""


class ApiEngine(Section):
    """Any endpoint that speaks the OpenAI chat completions API."""

    type: Literal["api"]
    model: str = Field(min_length=1)
    base_url: str = Field("https://api.openai.com/v1", pattern=r"^https?://")
    api_key_env: str | None = operational(None)
    """Name of the environment variable that holds the key (never the key itself), in capitals; None sends none."""
    system_prompt: str | None = None
    """Sent before the conversation; None sends nothing."""
    structured: Literal["auto", "always", "never"] = "auto"
    """Ask for reasoning, answer and confidence as JSON by schema. `auto` does so until the endpoint refuses it."""
    repair: bool = True
    """Ask once more, in the same conversation, where no answer can be read from a reply."""
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # noqa: S105 - a field's name, no secret
    """What the endpoint calls the bound on generated tokens."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request, as the provider names them."""
    price: Price | None = operational(None)
    """None counts tokens but no money; a budget in dollars needs it."""
    limits: Limits = operational(Limits())
    """Agents of one `base_url` and `api_key_env` share them and have to state the same."""
    timeout_s: float = operational(120.0, gt=0)
    """Of one attempt, from sending to the last byte."""
    max_attempts: int = operational(6, ge=1)
    """Times a request is sent before its failure is final."""

    @field_validator("api_key_env")
    @classmethod
    def _no_key(cls, value: str | None) -> str | None:
        # The value is not quoted: whoever mistakes the field has pasted a key into it.
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise PydanticCustomError(UNQUOTED, "names an environment variable (capitals, digits, _), never the key itself")
        return value

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise PydanticCustomError(UNQUOTED, "has no room for credentials, a query or a fragment: keys go by api_key_env")
        return value.rstrip("/")

    @property
    def provider(self) -> str:
        """Who is asked: agents with equal providers share one limiter."""
        return f"{self.base_url}#{self.api_key_env or ''}"

    def request(self) -> dict[str, Any]:
        """What shapes a reply: settings that differ from their defaults, but for those that only say when to ask again."""
        return {name: value for name, value in plain_shape(self).items() if name != "repair"}

    def files(self) -> tuple[str, ...]:
        """What local files it reads; they count by their content."""
        return ()

    def located(self) -> ApiEngine:
        """Itself: it names no file."""
        return self


class VllmEngine(Section):
    """A model served by vLLM through `ray.serve.llm`; `base:adapter` names a LoRA adapter of a base model."""

    type: Literal["vllm"]
    model: str = Field(min_length=1)
    """A directory or hub name, with `:directory` behind it for an adapter."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, ge=1)
    """Tokens of prompt and reply together; None takes the model's own."""
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, under its own names; they count as shaping replies (quantization does)."""
    system_prompt: str | None = None

    @field_validator("engine_kwargs")
    @classmethod
    def _no_foreign_code(cls, value: dict[str, Any]) -> dict[str, Any]:
        return no_foreign_code(value)

    def files(self) -> tuple[str, ...]:
        """What local files it reads; they count by their content."""
        return model_files(self.model)

    def request(self) -> dict[str, Any]:
        """What shapes a reply, local files aside: settings that differ from their defaults."""
        return plain_shape(self)

    def located(self) -> VllmEngine:
        """The same engine with local directories made absolute."""
        return self.model_copy(update={"model": located_model(self.model)})


EngineConfig = Annotated[TransformersEngine | RecordedEngine | ApiEngine | VllmEngine, Field(discriminator="type")]

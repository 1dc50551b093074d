"""What the requests share: strictness, and the fields that say how a reply is drawn."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from magdi_ray.agents.base import derive_seed
from magdi_ray.agents.streaming import Decoding, Piece

MAX_INT = 2**63 - 1

RULE = "rule"
"""Type of the errors that a model's own rules raise: the message is ours, the field is in the context."""


class Body(BaseModel):
    """A part of a request. `"5"` is no number and `true` no integer; what is not listed here has to be null."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    __pydantic_extra__: dict[str, None]


SPARSE = ConfigDict(json_schema_serialization_defaults_required=False)
"""Of answers that leave out what has its default."""


class Answer(BaseModel):
    """A part of a response."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)


def broken(field: str, message: str) -> PydanticCustomError:
    """An error of a rule that spans fields; braces in the message are taken literally."""
    return PydanticCustomError(RULE, "{message}", {"message": message, "field": field})


def _only_false(value: bool) -> bool:
    if value:
        raise PydanticCustomError("only_false", "only false is supported")
    return value


OnlyFalse = Annotated[bool, AfterValidator(_only_false), WithJsonSchema({"type": "boolean", "const": False})]
"""What can only be left off. No `Literal[False]`: that takes 0 as well."""

Name = Annotated[str, Field(max_length=256)]
"""Of a model, user or the like."""

StopString = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool | None = None
    """End the stream with a chunk that holds the token counts."""
    include_obfuscation: OnlyFalse | None = None
    """Only `false`: nothing is added to the chunks to hide their length."""


class Drawing(Body):
    """The fields of both completion routes. None is "not given"."""

    model: Name
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    max_tokens: int | None = Field(None, ge=1, le=MAX_INT)
    n: int | None = Field(None, ge=1, le=1024)
    stop: StopString | Annotated[tuple[StopString, ...], Field(max_length=4)] | None = None
    """The reply ends before the first of these strings."""
    seed: int | None = Field(None, ge=-MAX_INT - 1, le=MAX_INT)
    """Same seed, prompt and weights: same reply. Choice 0 is drawn with the seed itself, the others with seeds derived of it."""
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    """Only `{}`: tokens cannot be biased."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    """Accepted; not used."""
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    """Accepted; not used."""
    service_tier: Literal["auto", "default"] | None = None
    """Accepted; there is one."""
    safety_identifier: Name | None = None
    """Accepted; not used."""
    prompt_cache_key: Name | None = None
    """Accepted; not used."""
    store: OnlyFalse | None = None
    """Only `false`: requests are not kept."""

    @model_validator(mode="after")
    def _options_have_a_stream(self) -> Drawing:
        if self.stream_options is not None and not self.stream:
            raise broken("stream_options", "only goes with stream: true")
        return self

    @property
    def choices(self) -> int:
        """Replies to each prompt."""
        return self.n or 1

    @property
    def longest(self) -> int | None:
        """Most tokens of a reply, where the request says."""
        return self.max_tokens

    @property
    def counts_wanted(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def decoding(
        self, *, default_max_tokens: int, adapter: str | None, top_logprobs: int | None, temperature: float = 1.0
    ) -> Decoding:
        """How choice 0 is drawn; `temperature` is what counts where the request gives none."""
        stop = self.stop or ()
        return Decoding(
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            max_tokens=self.longest or default_max_tokens,
            clip_to_context=self.longest is None,
            stop=(stop,) if isinstance(stop, str) else stop,
            seed=None if self.seed is None else self.seed % 2**63,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            top_logprobs=top_logprobs,
            adapter=adapter,
        )


def choice_decoding(decoding: Decoding, index: int) -> Decoding:
    """How choice `index` is drawn: a seed of its own, the same one every time."""
    if index == 0 or decoding.seed is None:
        return decoding
    return decoding.model_copy(update={"seed": derive_seed("choice", decoding.seed, index)})


class Usage(Answer):
    """Token counts, padding not counted. A prompt counts once, however many choices are drawn for it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, tokens_in: int, tokens_out: int) -> Usage:
        """Both counts, and their sum."""
        return cls(prompt_tokens=tokens_in, completion_tokens=tokens_out, total_tokens=tokens_in + tokens_out)


FinishReason = Literal["stop", "length"]


def finish_of(piece: Piece) -> FinishReason:
    """Why a finished reply ended."""
    return piece.finish_reason or "stop"


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of one response begins with."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    """As the request named it."""
    fingerprint: str | None
    """Version of what is served, where it has one."""

    @classmethod
    def new(cls, kind: Literal["chatcmpl", "cmpl"], model: str, fingerprint: str) -> Head:
        """The head of a response that begins now."""
        return cls(f"{kind}-{uuid.uuid4().hex}", int(time.time()), model, fingerprint or None)

    def fields(self) -> Mapping[str, Any]:
        """As the responses name them."""
        return {"id": self.id, "created": self.created, "model": self.model, "system_fingerprint": self.fingerprint}

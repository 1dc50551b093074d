"""Requests and responses of the OpenAI chat API, as far as this server speaks it. Knows no HTTP and no Ray.

    {"model": "student", "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 16, "temperature": 0}

A field that is not listed here is refused by name, never ignored: a client learns what it will not get. `null` means "not given".
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from magdi_ray.agents.base import Message, Reply, Role, Sampling

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class TextPart(BaseModel):
    """A piece of a message; text is the only kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...]
    name: str | None = None
    """Accepted for compatibility; the model is not told."""

    def message(self) -> Message:
        """As an engine takes it: parts joined, the developer's messages being the system's."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(ROLES[self.role], content)


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_tokens: int | None = Field(None, ge=1)
    """The older name of `max_completion_tokens`."""
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | Annotated[tuple[str, ...], Field(max_length=4)] = ()
    seed: int | None = None
    n: Literal[1] = 1
    stream: bool = False
    """Only `false`: streaming is not supported yet."""
    user: str | None = None
    """Accepted for compatibility; not used."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    def conversation(self) -> list[Message]:
        """The messages, as an engine takes them."""
        return [message.message() for message in self.messages]

    def sampling(self, *, default_max_tokens: int) -> Sampling:
        """How the reply is to be drawn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_completion_tokens or self.max_tokens or default_max_tokens,
            clip_to_context=not (self.max_completion_tokens or self.max_tokens),
            stop=(self.stop,) if isinstance(self.stop, str) else self.stop,
            seed=None if self.seed is None else self.seed % 2**63,
        )


class ResponseMessage(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One reply; there is always one."""

    index: int = 0
    message: ResponseMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Token counts, padding not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """The answer to POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[Choice]
    usage: Usage

    @classmethod
    def of(cls, reply: Reply, *, model: str) -> ChatResponse:
        """An engine's reply, under the name the model is served by."""
        return cls(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model,
            choices=[Choice(message=ResponseMessage(content=reply.text), finish_reason=reply.finish_reason)],
            usage=Usage(
                prompt_tokens=reply.tokens_in,
                completion_tokens=reply.tokens_out,
                total_tokens=reply.tokens_in + reply.tokens_out,
            ),
        )


class ModelCard(BaseModel):
    """One model on offer."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "magdi_ray"


class ModelList(BaseModel):
    """The answer to GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = None
    """The field at fault, written `messages[0].content`."""
    code: str | None = None


class ErrorResponse(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody

    @classmethod
    def of(cls, status: int, message: str, *, param: str | None = None, code: str | None = None) -> ErrorResponse:
        """An error of an HTTP status: 4xx is the client's, 5xx the server's."""
        kind: Literal["invalid_request_error", "server_error"] = "invalid_request_error" if status < 500 else "server_error"
        return cls(error=ErrorBody(message=message, type=kind, param=param, code=code))


def explain_invalid(errors: Sequence[Any]) -> ErrorResponse:
    """Pydantic's errors on a `ChatRequest` as one of OpenAI's; fields that are not supported are all named."""
    unknown = [parameter(error["loc"]) for error in errors if error["type"] == "extra_forbidden"]
    if unknown:
        names = ", ".join(unknown)
        return ErrorResponse.of(400, f"Not supported by this server: {names}.", param=unknown[0], code="unsupported_parameter")
    first = errors[0]
    if first["type"] == "json_invalid":
        return ErrorResponse.of(400, f"The body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}.")
    where = parameter(first["loc"])
    if not where and first["type"] != "missing":
        return ErrorResponse.of(400, "The body must be a JSON object, sent with Content-Type: application/json.")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ErrorResponse.of(400, f"{where or 'The body'}: {first['msg']}.", param=where or None, code=code)


def parameter(location: Sequence[int | str]) -> str:
    """`("body", "messages", 0, "content", "str")` as `messages[0].content`: without what pydantic adds for unions."""
    path = ""
    for depth, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (depth == 0 and part == "body") and "[" not in part and part != "str":
            path += f".{part}" if path else part
    return path

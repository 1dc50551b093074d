"""POST /v1/chat/completions: the request, the response, and the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import to_json

from magdi_ray.agents.base import Message, Role
from magdi_ray.agents.streaming import Piece, Prompt, TokenLogprob
from magdi_ray.serving.wire.fields import (
    MAX_INT,
    SPARSE,
    Answer,
    Body,
    Drawing,
    FinishReason,
    Head,
    Name,
    Usage,
    broken,
    finish_of,
)
from magdi_ray.serving.wire.votes import MagdiReport, MagdiWish

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

MAX_MESSAGES = 2048


class TextPart(Body):
    """A piece of a message; text is the only kind."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[tuple[TextPart, ...], Field(max_length=256, fail_fast=True)]
    name: Name | None = None
    """Accepted; the model is not told."""

    def message(self) -> Message:
        """As an engine takes it: parts joined, the developer's messages being the system's."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(ROLES[self.role], content)


Messages = Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


def conversation(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Messages as an engine takes them."""
    return tuple(message.message() for message in messages)


class ResponseFormat(Body):
    """The form of the reply; plain text is the only one."""

    type: Literal["text"]


class ChatRequest(Drawing):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INT)
    """The newer name of `max_tokens`; where both are given, this one counts."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Only with `logprobs: true`."""
    response_format: ResponseFormat | None = None
    modalities: Annotated[tuple[Literal["text"], ...], Field(min_length=1, max_length=1)] | None = None
    """Only `["text"]`."""
    magdi: MagdiWish | None = None
    """Several replies, voted over; the teachers where the student disagrees with itself."""

    @model_validator(mode="after")
    def _rules(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise broken("top_logprobs", "only goes with logprobs: true")
        if self.magdi is None:
            return self
        for field, given in (("stream", self.stream), ("n", self.choices > 1), ("logprobs", self.logprobs)):
            if given:
                raise broken(field, "cannot be had together with magdi, whose replies are voted over")
        if self.temperature == 0:
            raise broken("temperature", "must be above 0 with magdi.samples: at 0 all replies are the same")
        return self

    @property
    def longest(self) -> int | None:
        """Most tokens of a reply, where the request says."""
        return self.max_completion_tokens or self.max_tokens

    def prompt(self) -> Prompt:
        """The conversation."""
        return Prompt(messages=conversation(self.messages))

    def wanted_logprobs(self) -> int | None:
        """As `Decoding.top_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TopLogprob(Answer):
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8; of a character of several tokens, this token's share."""


class ChatLogprob(TopLogprob):
    """One token that was written."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log-probabilities of a choice, or of a chunk of it."""

    content: list[ChatLogprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
        """An engine's log-probabilities."""
        return cls(
            content=[
                ChatLogprob(
                    token=token.text,
                    logprob=token.logprob,
                    bytes=list(token.raw),
                    top_logprobs=[TopLogprob(token=text, logprob=value, bytes=list(raw)) for text, raw, value in token.top],
                )
                for token in tokens
            ]
        )


class ResponseMessage(Answer):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Answer):
    """One reply."""

    index: int
    message: ResponseMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason

    @classmethod
    def of(cls, index: int, piece: Piece, *, logprobs: bool) -> ChatChoice:
        """An engine's reply."""
        return cls(
            index=index,
            message=ResponseMessage(content=piece.text),
            logprobs=ChatLogprobs.of(piece.logprobs) if logprobs else None,
            finish_reason=finish_of(piece),
        )


class ChatResponse(Answer):
    """The answer to POST /v1/chat/completions."""

    model_config = SPARSE

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None = None
    magdi: MagdiReport | None = None
    """What the replies came to, where the request has `magdi`; null otherwise."""

    @classmethod
    def of(cls, head: Head, pieces: Sequence[Piece], *, logprobs: bool, magdi: MagdiReport | None = None) -> ChatResponse:
        """One reply a choice; all have the same prompt."""
        return cls(
            **head.fields(),
            choices=[ChatChoice.of(index, piece, logprobs=logprobs) for index, piece in enumerate(pieces)],
            usage=Usage.of(pieces[0].tokens_in, sum(piece.tokens_out for piece in pieces)),
            magdi=magdi,
        )


class Delta(Answer):
    """What a chunk adds to a message."""

    model_config = SPARSE

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Answer):
    """One choice's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Answer):
    """One event of a streamed chat completion."""

    model_config = SPARSE

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    """Empty in the last chunk where `include_usage` is asked for."""
    usage: Usage | None = None
    system_fingerprint: str | None = None


class ChatChunks:
    """Writes the chunks of one stream as JSON. They are put together from parts: a stream is most of what a server writes."""

    def __init__(self, head: Head, *, logprobs: bool, usage: bool) -> None:
        fields = to_json({**head.fields(), "object": "chat.completion.chunk"} | ({"usage": None} if usage else {}))
        self._before = fields[:-1] + b',"choices":[{"index":'
        self._head = head
        self._logprobs = logprobs
        self._begun: set[int] = set()

    def of(self, index: int, piece: Piece) -> list[bytes]:
        """The chunks of a choice's piece, those that begin and end the choice included."""
        chunks = []
        if index not in self._begun:
            self._begun.add(index)
            delta = b'%b%d,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}'
            chunks.append(delta % (self._before, index))
        log = ChatLogprobs.of(piece.logprobs).model_dump_json().encode() if self._logprobs and piece.logprobs else b"null"
        if piece.text or log != b"null":
            delta = b'%b%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null}]}'
            chunks.append(delta % (self._before, index, to_json(piece.text), log))
        if piece.finish_reason is not None:
            delta = b'%b%d,"delta":{},"logprobs":null,"finish_reason":"%b"}]}'
            chunks.append(delta % (self._before, index, piece.finish_reason.encode()))
        return chunks

    def usage(self, usage: Usage) -> bytes:
        """The chunk of the token counts."""
        return ChatChunk(**self._head.fields(), choices=[], usage=usage).model_dump_json().encode()

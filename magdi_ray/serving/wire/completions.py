"""POST /v1/completions: plain text or token ids to be continued, in the older API's words."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from pydantic_core import to_json

from magdi_ray.agents.streaming import Piece, Prompt, TokenLogprob
from magdi_ray.serving.wire.fields import SPARSE, Answer, Drawing, FinishReason, Head, OnlyFalse, Usage, finish_of

MAX_PROMPTS = 128

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
Texts = Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
Lists = Annotated[tuple[Ids, ...], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]


class CompletionRequest(Drawing):
    """The body of POST /v1/completions."""

    prompt: str | Texts | Ids | Lists
    """A text, token ids, or several of either; each is answered by `n` choices."""
    logprobs: int | None = Field(None, ge=0, le=5)
    """Log-probabilities of the tokens written, and of so many of the likeliest."""
    echo: OnlyFalse | None = None
    """Only `false`: the prompt is not repeated."""
    best_of: int | None = Field(None, ge=1, le=1)
    """Only 1."""
    suffix: Literal[""] | None = None
    """Only `""`."""

    def prompts(self) -> tuple[Prompt, ...]:
        """What is to be continued."""
        given = self.prompt
        if isinstance(given, str):
            return (Prompt(text=given),)
        if isinstance(given[0], int):
            return (Prompt(ids=given),)  # type: ignore[arg-type]  # a tuple's first item tells what all are
        return tuple(Prompt(text=one) if isinstance(one, str) else Prompt(ids=one) for one in given)  # type: ignore[arg-type]


class CompletionLogprobs(Answer):
    """Log-probabilities of a choice, or of a chunk of it: one entry a token in every list."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    """The likeliest tokens; null where 0 were asked for."""
    text_offset: list[int]
    """Where each token begins in the text of the choice, in characters."""

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob], *, offset: int, top: bool) -> CompletionLogprobs:
        """An engine's log-probabilities, of text that begins at a character of its choice. Where the engine does not tell where
        its tokens lie, their bytes do."""
        offsets, decode = [], codecs.getincrementaldecoder("utf-8")("ignore").decode
        for token in tokens:
            offsets.append(offset if token.offset is None else token.offset)
            offset += len(decode(token.raw))
        return cls(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[{text: value for text, _, value in token.top} for token in tokens] if top else None,
            text_offset=offsets,
        )


class CompletionChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason

    @classmethod
    def of(cls, index: int, piece: Piece, *, logprobs: int | None) -> CompletionChoice:
        """An engine's reply."""
        given = None if logprobs is None else CompletionLogprobs.of(piece.logprobs, offset=0, top=logprobs > 0)
        return cls(index=index, text=piece.text, logprobs=given, finish_reason=finish_of(piece))


class CompletionResponse(Answer):
    """The answer to POST /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str | None = None

    @classmethod
    def of(cls, head: Head, pieces: Sequence[Piece], *, per_prompt: int, logprobs: int | None) -> CompletionResponse:
        """One reply a choice, `per_prompt` of them in a row having the same prompt."""
        return cls(
            **head.fields(),
            choices=[CompletionChoice.of(index, piece, logprobs=logprobs) for index, piece in enumerate(pieces)],
            usage=Usage.of(sum(piece.tokens_in for piece in pieces[::per_prompt]), sum(piece.tokens_out for piece in pieces)),
        )


class CompletionChunkChoice(Answer):
    """One choice's part of a chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(Answer):
    """One event of a streamed completion."""

    model_config = SPARSE

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    """Empty in the last chunk where `include_usage` is asked for."""
    usage: Usage | None = None
    system_fingerprint: str | None = None


class CompletionChunks:
    """Writes the chunks of one stream as JSON, put together from parts."""

    def __init__(self, head: Head, *, logprobs: int | None, usage: bool) -> None:
        fields = to_json({**head.fields(), "object": "text_completion"} | ({"usage": None} if usage else {}))
        self._before = fields[:-1] + b',"choices":[{"index":'
        self._head = head
        self._logprobs = logprobs
        self._written: dict[int, int] = {}
        """Characters of each choice that are already sent."""

    def of(self, index: int, piece: Piece) -> list[bytes]:
        """The chunk of a choice's piece."""
        log, reason = b"null", b"null" if piece.finish_reason is None else b'"%b"' % piece.finish_reason.encode()
        offset = self._written.get(index, 0)
        if self._logprobs is not None and piece.logprobs:
            given = CompletionLogprobs.of(piece.logprobs, offset=offset, top=self._logprobs > 0)
            log = given.model_dump_json().encode()
        self._written[index] = offset + len(piece.text)
        choice = b'%b%d,"text":%b,"logprobs":%b,"finish_reason":%b}]}'
        return [choice % (self._before, index, to_json(piece.text), log, reason)]

    def usage(self, usage: Usage) -> bytes:
        """The chunk of the token counts."""
        return CompletionChunk(**self._head.fields(), choices=[], usage=usage).model_dump_json().encode()

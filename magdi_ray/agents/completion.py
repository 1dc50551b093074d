"""A chat completion as OpenAI words it: the request, the reply, and every way in which there is none. Knows no network.

{"choices": [{"message": {"content": "4", "refusal": null}, "finish_reason": "stop"}], "model": "gpt-x",
 "usage": {"prompt_tokens": 11, "completion_tokens": 1}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from magdi_ray.agents.base import FinishReason, Message, Sampling
from magdi_ray.agents.estimate import estimate_prompt, estimate_tokens
from magdi_ray.agents.failures import (
    CallFailed,
    Empty,
    Malformed,
    Overloaded,
    RateLimited,
    Refused,
    Rejected,
    ServerFailed,
    TimedOut,
    Unauthorised,
)
from magdi_ray.config.engines import ApiEngine

HALF_A_PAIR = re.compile("[\ud800-\udfff]")

MOST_TOKENS = 2**31
"""Of one prompt or reply."""

QUOTED = 200
"""Characters of a provider's own message that an error repeats."""

REPLY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reasoning": {"type": "string", "description": "The reasoning that leads to the answer, step by step."},
        "answer": {"type": "string", "description": "The final answer alone, without any explanation."},
        "confidence": {"type": "number", "description": "How sure you are that the answer is right, from 0.0 to 1.0."},
    },
    "required": ["reasoning", "answer", "confidence"],
    "additionalProperties": False,
}
"""What a structured reply looks like."""

RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": REPLY_SCHEMA}}

NO_STRUCTURE = re.compile(r"response_format|json_schema|structured", re.IGNORECASE)
"""Words of an endpoint that takes no schema."""

BY_STATUS: dict[int, type[CallFailed]] = {
    401: Unauthorised,
    402: Unauthorised,
    403: Unauthorised,
    408: TimedOut,
    409: ServerFailed,
    429: RateLimited,
    503: Overloaded,
    504: TimedOut,
    529: Overloaded,
}

SCHEMA_TOKENS = estimate_tokens(json.dumps(RESPONSE_FORMAT))
"""What the schema adds to a prompt, as providers put it there."""


NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of a 429 that no waiting mends."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that brought no reply."""

    cause: type[CallFailed]
    happened: str
    """Such as `HTTP 429`."""
    told: str = ""
    """The provider's own words."""
    retry_after_s: float | None = None
    tokens_in: int = 0
    """What it cost nevertheless."""
    tokens_out: int = 0

    def error(self, attempts: int) -> CallFailed:
        """What is raised when it was the last attempt."""
        colon = f": {_unicode(self.told[:QUOTED])}" if self.told else "."
        return self.cause(f"{self.happened} after {attempts} attempt{'s' if attempts > 1 else ''}{colon}")


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply as it was sent."""

    text: str
    tokens_in: int
    tokens_out: int
    finish_reason: FinishReason
    model: str


def request_fields(config: ApiEngine, sampling: Sampling) -> dict[str, Any]:
    """The request but for its messages and its schema."""
    fields: dict[str, Any] = {
        "model": config.model,
        "temperature": sampling.temperature,
        config.token_field: sampling.max_tokens,
    }
    if sampling.top_p != 1.0:
        fields["top_p"] = sampling.top_p
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    return fields


def request_body(config: ApiEngine, messages: Sequence[Message], sampling: Sampling, *, structured: bool) -> bytes:
    """The whole request."""
    body = request_fields(config, sampling)
    body["messages"] = [{"role": message.role, "content": message.content} for message in messages]
    if structured:
        body["response_format"] = RESPONSE_FORMAT
    return json.dumps(body | config.extra_body).encode()


def read_completion(content: bytes, messages: Sequence[Message], model: str) -> Completion | Failure:
    """The reply within a 200. Tokens are estimated where the provider counts none."""
    try:
        whole = json.loads(content)
        if whole.get("error"):
            return _failure_within(whole)
        [choice, *_] = whole["choices"]
        message = choice["message"]
        text = _text(message.get("content"))
        usage = whole.get("usage") or {}
        tokens_in = _count(usage.get("prompt_tokens") or None, estimate_prompt(messages))
        tokens_out = _count(usage.get("completion_tokens"), estimate_tokens(text))
        ended, refusal = choice.get("finish_reason"), message.get("refusal")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Failure(Malformed, "No chat completion but something else", content[:1000].decode(errors="replace"))
    cost = {"tokens_in": tokens_in, "tokens_out": tokens_out}
    if ended == "content_filter" or (refusal and not text):
        return Failure(Refused, "The reply was refused", str(refusal or "content filter"), **cost)
    if (not text or text.isspace()) and ended != "length":  # a model that thought up to its bound would do so again
        return Failure(Empty, "A completion without text", f"finish_reason {ended!r}", **cost)
    named = _unicode(str(whole.get("model") or model))
    return Completion(_unicode(text), tokens_in, tokens_out, "length" if ended == "length" else "stop", named)


def read_refusal(status: int, body: object, headers: Mapping[str, str]) -> Failure:
    """What an HTTP status of 400 or more means. `body` is parsed JSON, or text where it was none."""
    told = _message(body)
    cause = BY_STATUS.get(status, ServerFailed if status >= 500 else Rejected)
    if cause is RateLimited and any(code in str(body) for code in NO_CREDIT):
        cause = Unauthorised
    if cause is Rejected and "content_filter" in str(body):
        cause = Refused
    return Failure(cause, f"HTTP {status}", told, retry_after(headers))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a provider asks to wait, in any of the forms in use; None where it asks for nothing."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        if (value := headers.get("retry-after")) is None:
            return None
        if re.fullmatch(r"[\d.]+", value.strip()):
            return float(value)
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return None


def _failure_within(whole: Mapping[str, Any]) -> Failure:
    """Some gateways answer 200 and put the error, with its status, into the body."""
    error = whole["error"]
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and code >= 400:
        return read_refusal(code, whole, {})
    return Failure(Malformed, "An error instead of a completion", _message(whole))


def _message(body: object) -> str:
    """The sentence for people within an error's body."""
    if isinstance(body, dict):
        for name in ("error", "message", "detail"):
            if body.get(name):
                return _message(body[name])
    return body.strip() if isinstance(body, str) else json.dumps(body)


def _count(told: Any, estimate: int) -> int:
    """What a provider counted; the estimate where it counts none, or says what no reply has (a negative number, 1e30)."""
    counted = estimate if told is None else int(told)
    return counted if 0 <= counted <= MOST_TOKENS else estimate


def _unicode(text: str) -> str:
    r"""A text that any file can hold: "\ud800", half of a surrogate pair, is valid JSON and no character."""
    return HALF_A_PAIR.sub("?", text)


def _text(content: object) -> str:
    """A message's text; some endpoints send it in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(f"content is {type(content).__name__}")

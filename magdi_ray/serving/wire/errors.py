"""Every answer that is not a success, in OpenAI's shape.

{"error": {"message": "n: Input should be greater than or equal to 1.", "type": "invalid_request_error",
           "param": "n", "code": "invalid_value"}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from magdi_ray.serving.wire.fields import RULE, Answer

Kind = Literal["invalid_request_error", "requests", "tokens", "server_error"]
"""`requests` and `tokens` name the limit that a key has reached."""

NAMED = 16
"""Unsupported fields named in one message; of more, their number is told."""

FORMS = {
    "prompt": "must be a text, token ids (integers from 0), or a list of at most 128 of either, all of one kind and none empty",
}
"""Fields of so many forms that what does not fit one of them tells nothing."""

UNIONS = ("str", "StopString", "constrained-str", "tuple[", "list[", "TextPart")
"""How pydantic's locations name the members of a union; no field is called so."""


class ErrorBody(Answer):
    """What went wrong."""

    message: str
    type: Kind
    param: str | None = None
    """The field at fault, written `messages[0].content`."""
    code: str | None = None


class ErrorResponse(Answer):
    """Every answer that is not a success."""

    error: ErrorBody


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal with its HTTP status."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    kind: Kind | None = None
    """None follows from the status: 4xx is the client's fault, 5xx the server's."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The response."""
        kind: Kind = self.kind or ("invalid_request_error" if self.status < 500 else "server_error")
        error = ErrorBody(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=error).model_dump_json().encode()


def explain_invalid(error: ValidationError) -> ApiError:
    """Pydantic's errors on a request as one of ours. Fields that are not supported are all named."""
    errors = error.errors(include_url=False, include_input=False)
    unknown = [parameter(one["loc"]) for one in errors if one["type"] == "none_required"]
    if unknown:
        names = ", ".join(unknown[:NAMED]) + (f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else "")
        return ApiError(400, f"Not supported by this server: {names}.", unknown[0], "unsupported_parameter")
    return explain_first(errors)


def explain_first(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's errors as one of ours; with those of the same field where it may have several forms."""
    first = errors[0]
    context = first.get("ctx", {})
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {context.get('error', first['msg'])}.", code="invalid_json")
    if first["type"] == RULE:
        return ApiError(400, f"{context['field']}: {context['message']}.", context["field"], "invalid_value")
    where = parameter(first["loc"])
    if not where:
        return ApiError(400, "The body must be a JSON object.", code="invalid_json")
    # Of a union's members, the one that was followed deepest is what the client meant.
    first = max(
        (one for one in errors if parameter(one["loc"]).startswith(where)), key=lambda one: parameter(one["loc"]).count("[")
    )
    where = parameter(first["loc"])
    if first["type"] == "missing":
        return ApiError(400, f"{where}: is required.", where, "missing_required_parameter")
    if where.partition("[")[0] in FORMS:
        return ApiError(400, f"{where}: {FORMS[where.partition('[')[0]]}.", where.partition("[")[0], "invalid_value")
    message = " or ".join(dict.fromkeys(worded(one) for one in errors if parameter(one["loc"]) == where))
    return ApiError(400, f"{where}: {message}.", where, "invalid_value")


def worded(error: Any) -> str:
    """Pydantic's message, without Python's names of things."""
    context = error.get("ctx", {})
    if error["type"] == "too_long":
        return f"at most {context['max_length']} are taken"
    if error["type"] == "too_short":
        return f"at least {context['min_length']} is required"
    message: str = error["msg"]
    return message


def parameter(location: Sequence[int | str]) -> str:
    """`("messages", 0, "content", "str")` as `messages[0].content`: without what pydantic adds for unions."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (path and part.startswith(UNIONS)):
            path += f".{part[:64]}" if path else part[:64]
    return path

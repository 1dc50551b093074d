"""Whatever goes wrong, as an answer in OpenAI's shape. What only concerns the server is logged, and not told."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from magdi_ray.agents.base import BusyError, ContextLengthError, PromptError
from magdi_ray.errors import EngineError
from magdi_ray.serving.access import Visit
from magdi_ray.serving.door.settings import visit_of
from magdi_ray.serving.wire.errors import ApiError, ErrorResponse

logger = logging.getLogger(__name__)

GONE = 499
"""Status in log and metrics of requests whose client left; nobody is there to read it."""

MEANINGS = {
    400: "The request cannot be met as it is.",
    401: "An API key is required.",
    404: "There is no such model or route.",
    405: "The route has no such method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    429: "A limit of the API key is reached.",
    500: "An error of the server, known by its request id.",
    503: "Too many requests wait.",
    504: "The request took too long.",
}


class ClientGone(Exception):
    """The client left before it was answered."""


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors of a route, for its OpenAPI description."""
    return {status: {"model": ErrorResponse, "description": MEANINGS[status]} for status in statuses}


def too_late(seconds: float) -> ApiError:
    """The answer to a request that took too long."""
    return ApiError(504, f"The request took longer than the {seconds:g} s it may, and was ended.", code="timeout")


def as_api_error(error: Exception, visit: Visit, *, prompt_field: str = "messages") -> ApiError:
    """What a client is told of an error; what it is not told goes to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), prompt_field, "context_length_exceeded")
    if isinstance(error, PromptError):
        return ApiError(400, str(error), prompt_field, "invalid_prompt")
    if isinstance(error, BusyError):
        message = "Too many requests wait already. Try again in a moment."
        return ApiError(503, message, code="overloaded", headers={"retry-after": "1"})
    if isinstance(error, EngineError):
        logger.error("Request %s: the model could not answer: %s", visit.id, error)
        return ApiError(500, f"The model could not answer (request {visit.id}).", code="engine_error")
    logger.error("Request %s failed.", visit.id, exc_info=error)
    return ApiError(500, f"Internal error (request {visit.id}).", code="internal_error")


def answer(error: ApiError, visit: Visit) -> Response:
    """The response that tells an error."""
    visit.error = error.code
    return Response(error.body(), error.status, headers=dict(error.headers), media_type="application/json")


def speak_openai(api: FastAPI) -> None:
    """Give every error of an app, also of unknown routes, OpenAI's shape."""

    async def refused(request: Request, error: Exception) -> Response:
        visit = visit_of(request)
        field = "prompt" if request.scope["path"].endswith("/v1/completions") else "messages"
        return answer(as_api_error(error, visit, prompt_field=field), visit)

    async def routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        path: str = request.scope["path"]  # `request.url` cannot be had of a query that is no ASCII
        message = f"{request.method} {path[:200]}: {error.detail}."
        told = ApiError(error.status_code, message, code=codes.get(error.status_code), headers=error.headers or {})
        return answer(told, visit_of(request))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        told = ApiError(400, f"{where or 'The request'}: {first['msg']}.", where or None, "invalid_value")
        return answer(told, visit_of(request))

    async def gone(request: Request, _: Exception) -> Response:
        return Response(status_code=GONE)

    api.add_exception_handler(ApiError, refused)
    api.add_exception_handler(EngineError, refused)
    api.add_exception_handler(ClientGone, gone)
    api.add_exception_handler(HTTPException, routed)
    api.add_exception_handler(RequestValidationError, invalid)

"""The OpenAPI description. Bodies are read by hand and answers written by hand, so both are declared here."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from magdi_ray.serving.door.errors import declared
from magdi_ray.serving.door.settings import DoorSettings
from magdi_ray.serving.wire.chat import ChatChunk, ChatRequest
from magdi_ray.serving.wire.completions import CompletionChunk, CompletionRequest
from magdi_ray.serving.wire.errors import ErrorResponse
from magdi_ray.serving.wire.score import ScoreRequest

REFERENCE = "#/components/schemas/{model}"

REQUESTS: tuple[type[BaseModel], ...] = (ChatRequest, CompletionRequest, ScoreRequest)

INPUTS: list[tuple[type[BaseModel], Literal["validation"]]] = [(model, "validation") for model in REQUESTS]

OUTPUTS: list[tuple[type[BaseModel], Literal["serialization"]]] = [
    (ChatChunk, "serialization"),
    (CompletionChunk, "serialization"),
]

DEFAULTS: dict[str, Any] = {"response_model": None}
"""Answers are written once, not validated a second time."""

KEYED: dict[str, Any] = {"security": [{"key": []}]}
"""Marks a route that asks for a key; taken out again where none is asked for."""


def described(request: type[BaseModel], response: type[BaseModel], chunk: type[BaseModel] | None = None) -> dict[str, Any]:
    """How a POST route is declared; one that can stream, with the type of its events."""
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": REFERENCE.format(model=request.__name__)}}}
    success: dict[str, Any] = {"model": response}
    if chunk is not None:
        success["content"] = {"text/event-stream": {"schema": events(chunk)}}
    return {
        **DEFAULTS,
        "responses": {200: success, **declared(400, 401, 404, 408, 413, 415, 429, 500, 503, 504)},
        "openapi_extra": KEYED | {"requestBody": {"required": True, "content": content}},
    }


def events(chunk: type[BaseModel]) -> dict[str, Any]:
    """The schema of each event of a stream."""
    data = {"anyOf": [{"$ref": REFERENCE.format(model=model.__name__)} for model in (chunk, ErrorResponse)]}
    encoded = {"contentMediaType": "application/json", "contentSchema": data}
    return {
        "type": "object",
        "description": "With `stream: true`: one event of the stream, the last of which holds [DONE] or an error.",
        "properties": {"data": {"type": "string", "if": {"const": "[DONE]"}, "else": encoded}},
        "required": ["data"],
    }


def describe(api: FastAPI, settings: DoorSettings, *, keyed: bool) -> dict[str, Any]:
    """The description of an app, with the names and bounds of what it serves."""
    found = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    _, definitions = models_json_schema([*INPUTS, *OUTPUTS], ref_template=REFERENCE)
    schemas |= definitions["$defs"]
    endpoint = settings.endpoint
    for model in REQUESTS:
        fields = schemas[model.__name__]["properties"]
        fields["model"] = {"enum": list(settings.models), "title": "Model"}
        for name, bound in (
            ("n", endpoint.max_n),
            ("max_tokens", endpoint.max_tokens),
            ("max_completion_tokens", endpoint.max_tokens),
        ):
            if name in fields and bound is not None:
                next(kind for kind in fields[name]["anyOf"] if kind["type"] == "integer")["maximum"] = bound
    schemas["MagdiWish"]["properties"]["samples"]["maximum"] = endpoint.max_samples
    [name] = found["paths"]["/v1/models/{name}"]["get"]["parameters"]
    name["schema"] = {"type": "string", "enum": list(settings.models)}
    for route in found["paths"].values():
        for operation in route.values():
            if not keyed:
                operation.pop("security", None)
    if keyed:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return found

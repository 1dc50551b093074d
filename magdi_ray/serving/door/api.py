"""The HTTP interface of whatever answers: `create_api` puts the parts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from magdi_ray import __version__
from magdi_ray.serving.backend import Backend
from magdi_ray.serving.door.body import BUFFERED_BYTES
from magdi_ray.serving.door.chat import chat_router
from magdi_ray.serving.door.completions import completions_router
from magdi_ray.serving.door.describe import describe
from magdi_ray.serving.door.errors import speak_openai
from magdi_ray.serving.door.gate import Gate
from magdi_ray.serving.door.middleware import Doorway, Guard
from magdi_ray.serving.door.models import models_router
from magdi_ray.serving.door.score import score_router
from magdi_ray.serving.door.settings import Door, DoorSettings
from magdi_ray.serving.ensemble import Ensemble
from magdi_ray.serving.keys import KeyRing
from magdi_ray.serving.limits import Limits
from magdi_ray.serving.metrics import Recorder

EXPOSED = (
    *("x-request-id", "retry-after"),
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)
"""Response headers that pages of other origins may read."""


def create_api(
    backend: Backend,
    settings: DoorSettings,
    *,
    keys: KeyRing | None = None,
    ensemble: Ensemble | None = None,
    extra_routes: Sequence[APIRouter] = (),
    recorder: Recorder | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The HTTP interface of one backend. Every error, also of unknown routes, has OpenAI's shape.

    Without `keys` everybody may ask; `limits` are those of a single minute's clock, shared by `settings.endpoint.doors` doors.
    """
    recorder = recorder or Recorder()
    endpoint = settings.endpoint
    api = FastAPI(title="magdi_ray student", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    limits = limits or Limits(doors=endpoint.doors)
    draws, bodies = Gate(settings.capacity), Gate(BUFFERED_BYTES)
    api.state.door = Door(backend, settings, keys, ensemble, limits, recorder, draws, bodies)
    for router in (models_router, chat_router, completions_router, score_router, *extra_routes):
        api.include_router(router)
    speak_openai(api)
    # Each one added goes around those before it.
    api.add_middleware(Guard)
    if endpoint.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(endpoint.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=list(EXPOSED),
        )
    api.add_middleware(Doorway, recorder=recorder, timeout_s=endpoint.request_timeout_s, proxied=settings.proxied)
    description: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        if not description:
            description.append(describe(api, settings, keyed=keys is not None))
        return description[0]

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to describe what it cannot see
    return api

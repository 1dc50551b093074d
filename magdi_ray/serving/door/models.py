"""GET /health, /version, /v1/models and /v1/models/{id}."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from magdi_ray import __version__
from magdi_ray.serving.door.describe import DEFAULTS, KEYED
from magdi_ray.serving.door.entrance import check_key, resolve
from magdi_ray.serving.door.errors import declared
from magdi_ray.serving.door.settings import Door, door_of, visit_of
from magdi_ray.serving.wire.models import Health, ModelCard, ModelList, Version

models_router = APIRouter()

HEALTHY = Health().model_dump_json().encode()

NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "`NAME` or `NAME:ADAPTER`."}


def told(body: BaseModel) -> Response:
    """A body as JSON."""
    return Response(body.model_dump_json(), media_type="application/json")


def card(door: Door, name: str) -> ModelCard:
    """One of the models that are served."""
    return ModelCard(id=name, created=door.settings.created)


@models_router.get("/health", responses={200: {"model": Health}}, **DEFAULTS)
async def health(request: Request) -> Response:
    """Whether this process takes requests. Asks nobody else."""
    return Response(HEALTHY, media_type="application/json")


@models_router.get("/version", responses={200: {"model": Version}}, **DEFAULTS)
async def version(request: Request) -> Response:
    """What runs here."""
    settings = door_of(request).settings
    return told(Version(version=__version__, model=settings.model_name, model_version=settings.version or None))


@models_router.get("/v1/models", responses={200: {"model": ModelList}, **declared(401)}, openapi_extra=KEYED, **DEFAULTS)
async def models(request: Request) -> Response:
    """The student, and its adapters."""
    door = door_of(request)
    check_key(request, door)
    return told(ModelList(data=[card(door, name) for name in door.settings.models]))


@models_router.get(
    "/v1/models/{name:path}",
    responses={200: {"model": ModelCard}, **declared(401, 404)},
    openapi_extra=KEYED | {"parameters": [NAME]},
    **DEFAULTS,
)
async def model(request: Request) -> Response:
    """One of them."""
    door = door_of(request)
    check_key(request, door)
    name = request.path_params["name"]
    resolve(door.settings, name, visit_of(request))
    return told(card(door, name))

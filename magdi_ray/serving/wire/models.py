"""What can be asked: the student, and its adapters as `NAME:ADAPTER`."""

from __future__ import annotations

from typing import Literal

from magdi_ray.serving.wire.fields import Answer


class ModelCard(Answer):
    """One model on offer."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970."""
    owned_by: str = "magdi_ray"


class ModelList(Answer):
    """The answer to GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Answer):
    """The answer to GET /health: this process takes requests."""

    status: Literal["ok"] = "ok"


class Version(Answer):
    """The answer to GET /version."""

    version: str
    """Of magdi_ray."""
    model: str
    model_version: str | None = None
    """What the endpoint's configuration calls these weights, where it does."""

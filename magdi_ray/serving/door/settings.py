"""What one front door knows: its settings, and everything it was given to work with."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from magdi_ray.config.serving import Endpoint
from magdi_ray.serving.access import Visit
from magdi_ray.serving.backend import Backend
from magdi_ray.serving.door.gate import Gate
from magdi_ray.serving.ensemble import Ensemble
from magdi_ray.serving.keys import KeyRing
from magdi_ray.serving.limits import Limits
from magdi_ray.serving.metrics import Recorder

VISIT = "magdi_ray.visit"
"""Where a request's `Visit` stands in its ASGI scope."""


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """What is served, and within which bounds."""

    model_name: str
    endpoint: Endpoint
    adapters: tuple[str, ...] = ()
    """Asked for as `MODEL_NAME:ADAPTER`."""
    created: int = 0
    """When the model came to be, in seconds since 1970."""
    version: str = ""
    """Of the weights; empty where they have none."""
    debate_tokens: float | None = None
    """Tokens the teachers generate for a question, on average; None where that is unknown."""
    proxied: bool = False
    """A proxy before this door tells clients their request id, as Ray Serve's does: it is taken over, and not told twice."""
    capacity: int | None = None
    """Replies that are drawn at once, or wait to be, for all requests of this door together; None: unbounded."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every name a request may ask for."""
        return (self.model_name, *(f"{self.model_name}:{adapter}" for adapter in self.adapters))

    @property
    def default_max_tokens(self) -> int:
        """Longest reply where a request does not say."""
        return min(self.endpoint.default_max_tokens, self.endpoint.max_tokens or self.endpoint.default_max_tokens)


@dataclass(frozen=True, slots=True)
class Door:
    """A front door at work."""

    backend: Backend
    settings: DoorSettings
    keys: KeyRing | None
    """None asks for no key."""
    ensemble: Ensemble | None
    """None where no task says how answers are read."""
    limits: Limits
    recorder: Recorder
    draws: Gate
    """Replies that are drawn for requests."""
    bodies: Gate
    """Bytes of bodies that are being read."""


def door_of(request: Request) -> Door:
    """The door a request came through."""
    door: Door = request.app.state.door
    return door


def visit_of(request: Request) -> Visit:
    """What is noted of a request."""
    visit: Visit = request.scope[VISIT]
    return visit

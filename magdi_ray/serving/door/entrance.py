"""Who comes in, how much of it, and to whom: keys, limits and model names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from magdi_ray.agents.base import BusyError
from magdi_ray.serving.access import Visit
from magdi_ray.serving.door.errors import ClientGone
from magdi_ray.serving.door.gate import Gate
from magdi_ray.serving.door.settings import Door, DoorSettings, door_of, visit_of
from magdi_ray.serving.limits import Account, Refusal
from magdi_ray.serving.wire.errors import ApiError

EVERYBODY = ""
"""Name of the account where no keys are asked for; no key can be called so."""

CHARACTERS_A_TOKEN = 4
"""Of prompts, for reserving tokens before anyone has counted them."""


def check_key(request: Request, door: Door) -> Account:
    """The account of whoever asks.

    Raises:
        ApiError: 401, without a valid key where one is required.
    """
    default = door.settings.endpoint.limits
    if door.keys is None:
        return door.limits.account(EVERYBODY, default)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = door.keys.find(token.strip().encode("latin-1")) if scheme.lower() == "bearer" and token.strip() else None
    if key is None:
        found = "the key that was sent is not valid" if token.strip() else "none was sent"
        message = f"An API key is required, as `Authorization: Bearer KEY`; {found}."
        raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
    visit_of(request).key = key.name
    return door.limits.account(key.name, key.limits(default))


async def require_key(request: Request) -> None:
    """A FastAPI dependency: refuses a request without a valid key, where keys are asked for."""
    check_key(request, door_of(request))


def enter(request: Request, door: Door) -> Account:
    """Let a request in: its key is valid, and has a request left.

    Raises:
        ApiError: 401, 429.
    """
    account = check_key(request, door)
    refusal = account.request()
    visit_of(request).headers = account.headers()
    if refusal is not None:
        raise limited(refusal)
    return account


def limited(refusal: Refusal) -> ApiError:
    """The answer to a request beyond a limit."""
    if refusal.wait_s is None:
        message = (
            f"The request may take {refusal.wanted:.0f} tokens, and this key has {refusal.limit} a minute: it will never fit."
        )
        return ApiError(400, f"{message} Ask for a shorter reply, or fewer.", code="request_too_large")
    message = f"This key has {refusal.limit} {refusal.unit} a minute, and they are used up. Try again in {refusal.retry_after} s."
    headers = {"retry-after": str(refusal.retry_after)}
    return ApiError(429, message, code="rate_limit_exceeded", kind=refusal.unit, headers=headers)


@dataclass(slots=True)
class Meter:
    """What one request takes while it runs, its tokens and its place in the door, and what it is charged when it ends."""

    account: Account
    reserved: float
    """Tokens."""
    prompt: float
    """Tokens of the prompts, estimated."""
    gate: Gate
    draws: int
    """Replies that it keeps under way."""
    used: float = 0.0
    open: bool = True

    @contextmanager
    def asking(self, unknown: float) -> Iterator[None]:
        """Around asking the backend. Whoever leaves meanwhile, or takes too long, is charged `unknown`, unless `used` was told by
        then; what fails is free."""
        self.used = unknown
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, (ClientGone, ApiError)):
                self.used = 0.0  # neither did the client leave nor was its time over
            self.settle()
            raise

    def drawn(self) -> None:
        """No reply is under way any more."""
        self.gate.leave(self.draws)
        self.draws = 0

    def settle(self) -> None:
        """Give up the place, and charge what was used; once."""
        self.drawn()
        if self.open:
            self.open = False
            self.account.settle(self.reserved, self.used)


def reserve(
    account: Account, visit: Visit, gate: Gate, *, characters: int, longest: int | None, default: int, replies: int
) -> Meter:
    """Reserve the tokens a request may use, and its place in the door: that of `replies` draws (0 is one judgement). Both are
    given back when the request ends, if not before.

    Raises:
        ApiError: 429; 400 where it asks for more than its key has in a whole minute.
        BusyError: the door is full.
    """
    prompt = characters / CHARACTERS_A_TOKEN
    wanted = prompt + (longest or default) * replies
    reserved, refusal = account.reserve(wanted, at_least=prompt + (longest or 1) * replies)
    visit.headers = account.headers()
    if refusal is not None:
        raise limited(refusal)
    draws = max(1, replies)
    try:
        gate.enter(draws)
    except BusyError:
        account.settle(reserved, 0.0)
        visit.headers = account.headers()
        raise
    meter = Meter(account, reserved, prompt, gate, draws)
    visit.at_end.append(meter.settle)
    return meter


def resolve(settings: DoorSettings, name: str, visit: Visit) -> str | None:
    """The adapter that a model name asks for, None for the model itself.

    Raises:
        ApiError: 404 for a name that is not served.
    """
    if name not in settings.models:
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        message = f"The model {shown!r} does not exist; this server has {', '.join(settings.models)}."
        raise ApiError(404, message, "model", "model_not_found")
    visit.model = name
    return name[len(settings.model_name) + 1 :] or None


def check_bounds(settings: DoorSettings, *, choices: int, longest: int | None) -> None:
    """Hold a request to the endpoint's bounds.

    Raises:
        ApiError: 400.
    """
    endpoint = settings.endpoint
    bounds: list[tuple[str, Any, int | None]] = [("n", choices, endpoint.max_n), ("max_tokens", longest, endpoint.max_tokens)]
    for name, value, bound in bounds:
        if value is not None and bound is not None and value > bound:
            raise ApiError(400, f"{name}: at most {bound} on this server, found {value}.", name, "invalid_value")

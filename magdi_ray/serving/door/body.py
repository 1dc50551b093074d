"""From raw bytes to a checked request: size, type, encoding, JSON, fields. Whatever is wrong is said with a 4xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from magdi_ray.serving.door.errors import ClientGone
from magdi_ray.serving.door.gate import Gate
from magdi_ray.serving.door.settings import door_of, visit_of
from magdi_ray.serving.wire.errors import ApiError, explain_invalid
from magdi_ray.serving.wire.fields import Body

MAX_FIELDS = 256
"""Of one JSON object."""

READ_S = 30.0
"""A body has to be here by then; the request's own deadline may well come first."""

BUFFERED_BYTES = 256 << 20
"""Of all bodies that are being read at one door; who would exceed them is told to come again."""

DRAINED_BYTES = 64 << 20
DRAIN_S = 5.0
"""A body that is too large is read on for so long and thrown away: many a client does not look for an answer before it has sent
all."""

T = TypeVar("T", bound=Body)


async def read_request(request: Request, kind: type[T]) -> T:
    """The body of a request as what it has to be.

    Raises:
        ApiError: 400, 408, 413, 415.
        BusyError: too much is being read from others.
        ClientGone: it left before it had sent all.
    """
    _check_headers(request)
    door = door_of(request)
    deadline = min(visit_of(request).deadline, asyncio.get_running_loop().time() + READ_S)
    held = Held(door.bodies)
    try:
        async with asyncio.timeout_at(deadline):
            raw = await _read(request, door.settings.endpoint.max_body_bytes, held)
        return parse(raw, kind)
    except TimeoutError:
        raise ApiError(408, "The body did not arrive in time.", code="timeout") from None
    finally:
        held.release()


class Held:
    """The bytes of one body, as they come."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.size = 0

    def add(self, size: int) -> None:
        """Some more are there.

        Raises:
            BusyError: there is no room for them.
        """
        self._gate.enter(size, held=self.size, what="bytes of bodies")
        self.size += size

    def release(self) -> None:
        """They are read, or given up."""
        self._gate.leave(self.size)
        self.size = 0


def parse(raw: bytes, kind: type[T]) -> T:
    """A body as what it has to be.

    Raises:
        ApiError: 400.
    """
    if not raw:
        raise ApiError(400, "A body is required: a JSON object.", code="invalid_json")
    try:
        json.loads(raw.decode(), object_pairs_hook=_distinct, parse_constant=_no_number)
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise explain_invalid(error) from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8: byte {error.start}.", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {str(error)[:200]}.", code="invalid_json") from None


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object that names a field twice: readers differ in which one counts."""
    if len(pairs) > MAX_FIELDS:
        raise ValueError(f"an object of {len(pairs)} fields, at most {MAX_FIELDS} are read")
    if len({name for name, _ in pairs}) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {doubled[:64]!r} is given twice")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _check_headers(request: Request) -> None:
    given = request.headers.get("content-type", "")
    kind, _, parameters = given.partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        message = f"Content-Type: application/json is required, found {given[:100]!r}."
        raise ApiError(415, message, code="unsupported_media_type")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            415, f"The body must not be compressed, found Content-Encoding: {encoding[:100]!r}.", code="unsupported_media_type"
        )


async def _read(request: Request, limit: int, held: Held) -> bytes:
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise ApiError(400, f"Content-Length must be a number of bytes, found {length[:100]!r}.", code="invalid_value")
    too_large = int(length[:20]) > limit
    if too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_large(limit)  # it waits for our word before it sends anything
    parts: list[bytes] = []
    while not too_large:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        held.add(len(parts[-1]))
        too_large = held.size > limit
        if not too_large and not message.get("more_body", False):
            return b"".join(parts)
    if not parts or message.get("more_body", False):
        parts.clear()
        held.release()
        await _drain(request)
    raise _too_large(limit)


async def _drain(request: Request) -> None:
    size = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while size < DRAINED_BYTES:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than the {limit} bytes this server reads.", code="request_too_large")

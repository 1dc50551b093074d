"""Around every request: its id, its deadline, its line in the log, its metrics, and an answer whatever happens.

Plain ASGI: what passes through is neither buffered nor moved to another task, so streams flow and disconnects are seen.
"""

from __future__ import annotations

import asyncio
import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magdi_ray.serving.access import Visit
from magdi_ray.serving.door.errors import GONE, answer, as_api_error
from magdi_ray.serving.door.settings import VISIT
from magdi_ray.serving.metrics import Recorder

REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Doorway:
    """The outermost: notes who comes and how they leave."""

    def __init__(self, app: ASGIApp, *, recorder: Recorder, timeout_s: float, proxied: bool = False) -> None:
        self._app = app
        self._recorder = recorder
        self._timeout_s = timeout_s
        self._proxied = proxied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        visit = scope[VISIT] = Visit(request_id(scope), scope["method"], scope["path"], deadline)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                own = visit.headers if self._proxied else {"x-request-id": visit.id} | visit.headers
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
                message = {**message, "headers": [*kept, *((name.encode(), value.encode()) for name, value in own.items())]}
            await send(message)

        self._recorder.began()
        try:
            await self._app(scope, receive, sending)
        finally:
            for done in visit.at_end:
                done()
            visit.status = visit.status or GONE
            route = getattr(scope.get("route"), "path", "other")
            seconds = visit.elapsed()
            self._recorder.ended(route=route, status=visit.status, model=visit.model or "", seconds=seconds)
            visit.log()


class Guard:
    """The innermost: what nobody expected becomes a 500 that tells nothing but the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit: Visit = scope[VISIT]
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            told = answer(as_api_error(error, visit), visit)
            if visit.status is None:
                await told(scope, receive, send)


def request_id(scope: Scope) -> str:
    """The client's own id for its request, where it is a sane one; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return bytes(value).decode()
    return f"req-{uuid.uuid4().hex}"

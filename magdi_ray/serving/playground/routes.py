"""The page's own routes. The page and its files are everybody's; what it shows of the run needs a key, where keys are asked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from magdi_ray.errors import MagdiError
from magdi_ray.looks import SHEETS, sheet
from magdi_ray.serving.door.body import read_request
from magdi_ray.serving.playground.debates import RunDebates
from magdi_ray.serving.wire.fields import Body

logger = logging.getLogger(__name__)

SCRIPTS = ("main.js", "dom.js", "api.js", "ask.js", "votes.js", "finder.js", "debate.js", "theme.js")
ASSETS = {**dict.fromkeys(SHEETS, "text/css"), "style.css": "text/css", **dict.fromkeys(SCRIPTS, "text/javascript")}
"""Every file the page is made of, beside itself; nothing else of the package can be asked for."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # What a model wrote can then not even by a mistake of ours be parsed as HTML.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of the page and its files. They are asked for again each time, and not sent again where they are the same (ETag)."""
DATA_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

NO_SUCH_QUESTION = "The run has no question {id!r}. Choose one from the list"
UNREADABLE = "The run's questions or debates cannot be read; the server's log says why"


class PageConfig(BaseModel):
    """What the page is told about its server."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    """The model that is asked where the reader chooses none."""
    task: str | None = None
    """How answers are read; None: replies cannot be voted over."""
    max_samples: int = Field(ge=1)
    """Most replies of one request."""
    escalate: bool = False
    """The teachers are at hand."""
    verifier: bool | None = None
    """The student has the heads that weigh replies; None: not known before it is asked."""
    default_max_tokens: int = Field(ge=1)
    """Longest reply, in tokens, where a request does not say."""
    keys: bool = False
    """The server asks for an API key."""


class Said(Body):
    """A reply whose answer is to be read."""

    reply: str


def playground_router(data: RunDebates | None, *, page: PageConfig, require_key: Callable[..., Any]) -> APIRouter:
    """The page at `/` with its files and data. `data`: the run's questions; None shows none.

    `require_key` is a FastAPI dependency that refuses a request without a valid key.
    """
    router = APIRouter(include_in_schema=False)
    _add_assets(router)
    keyed = [Depends(require_key)]

    @router.get("/playground/config", dependencies=keyed)
    def config() -> Response:
        return JSONResponse({**page.model_dump(), "run": data is not None}, headers=DATA_HEADERS)

    if data is None:
        return router

    @router.get("/playground/questions", dependencies=keyed)
    def questions(
        search: Annotated[str, Query(max_length=200)] = "",
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> Response:
        return _answer(lambda: data.find(search, offset=offset, limit=limit), "")

    @router.get("/playground/questions/{id_:path}", dependencies=keyed)
    def question(id_: str) -> Response:
        return _answer(lambda: data.detail(id_), id_)

    @router.post("/playground/read/{id_:path}", dependencies=keyed)
    async def read(request: Request, id_: str) -> Response:
        said = await read_request(request, Said)
        return await run_in_threadpool(_answer, lambda: data.read(id_, said.reply), id_)

    return router


def _answer(ask: Callable[[], dict[str, Any] | None], id_: str) -> Response:
    """What the run's files say, or the refusal. Files are read in FastAPI's threads: the server goes on meanwhile."""
    try:
        found = ask()
    except (MagdiError, OSError, pa.ArrowException):
        logger.exception("the playground cannot read the run")
        raise HTTPException(500, UNREADABLE) from None
    if found is None:
        raise HTTPException(404, NO_SUCH_QUESTION.format(id=id_[:100]))
    return JSONResponse(found, headers=DATA_HEADERS)


def _add_assets(router: APIRouter) -> None:
    folder = files(__package__) / "assets"
    held = {name: (folder / name).read_bytes() for name in ("index.html", *ASSETS) if name not in SHEETS}
    held |= {name: sheet(name).encode() for name in SHEETS}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in held.items()}

    def send(request: Request, name: str, kind: str) -> Response:
        headers = {**HEADERS, "ETag": tags[name]}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(held[name], media_type=f"{kind}; charset=utf-8", headers=headers)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return send(request, "index.html", "text/html")

    @router.api_route("/playground/assets/{name}", methods=["GET", "HEAD"])
    async def asset(request: Request, name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "The page has no such file")
        return send(request, name, ASSETS[name])

"""The OpenAI-compatible server: a FastAPI ingress on Ray Serve in front of replicas of one engine.

`build` is the import path of Serve config files (`serve/student.yaml`); `serve_student` starts the same from Python.
`create_api` is the HTTP side alone: it takes any engine and knows no Ray.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from magdi_ray.agents.base import ContextLengthError, Engine, Message, Reply, Sampling
from magdi_ray.agents.pool import EngineReplica, PoolSpec, ask_replica, engine_application, retire_engines, wait_until_running
from magdi_ray.agents.weights import check_model_directory
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.serving import ServeConfig
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.serving.schema import ChatRequest, ChatResponse, ErrorResponse, ModelCard, ModelList, explain_invalid

logger = logging.getLogger(__name__)

APPLICATION = "student"
"""Name of the Serve application."""


class StudentArgs(BaseModel):
    """Arguments of `build`, as a Serve config file gives them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: str = Field(min_length=1)
    """Model directory, `pkg://package/path` or hub name."""
    model_name: str = Field(min_length=1)
    """What clients call it."""
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most copies of the model; Serve scales between them with the load."""
    max_batch_size: int = Field(32, ge=1)
    num_cpus: float = Field(1.0, gt=0)
    """CPUs a copy reserves."""
    num_gpus: float = Field(0.0, ge=0)
    default_max_tokens: int = Field(512, ge=1)
    """Longest reply, in tokens, where a request does not say; less where the context leaves less."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal with its HTTP status."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None


def create_api(engine: Engine, *, model_name: str, default_max_tokens: int = 512) -> FastAPI:
    """The HTTP interface of one engine. Every error, also of unknown routes, has OpenAI's shape."""
    api = FastAPI(title="magdi_ray student", docs_url="/docs", redoc_url=None)
    card = ModelCard(id=model_name, created=int(time.time()))

    def known(name: str) -> None:
        if name != model_name:
            raise ApiError(404, f"The model {name!r} does not exist; this server has {model_name!r}.", "model", "model_not_found")

    @api.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[card])

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> ModelCard:
        known(name)
        return card

    @api.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> ChatResponse:
        if request.stream:
            raise ApiError(400, "Streaming is not supported yet: leave `stream` out or false.", "stream", "unsupported_value")
        known(request.model)
        try:
            reply = await engine.generate(request.conversation(), request.sampling(default_max_tokens=default_max_tokens))
        except ContextLengthError as error:
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
        except EngineError as error:
            raise ApiError(500, str(error)) from error
        return ChatResponse.of(reply, model=model_name)

    _speak_openai(api)
    return api


def _speak_openai(api: FastAPI) -> None:
    """Give every error OpenAI's shape."""

    def answer(status: int, body: ErrorResponse) -> JSONResponse:
        return JSONResponse(body.model_dump(), status_code=status)

    @api.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return answer(error.status, ErrorResponse.of(error.status, error.message, param=error.param, code=error.code))

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(400, explain_invalid(error.errors()))

    @api.exception_handler(HTTPException)
    async def unknown_route(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}."
        return answer(error.status_code, ErrorResponse.of(error.status_code, message))

    @api.middleware("http")
    async def unexpected(request: Request, proceed: Callable[[Request], Awaitable[Any]]) -> Any:
        try:
            return await proceed(request)
        except Exception as error:  # whatever it is, the client gets an answer it can read
            logger.exception("%s %s failed", request.method, request.url.path)
            return answer(500, ErrorResponse.of(500, f"{type(error).__name__}: {error}"))


class HandleEngine:
    """The engine behind a Serve handle of the same application."""

    def __init__(self, handle: DeploymentHandle[EngineReplica], name: str) -> None:
        self._handle = handle
        self._name = name

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """See `Engine`; a replica that dies is survived by asking again."""
        return await ask_replica(self._handle, messages, sampling, name=self._name)


@serve.ingress()
class StudentApi:
    """The ingress: HTTP in, a handle out. It holds no weights, so one copy serves many replicas."""

    def __init__(self, handle: DeploymentHandle[EngineReplica], args: StudentArgs) -> None:
        self._handle = handle
        self._args = args

    def __serve_build_asgi_app__(self) -> FastAPI:
        engine = HandleEngine(self._handle, self._args.model_name)
        return create_api(engine, model_name=self._args.model_name, default_max_tokens=self._args.default_max_tokens)


def build(args: dict[str, Any]) -> serve.Application:
    """The Serve application for `StudentArgs` given as plain data.

    Raises:
        ConfigError: an argument is missing, unknown or out of range; or the model's files are not there.
    """
    try:
        student = StudentArgs.model_validate_json(json.dumps(args))
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise ConfigError(f"The student cannot be served with these arguments: {lines}.") from None
    check_model_directory(student.model)
    engine = TransformersEngine(
        type="transformers", model=student.model, dtype=student.dtype, max_batch_size=student.max_batch_size
    )
    spec = PoolSpec(APPLICATION, engine, replicas=student.replicas, num_cpus=student.num_cpus, num_gpus=student.num_gpus)
    ingress = serve.deployment(StudentApi).options(
        name="api",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=4096,
        graceful_shutdown_wait_loop_s=0.1,
    )
    application: serve.Application = ingress.bind(engine_application(spec), student)
    return application


def serve_student(model_dir: str | Path, name: str, config: ServeConfig, *, timeout_s: float = 1800.0) -> str:
    """Serve a model over HTTP until it is retired; returns the base URL for OpenAI clients.

    Serve's address is fixed when it starts. One that runs without applications is restarted at the right address.

    Raises:
        ConfigError: the model's files are missing, or Serve is busy with other applications on this cluster.
        EngineError: the model cannot start.
    """
    local = Path(model_dir)
    shape = config.model_dump(include={"replicas", "max_batch_size", "num_cpus", "num_gpus", "dtype"})
    # Replicas work in directories of their own, so a local name must be absolute.
    application = build({"model": str(local.resolve() if local.is_dir() else model_dir), "model_name": name, **shape})
    others = sorted(set(serve.status().applications) - {APPLICATION})
    if others:
        raise ConfigError(f"Ray Serve already runs {', '.join(others)} here. Retire them, or serve on another cluster.")
    serve.shutdown()
    serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
    target = serve.RunTarget(target=application, name=APPLICATION, route_prefix="/")
    try:
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        wait_until_running([APPLICATION], timeout_s=timeout_s)
    except BaseException:
        retire_engines([APPLICATION], wait=False)
        raise
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host  # noqa: S104 - compared, not bound
    return f"http://{host}:{config.port}/v1"

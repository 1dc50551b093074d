"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from magdi_ray.serving.door.body import read_request
from magdi_ray.serving.door.describe import described
from magdi_ray.serving.door.entrance import enter
from magdi_ray.serving.door.replies import streamed, take_order, whole
from magdi_ray.serving.door.settings import Door, door_of
from magdi_ray.serving.wire.completions import (
    CompletionChunk,
    CompletionChunks,
    CompletionRequest,
    CompletionResponse,
)
from magdi_ray.serving.wire.errors import ApiError
from magdi_ray.serving.wire.fields import Head

completions_router = APIRouter()


@completions_router.post("/v1/completions", **described(CompletionRequest, CompletionResponse, CompletionChunk))
async def completions(request: Request) -> Response:
    """Continue texts or token ids as they are, without the chat template."""
    door = door_of(request)
    account = enter(request, door)
    body = await read_request(request, CompletionRequest)
    prompts = body.prompts()
    check_choices(door, len(prompts), body.choices)
    order = take_order(request, door, account, body, prompts, top_logprobs=body.logprobs)
    head = Head.new("cmpl", body.model, door.settings.version)
    if body.stream:
        chunks = CompletionChunks(head, logprobs=body.logprobs, usage=body.counts_wanted)
        return await streamed(request, door, order, chunks, counts=body.counts_wanted)
    pieces = await whole(request, door, order)
    answer = CompletionResponse.of(head, pieces, per_prompt=body.choices, logprobs=body.logprobs)
    return Response(answer.model_dump_json(), media_type="application/json")


def check_choices(door: Door, prompts: int, choices: int) -> None:
    """Refuse a request of more choices than the door holds: trying again would not help, and alone it would lock out all others.

    Raises:
        ApiError: 400.
    """
    if door.settings.capacity is None:
        return
    most = max(door.settings.capacity, door.settings.endpoint.max_n)
    if choices * prompts > most:
        found = f"{prompts} prompts with n={choices}"
        raise ApiError(400, f"prompt: at most {most} choices in one request, found {found}.", "prompt", "invalid_value")

"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from magdi_ray.serving.door.body import read_request
from magdi_ray.serving.door.describe import described
from magdi_ray.serving.door.entrance import enter
from magdi_ray.serving.door.replies import Order, in_time, note, streamed, take_order, tally_of, whole
from magdi_ray.serving.door.settings import Door, door_of, visit_of
from magdi_ray.serving.ensemble import Ensemble, Ensembled
from magdi_ray.serving.wire.chat import ChatChunk, ChatChunks, ChatRequest, ChatResponse
from magdi_ray.serving.wire.errors import ApiError
from magdi_ray.serving.wire.fields import Head
from magdi_ray.serving.wire.votes import TEMPERATURE, MagdiReport, MagdiWish

chat_router = APIRouter()


@chat_router.post("/v1/chat/completions", **described(ChatRequest, ChatResponse, ChatChunk))
async def chat(request: Request) -> Response:
    """Answer a conversation: with one reply or several, at once or as it is written; or with a vote over several (`magdi`)."""
    door = door_of(request)
    account = enter(request, door)
    body = await read_request(request, ChatRequest)
    ensemble = voting(door, body.magdi)
    order = take_order(
        request,
        door,
        account,
        body,
        (body.prompt(),),
        top_logprobs=body.wanted_logprobs(),
        samples=body.magdi.samples if body.magdi else None,
        temperature=TEMPERATURE if body.magdi else 1.0,
    )
    head = Head.new("chatcmpl", body.model, door.settings.version)
    logprobs = bool(body.logprobs)
    if body.stream:
        chunks = ChatChunks(head, logprobs=logprobs, usage=body.counts_wanted)
        return await streamed(request, door, order, chunks, counts=body.counts_wanted)
    if ensemble is not None and body.magdi is not None:
        result = await voted(request, door, order, ensemble, body.magdi)
        answer = ChatResponse.of(head, [result.piece], logprobs=False, magdi=MagdiReport.of(result))
        return Response(answer.model_dump_json(), media_type="application/json")
    answer = ChatResponse.of(head, await whole(request, door, order), logprobs=logprobs)
    return Response(answer.model_dump_json(exclude={"magdi"}), media_type="application/json")


def voting(door: Door, magdi: MagdiWish | None) -> Ensemble | None:
    """What votes over replies, where that is asked for.

    Raises:
        ApiError: 400 where this server cannot.
    """
    if magdi is None:
        return None
    if door.ensemble is None:
        message = "magdi: this server was started without a task, and cannot tell which replies give the same answer."
        raise ApiError(400, message, "magdi", "unsupported_parameter")
    most = door.settings.endpoint.max_samples
    if magdi.samples > most:
        message = f"magdi.samples: at most {most} on this server, found {magdi.samples}."
        raise ApiError(400, message, "magdi.samples", "invalid_value")
    return door.ensemble


async def voted(request: Request, door: Door, order: Order, ensemble: Ensemble, magdi: MagdiWish) -> Ensembled:
    """What several replies come to.

    Raises:
        ApiError: 504.
        ClientGone: the client left; nothing is generated any more.
        EngineError: there was no reply.
    """
    visit = visit_of(request)
    meter = order.meter
    with meter.asking(meter.reserved):
        asked = ensemble.ask(order.prompts[0], order.decoding, magdi.wish(), drawn=meter.drawn)
        result = await in_time(asked, request, door)
        note(door, visit, order, tally_of(door, 1, [result.piece]), complete=result.escalated is None)
        door.recorder.agreed(model=visit.model or "", share=result.agreement, escalated=result.escalated is not None)
        if result.escalated is not None and not result.escalated.stored:
            meter.used += result.escalated.tokens_in + result.escalated.tokens_out
    meter.settle()
    return result

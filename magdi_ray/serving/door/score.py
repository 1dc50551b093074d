"""POST /v1/score."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from magdi_ray.serving.door.body import read_request
from magdi_ray.serving.door.describe import described
from magdi_ray.serving.door.entrance import CHARACTERS_A_TOKEN, enter, reserve, resolve
from magdi_ray.serving.door.replies import characters, in_time, shown
from magdi_ray.serving.door.settings import door_of, visit_of
from magdi_ray.serving.wire.score import ScoreRequest, ScoreResponse

score_router = APIRouter()


@score_router.post("/v1/score", **described(ScoreRequest, ScoreResponse))
async def score(request: Request) -> Response:
    """Rate a reply to a question with the student's own likelihood and the heads it was trained with."""
    door, visit = door_of(request), visit_of(request)
    account = enter(request, door)
    body = await read_request(request, ScoreRequest)
    adapter = resolve(door.settings, body.model, visit)
    prompt = body.prompt()
    asked = characters([prompt])
    meter = reserve(account, visit, door.draws, characters=asked + len(body.reply), longest=None, default=0, replies=0)
    if door.settings.endpoint.log_prompts:
        visit.texts |= {"prompt": [shown(prompt)], "rated": body.reply}
    with meter.asking(meter.reserved):
        scores = await in_time(door.backend.score(prompt, body.reply, adapter), request, door)
        # The reply's tokens are counted, the prompt's estimated: a backend does not tell them.
        meter.used = asked / CHARACTERS_A_TOKEN + scores.tokens
    meter.settle()
    return Response(ScoreResponse.of(body.model, scores).model_dump_json(), media_type="application/json")

"""The front door over a scripted backend: what goes to the backend, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from magdi_ray.agents.streaming import Decoding, Piece, Prompt
from magdi_ray.serving.door import create_api
from magdi_ray.serving.ensemble import Wish
from tests.serving.doors import HI, Scripted, Voting, call, call_async, chat, make, say, settings


def test_a_chat_completion_has_openais_shape() -> None:
    answer = chat(make()).json()
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert answer["object"] == "chat.completion"
    message = {"role": "assistant", "content": "hi there ", "refusal": None}
    assert answer["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]


def test_choices_are_asked_at_once_with_seeds_of_their_own() -> None:
    backend = Scripted()
    answer = chat(make(backend), n=3, seed=5).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert backend.asked[0][1].seed == 5
    assert len({decoding.seed for _, decoding in backend.asked}) == 3
    assert answer["usage"]["prompt_tokens"] == 2


def test_an_adapter_is_asked_for_by_the_models_name() -> None:
    backend = Scripted()
    answer = chat(make(backend), model="student:terse").json()
    assert answer["model"] == "student:terse"
    assert backend.asked[0][1].adapter == "terse"


def test_logprobs_have_both_shapes() -> None:
    [choice] = chat(make(), logprobs=True, top_logprobs=2).json()["choices"]
    first = choice["logprobs"]["content"][0]
    assert (first["token"], first["bytes"], first["logprob"], len(first["top_logprobs"])) == ("hi ", [104, 105, 32], -0.5, 2)
    body = {"model": "student", "prompt": "a b", "logprobs": 2}
    [choice] = call(make(), "POST", "/v1/completions", body).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["a ", "b "]
    assert choice["logprobs"]["text_offset"] == [0, 2]
    assert choice["logprobs"]["top_logprobs"][0] == {"a ": -0.5, "x": -1.5}


def test_several_prompts_are_answered_in_order_by_n_choices_each() -> None:
    body = {"model": "student", "prompt": ["a", "b"], "n": 2}
    answer = call(make(), "POST", "/v1/completions", body).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "a "), (1, "a "), (2, "b "), (3, "b ")]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}


def test_a_reply_is_scored() -> None:
    body = {"model": "student", "messages": HI["messages"], "reply": "yes"}
    answer = call(make(), "POST", "/v1/score", body).json()
    scores = {"contrast": 0.25, "correct": None, "logprob": -3.0, "mean_logprob": -0.75, "tokens": 4}
    assert answer == {"object": "score", "model": "student", "scores": scores}


def test_health_version_and_models_answer() -> None:
    api = make()
    assert call(api, "GET", "/health").json() == {"status": "ok"}
    assert call(api, "GET", "/version").json()["model"] == "student"
    assert [card["id"] for card in call(api, "GET", "/v1/models").json()["data"]] == ["student", "student:terse"]
    card = {"id": "student:terse", "object": "model", "created": 1_700_000_000, "owned_by": "magdi_ray"}
    assert call(api, "GET", "/v1/models/student:terse").json() == card


@pytest.mark.parametrize(
    ("endpoint", "changes", "param"),
    [
        ({"max_n": 2}, {"n": 3}, "n"),
        ({"max_tokens": 10}, {"max_tokens": 11}, "max_tokens"),
        ({"max_tokens": 10}, {"max_completion_tokens": 11}, "max_tokens"),
    ],
)
def test_a_request_is_held_to_the_endpoints_bounds(endpoint: Any, changes: Any, param: str) -> None:
    answer = chat(make(**endpoint), **changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_where_no_length_is_asked_for_the_default_keeps_to_the_bound() -> None:
    backend = Scripted()
    chat(make(backend, default_max_tokens=50, max_tokens=20))
    assert (backend.asked[0][1].max_tokens, backend.asked[0][1].clip_to_context) == (20, True)


def voting_door(ensemble: Any, **endpoint: Any) -> Any:
    return create_api(Scripted(), settings(**endpoint), ensemble=ensemble)


def test_a_vote_is_answered_with_its_report() -> None:
    ensemble = Voting()
    answer = chat(voting_door(ensemble), magdi={"samples": 4, "escalate_below": 0.5}).json()
    assert answer["choices"][0]["message"]["content"] == "It is 4."
    assert (answer["magdi"]["answer"], answer["magdi"]["agreement"], answer["magdi"]["escalated"]) == ("4", 0.75, None)
    assert answer["usage"]["completion_tokens"] == 16
    [(decoding, wish)] = ensemble.asked
    assert (decoding.temperature, wish) == (0.7, Wish(4, "majority", 0.5))


def test_a_vote_keeps_the_temperature_it_is_given() -> None:
    ensemble = Voting()
    chat(voting_door(ensemble), magdi={"samples": 2}, temperature=1.3)
    assert ensemble.asked[0][0].temperature == 1.3


def test_a_vote_needs_a_task_and_has_a_bound() -> None:
    assert "started without a task" in chat(make(), magdi={"samples": 2}).json()["error"]["message"]
    answer = chat(voting_door(Voting(), max_samples=4), magdi={"samples": 5})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "magdi.samples")


def test_where_one_choice_fails_the_others_are_given_up() -> None:
    backend = Scripted()

    async def run() -> tuple[int, int]:
        body = {"model": "student", "prompt": ["halt", "fail"]}
        answer = await asyncio.wait_for(call_async(make(backend), "POST", "/v1/completions", body), 5)
        return answer.status_code, backend.running

    assert asyncio.run(run()) == (500, 0)


def test_a_request_that_takes_too_long_is_ended() -> None:
    backend = Scripted()
    answer = say(make(backend, request_timeout_s=0.1), "halt")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert backend.running == 0


def test_more_choices_than_the_door_ever_holds_are_refused_for_good() -> None:
    body = {"model": "student", "prompt": ["a"] * 5, "n": 2}

    def door(capacity: int | None) -> Any:
        return create_api(Scripted(), replace(settings(max_n=2), capacity=capacity))

    answer = call(door(9), "POST", "/v1/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert [call(door(capacity), "POST", "/v1/completions", body).status_code for capacity in (10, None)] == [200, 200]


class Slow(Scripted):
    """A backend whose own wait is over."""

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        raise TimeoutError("an inner wait")
        yield


@pytest.mark.parametrize("stream", [False, True])
def test_a_timeout_inside_the_backend_is_not_taken_for_the_requests_own(stream: bool) -> None:
    answer = chat(make(Slow()), stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")

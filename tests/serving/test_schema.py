"""Requests and errors in OpenAI's words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.serving.schema import ChatRequest, ChatResponse, ErrorBody, explain_invalid

HI = {"model": "student", "messages": [{"role": "user", "content": "hi"}]}


def refused(**changes: Any) -> ErrorBody:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(HI | changes)
    return explain_invalid(caught.value.errors()).error


def test_what_a_request_leaves_out_is_openais_default() -> None:
    sampling = ChatRequest.model_validate(HI).sampling(default_max_tokens=7)
    assert sampling == Sampling(temperature=1.0, top_p=1.0, max_tokens=7, clip_to_context=True, stop=(), seed=None)


def test_a_request_says_how_its_reply_is_drawn() -> None:
    given = {"temperature": 0, "top_p": 0.5, "max_tokens": 9, "stop": "end", "seed": -1, "n": 1, "stream": False, "user": "u"}
    sampling = ChatRequest.model_validate(HI | given).sampling(default_max_tokens=7)
    assert sampling == Sampling(temperature=0.0, top_p=0.5, max_tokens=9, stop=("end",), seed=2**63 - 1)


def test_the_newer_name_of_max_tokens_wins_and_null_means_not_given() -> None:
    request = ChatRequest.model_validate(HI | {"max_tokens": 9, "max_completion_tokens": 5, "stop": None, "tools": None})
    assert request.sampling(default_max_tokens=7).max_tokens == 5


def test_messages_may_be_lists_of_text_and_developers_speak_as_the_system() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert ChatRequest.model_validate(HI | {"messages": messages}).conversation() == [
        Message("system", "Be brief."),
        Message("user", "2 + 2?"),
    ]


def test_unsupported_fields_are_all_named() -> None:
    error = refused(logit_bias={}, tools=[])
    assert error.message == "Not supported by this server: logit_bias, tools."
    assert (error.type, error.param, error.code) == ("invalid_request_error", "logit_bias", "unsupported_parameter")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(changes: dict[str, Any], param: str) -> None:
    error = refused(**changes)
    assert error.param == param
    assert error.message.startswith(f"{param}: ")


def test_a_reply_keeps_its_counts_and_its_reason() -> None:
    reply = Reply(text="4", tokens_in=5, tokens_out=2, confidence=0.5, finish_reason="length", model="/somewhere")
    body = ChatResponse.of(reply, model="student").model_dump()
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert (body["model"], body["choices"][0]["finish_reason"], body["choices"][0]["message"]["content"]) == (
        "student",
        "length",
        "4",
    )

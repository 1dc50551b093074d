"""Requests in OpenAI's words: what they mean, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.agents.base import Message
from magdi_ray.agents.streaming import Decoding
from magdi_ray.serving.door.body import parse
from magdi_ray.serving.wire.chat import ChatRequest
from magdi_ray.serving.wire.completions import CompletionRequest
from magdi_ray.serving.wire.errors import ApiError
from magdi_ray.serving.wire.fields import Body, StreamOptions, choice_decoding
from magdi_ray.serving.wire.score import ScoreRequest
from magdi_ray.serving.wire.votes import MagdiWish

HI = {"model": "student", "messages": [{"role": "user", "content": "hi"}]}


def chat(**changes: Any) -> ChatRequest:
    return parse(json.dumps(HI | changes).encode(), ChatRequest)


def decoded(request: ChatRequest) -> Decoding:
    return request.decoding(default_max_tokens=7, adapter=None, top_logprobs=request.wanted_logprobs())


def refused(**changes: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(**changes)
    return caught.value


def test_what_a_request_leaves_out_is_openais_default() -> None:
    assert decoded(chat()) == Decoding(temperature=1.0, top_p=1.0, max_tokens=7, clip_to_context=True)


def test_a_request_says_how_its_reply_is_drawn() -> None:
    drawn = {"temperature": 0, "top_p": 0.5, "max_tokens": 9, "stop": "end", "seed": -1}
    more = {"frequency_penalty": 1, "presence_penalty": -2.0, "logprobs": True, "top_logprobs": 3}
    assert decoded(chat(**drawn, **more)) == Decoding(
        temperature=0.0,
        top_p=0.5,
        max_tokens=9,
        stop=("end",),
        seed=2**63 - 1,
        frequency_penalty=1.0,
        presence_penalty=-2.0,
        top_logprobs=3,
    )


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert decoded(chat(max_tokens=9, max_completion_tokens=5)).max_tokens == 5


def test_null_means_not_given_whatever_the_field() -> None:
    assert decoded(chat(stop=None, tools=None, temperature=None, magdi=None, anything=None)) == decoded(chat())


def test_a_reply_can_be_sent_back_as_it_came() -> None:
    message = {"role": "assistant", "content": "4", "refusal": None, "tool_calls": None}
    assert chat(messages=[*HI["messages"], message]).prompt().messages == (Message("user", "hi"), Message("assistant", "4"))


def test_fields_that_change_nothing_are_taken() -> None:
    harmless = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "logit_bias": {}}
    formats = {"response_format": {"type": "text"}, "modalities": ["text"], "prompt_cache_key": "k", "safety_identifier": "s"}
    assert decoded(chat(**harmless, **formats)) == decoded(chat())


def test_messages_may_be_lists_of_text_and_developers_speak_as_the_system() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert chat(messages=messages).prompt().messages == (Message("system", "Be brief."), Message("user", "2 + 2?"))


def test_unsupported_fields_are_all_named() -> None:
    error = refused(tools=[], functions=[], reasoning_effort="low")
    assert error.message == "Not supported by this server: tools, functions, reasoning_effort."
    assert (error.status, error.param, error.code) == (400, "tools", "unsupported_parameter")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stream": 1}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"model": None}, "model"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"store": True}, "store"),
        ({"magdi": {"samples": 1}}, "magdi.samples"),
        ({"magdi": {"samples": 2, "aggregate": "mean"}}, "magdi.aggregate"),
        ({"magdi": {"samples": 2}, "n": 2}, "n"),
        ({"magdi": {"samples": 2}, "stream": True}, "stream"),
        ({"magdi": {"samples": 2}, "temperature": 0}, "temperature"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(changes: dict[str, Any], param: str) -> None:
    error = refused(**changes)
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(f"{param}: ")


def test_no_message_speaks_of_python() -> None:
    told = [
        refused(messages=[]),
        refused(stop=["a"] * 5),
        refused(messages=HI["messages"] * 3000),
        refused(n=None, temperature=[]),
    ]
    assert not [error.message for error in told if "Tuple" in error.message]
    assert told[2].message == "messages: at most 2048 are taken."


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "A body is required"),
        (b"{oops", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"n": NaN}', "NaN is no JSON number"),
        (b'{"n": -Infinity}', "-Infinity is no JSON number"),
        (b'{"n": 1, "n": 1}', "'n' is given twice"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b'{"model": "\\ud800", "messages": []}', "not valid JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"{" + b",".join(b'"f%d": 1' % i for i in range(300)) + b"}", "300 fields"),
    ],
)
def test_a_body_that_is_no_sound_json_object_is_told(body: bytes, told: str) -> None:
    with pytest.raises(ApiError, match=told) as caught:
        parse(body, ChatRequest)
    assert caught.value.status == 400


def test_each_choice_has_a_seed_of_its_own_and_the_first_the_one_given() -> None:
    drawn = decoded(chat(seed=5))
    seeds = [choice_decoding(drawn, index).seed for index in range(3)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert seeds == [choice_decoding(drawn, index).seed for index in range(3)]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a b", [("a b", None)]),
        (["a", "b"], [("a", None), ("b", None)]),
        ([1, 2], [(None, (1, 2))]),
        ([[1], [2, 3]], [(None, (1,)), (None, (2, 3))]),
    ],
)
def test_a_completion_prompt_has_four_forms(prompt: Any, read: Any) -> None:
    request = parse(json.dumps({"model": "m", "prompt": prompt}).encode(), CompletionRequest)
    assert [(one.text, one.ids) for one in request.prompts()] == read


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], [True], [-1], [[1], "a"], 5, [1.5], ["a"] * 129])
def test_any_other_form_of_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(ApiError, match="must be a text, token ids") as caught:
        parse(json.dumps({"model": "m", "prompt": prompt}).encode(), CompletionRequest)
    assert caught.value.param == "prompt"


def test_what_only_the_old_api_had_is_refused_unless_it_changes_nothing() -> None:
    parse(b'{"model": "m", "prompt": "a", "echo": false, "best_of": 1, "suffix": ""}', CompletionRequest)
    for field, value in (("echo", True), ("best_of", 2), ("suffix", "x"), ("logprobs", 6), ("logit_bias", {"1": 1})):
        with pytest.raises(ApiError) as caught:
            parse(json.dumps({"model": "m", "prompt": "a", field: value}).encode(), CompletionRequest)
        assert caught.value.param == field


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest, ScoreRequest, MagdiWish, StreamOptions])
def test_every_parameter_is_in_the_documented_tables(kind: type[Body]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving-api.md").read_text()
    assert [name for name in kind.model_fields if f"`{name}`" not in text and f"`{name}:" not in text] == []

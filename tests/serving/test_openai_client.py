"""The official client and curl, unchanged, against the front door on a real socket; the backend is scripted."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from magdi_ray.serving.door import create_api
from magdi_ray.serving.keys import Key, KeyRing, digest
from tests.serving.doors import HI, Scripted, listening, settings


@pytest.fixture(scope="module")
def backend() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def url(backend: Scripted) -> Iterator[str]:
    keys = [Key(name="alice", sha256=digest("one")), Key(name="slow", sha256=digest("two"), rpm=30)]
    with listening(create_api(backend, settings(), keys=KeyRing(fixed=keys))) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="one", max_retries=0) as made:
        yield made


def say(client: openai.OpenAI, text: str = "hi there", **changes: Any) -> Any:
    return client.chat.completions.create(model="student", messages=[{"role": "user", "content": text}], **changes)


def test_chat_with_choices_and_logprobs(client: openai.OpenAI) -> None:
    answer = say(client, n=2, logprobs=True, top_logprobs=1, seed=3, stop=["x"], max_completion_tokens=9, user="u")
    assert [choice.message.content for choice in answer.choices] == ["hi there "] * 2
    assert [token.token for token in answer.choices[1].logprobs.content] == ["hi ", "there "]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    assert answer._request_id


def test_a_conversation_goes_on_with_the_message_that_was_received(client: openai.OpenAI) -> None:
    message = say(client).choices[0].message
    again = [*HI["messages"], message, {"role": "user", "content": "and now"}]
    assert client.chat.completions.create(model="student", messages=again).choices[0].message.content == "and now "


def test_a_stream_with_counts(client: openai.OpenAI) -> None:
    chunks = list(say(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hi there "
    assert chunks[-1].usage.total_tokens == 4


def test_the_clients_stream_helper_puts_the_reply_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="student", messages=HI["messages"], n=2) as stream:
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["hi there "] * 2


def test_the_async_client_asks_at_once_and_streams(url: str) -> None:
    async def run() -> tuple[list[Any], str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="one", max_retries=0) as client:
            many = (client.chat.completions.create(**HI) for _ in range(16))
            answers = [answer.choices[0].message.content for answer in await asyncio.gather(*many)]
            stream = await client.chat.completions.create(**HI, stream=True)
            return answers, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(run()) == (["hi there "] * 16, "hi there ")


def test_raw_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="student", prompt=["a b", "c"], logprobs=1, max_tokens=1)
    assert [(one.text, one.finish_reason) for one in answer.choices] == [("a ", "length"), ("c ", "stop")]
    assert answer.choices[0].logprobs.tokens == ["a "]
    chunks = list(client.completions.create(model="student", prompt=[1, 2], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "1 2 "


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["student", "student:terse"]
    assert client.models.retrieve("student:terse").id == "student:terse"


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"text": "long"}, openai.BadRequestError, "context_length_exceeded"),
        ({"temperature": 5}, openai.BadRequestError, "invalid_value"),
        ({"tools": []}, openai.BadRequestError, "unsupported_parameter"),
        ({"text": "fail"}, openai.InternalServerError, "engine_error"),
        ({"text": "busy"}, openai.InternalServerError, "overloaded"),
        ({"text": "busy", "stream": True}, openai.InternalServerError, "overloaded"),
    ],
)
def test_errors_are_of_the_clients_classes(client: openai.OpenAI, changes: Any, kind: Any, code: str) -> None:
    with pytest.raises(kind) as caught:
        say(client, **changes)
    assert caught.value.code == code
    assert caught.value.request_id


def test_an_unknown_model_and_a_wrong_key_have_classes_of_their_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")
    with pytest.raises(openai.AuthenticationError):
        say(client.with_options(api_key="wrong"))


def test_an_error_in_the_midst_of_a_stream_is_raised(client: openai.OpenAI) -> None:
    got = []
    with pytest.raises(openai.APIError, match="could not answer"):
        got.extend(say(client, "so midway", stream=True))
    assert got[-1].choices[0].delta.content == "so "


def test_who_is_limited_waits_as_told_and_is_answered(client: openai.OpenAI) -> None:
    slow = client.with_options(api_key="two")
    with pytest.raises(openai.RateLimitError) as caught:
        list(map(say, [slow] * 70))
    assert caught.value.type == "requests"
    assert caught.value.response.headers["retry-after"] in ("1", "2")
    assert say(slow.with_options(max_retries=2)).choices[0].message.content == "hi there "


def test_a_client_that_closes_its_stream_ends_the_generation(client: openai.OpenAI, backend: Scripted) -> None:
    stream = say(client, "forever", stream=True)
    next(stream)
    assert backend.running == 1
    stream.close()
    until = time.monotonic() + 5
    while backend.running and time.monotonic() < until:
        time.sleep(0.01)
    assert backend.running == 0


def test_a_body_that_is_too_large_is_answered_and_not_cut_off(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        say(client, "x" * 10_000_000)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_is_answered_and_streamed_to(url: str) -> None:
    def curl(body: Any, *options: str) -> str:
        headers = ["-H", "Authorization: Bearer one", "-H", "Content-Type: application/json"]
        command = ["curl", "-sS", "-m", "20", *headers, *options, "--data-binary", "@-", f"{url}/v1/chat/completions"]
        return subprocess.run(command, input=json.dumps(body), check=True, capture_output=True, text=True).stdout

    assert json.loads(curl(HI))["choices"][0]["message"]["content"] == "hi there "
    assert curl(HI | {"stream": True}, "-N").endswith("data: [DONE]\n\n")
    large = HI | {"messages": [{"role": "user", "content": "x" * 5_000_000}]}
    for options in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
        assert json.loads(curl(large, *options))["error"]["code"] == "request_too_large"

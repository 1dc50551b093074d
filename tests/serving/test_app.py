"""The server as clients see it: first the HTTP side over a scripted engine, then the whole of it behind the official client."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from magdi_ray.agents.base import ContextLengthError, Message, Reply, Sampling
from magdi_ray.config.serving import ServeConfig
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.serving.app import build, create_api, serve_student

HI = {"model": "student", "messages": [{"role": "user", "content": "hi"}]}


class Scripted:
    """Says back what it was asked, or fails as the word asks it to."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        word = messages[-1].content
        if word == "long":
            raise ContextLengthError("9 tokens and max_tokens=8 exceed the 16")
        if word == "fail":
            raise EngineError("no replica answered")
        if word == "bug":
            raise ZeroDivisionError("a bug")
        return Reply(text=f"{word}!", tokens_in=1, tokens_out=2, confidence=None, finish_reason="stop", model="m")


def call(method: str, path: str, body: Any = None, content: bytes | None = None) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_api(Scripted(), model_name="student"))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            if content is not None:
                return await client.request(method, path, content=content, headers={"content-type": "application/json"})
            return await client.request(method, path, json=body)

    return asyncio.run(run())


def test_a_chat_completion_has_openais_shape() -> None:
    answer = call("POST", "/v1/chat/completions", HI).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "hi!", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_health_and_models_answer() -> None:
    assert call("GET", "/health").json() == {"status": "ok"}
    assert [card["id"] for card in call("GET", "/v1/models").json()["data"]] == ["student"]
    assert call("GET", "/v1/models/student").json()["object"] == "model"


def asking(word: str) -> dict[str, Any]:
    return HI | {"messages": [{"role": "user", "content": word}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param", "code"),
    [
        ("POST", "/v1/chat/completions", HI | {"stream": True}, 400, "stream", "unsupported_value"),
        ("POST", "/v1/chat/completions", HI | {"tools": []}, 400, "tools", "unsupported_parameter"),
        ("POST", "/v1/chat/completions", HI | {"top_p": 0}, 400, "top_p", "invalid_value"),
        ("POST", "/v1/chat/completions", {"model": "student"}, 400, "messages", "missing_required_parameter"),
        ("POST", "/v1/chat/completions", HI | {"model": "other"}, 404, "model", "model_not_found"),
        ("POST", "/v1/chat/completions", asking("long"), 400, "messages", "context_length_exceeded"),
        ("POST", "/v1/chat/completions", asking("fail"), 500, None, None),
        ("POST", "/v1/chat/completions", asking("bug"), 500, None, None),
        ("GET", "/v1/models/org/other", None, 404, "model", "model_not_found"),
        ("GET", "/v1/embeddings", None, 404, None, None),
        ("GET", "/v1/chat/completions", None, 405, None, None),
    ],
)
def test_every_error_has_openais_shape(
    method: str, path: str, body: Any, status: int, param: str | None, code: str | None
) -> None:
    answer = call(method, path, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")


@pytest.mark.parametrize(
    ("content", "told"), [(b"{oops", "not valid JSON"), (b"[1]", "must be a JSON object"), (b"", "missing|required")]
)
def test_a_body_that_is_no_json_object_is_told(content: bytes, told: str) -> None:
    answer = call("POST", "/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert re.search(told, answer.json()["error"]["message"])


def test_arguments_of_a_config_file_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"model_name: Field required; replica: Extra inputs"):
        build({"model": "x/y", "replica": 3})


def test_the_config_file_asks_for_this_application() -> None:
    [application] = yaml.safe_load((Path(__file__).parents[2] / "serve" / "student.yaml").read_text())["applications"]
    assert application["import_path"] == "magdi_ray.serving.app:build"
    with pytest.raises(ConfigError, match="No model directory at"):  # the arguments are right, the run is not here
        build(application["args"])


@pytest.fixture(scope="module")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama that reads 64 tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=64, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    LlamaForCausalLM(config).save_pretrained(directory)
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(60))]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def client(ray_cluster: None, student_dir: Path) -> Iterator[openai.OpenAI]:
    """The official client, talking to the student on a free port of this machine."""
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = serve_student(student_dir, "student", ServeConfig(port=port, max_batch_size=8), timeout_s=150)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
    serve.shutdown()


def say(client: openai.OpenAI, text: str, **settings: Any) -> Any:
    return client.chat.completions.create(model="student", messages=[{"role": "user", "content": text}], **settings)


@pytest.mark.cluster
def test_the_official_client_gets_seeded_completions(client: openai.OpenAI) -> None:
    first, again, other = (say(client, "w1 w2", seed=seed, max_tokens=8) for seed in (1, 1, 2))
    assert first.choices[0].message.content == again.choices[0].message.content != other.choices[0].message.content
    assert first.usage.prompt_tokens == 2
    assert 1 <= first.usage.completion_tokens <= 8
    assert [model.id for model in client.models.list()] == ["student"]


@pytest.mark.cluster
def test_the_official_client_understands_the_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2 tokens and max_tokens=63 exceed the 64") as caught:
        say(client, "w1 w2", max_tokens=63)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("other")
    assert missing.value.code == "model_not_found"


@pytest.mark.cluster
def test_concurrent_clients_are_all_answered_as_if_alone(client: openai.OpenAI) -> None:
    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0) as many:
            asked = (
                many.chat.completions.create(
                    model="student", messages=[{"role": "user", "content": f"w{i}"}], seed=i, max_completion_tokens=6
                )
                for i in range(16)
            )
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    together = asyncio.run(run())
    assert say(client, "w9", seed=9, max_tokens=6).choices[0].message.content == together[9]

"""The endpoint as it is started: what clients are told, and what they see while its parts die, are replaced, or clients leave."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.transformers import TransformersAgent
from magdi_ray.config.engines import TransformersEngine
from tests.serving.live import ADA, Live, ask_until, asking, events, serving

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LIMITS = httpx.Limits(max_connections=None)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that never ends a reply by itself."""
    directory = tmp_path_factory.mktemp("model") / "endless"
    shutil.copytree(ADA, directory)
    fields = {"config.json": "eos_token_id", "generation_config.json": "eos_token_id", "tokenizer_config.json": "eos_token"}
    for file, field in fields.items():
        settings = json.loads((directory / file).read_text())
        settings.pop(field, None)
        (directory / file).write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="module")
def live(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = ("serve.max_batch_size=16", "serve.max_queued=220", "serve.request_timeout_s=60")
    with serving(endless, *settings, temp=tmp_path_factory.mktemp("live")) as running:
        yield running


def client_of(live: Live) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, timeout=120, limits=LIMITS)


async def streamed(client: httpx.AsyncClient, tokens: int) -> list[Any]:
    async with client.stream("POST", "/v1/chat/completions", json=asking("kim", stream=True, max_tokens=tokens)) as response:
        return await events(response)


def test_the_official_client_is_told_what_the_weights_say(live: Live) -> None:
    agent = TransformersAgent(TransformersEngine(type="transformers", model=str(live.model)), device="cpu")
    wanted = asyncio.run(agent.generate([Message("user", "kim")], Sampling(max_tokens=12, temperature=0.8, seed=7))).text
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        asked = asking("kim", temperature=0.8, seed=7, max_tokens=12)
        whole = client.chat.completions.create(**asked, logprobs=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
        both = client.chat.completions.create(**asked, n=2)
        with pytest.raises(openai.BadRequestError, match="exceed the 512 tokens"):
            client.chat.completions.create(**asked | {"max_tokens": 512})
    assert whole.choices[0].message.content == "".join(pieces) == both.choices[0].message.content == wanted
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens == 12
    assert both.choices[1].message.content != wanted


def test_a_killed_copy_costs_no_request_and_ends_streams_with_an_error_event(live: Live) -> None:
    found: list[tuple[int, str]] = []

    async def run() -> list[list[Any]]:
        async with client_of(live) as client:
            done = asyncio.Event()
            clients = [asyncio.create_task(ask_until(done, client, found, max_tokens=20)) for _ in range(8)]
            streams = [asyncio.create_task(streamed(client, 450)) for _ in range(4)]
            await asyncio.sleep(1.5)
            [worker] = live.workers("student")
            worker.kill()
            ended = await asyncio.gather(*streams)
            while len(found) < 24:  # the copy's successor answers
                await asyncio.sleep(0.1)
            done.set()
            await asyncio.gather(*clients)
            return ended

    ended = asyncio.run(run())
    assert [status for status, _ in found if status != 200] == []
    for stream in ended:
        assert "error" in stream[-1]
        assert stream[-1]["error"]["type"] == "server_error"
        assert "[DONE]" not in stream


def test_a_new_version_takes_over_under_load_without_a_failed_request(live: Live) -> None:
    found: list[tuple[int, str]] = []
    before = {worker.pid for worker in live.workers("student")}

    async def run() -> list[list[Any]]:
        async with client_of(live) as client:
            done = asyncio.Event()
            clients = [asyncio.create_task(ask_until(done, client, found, max_tokens=30)) for _ in range(6)]
            streams = [asyncio.create_task(streamed(client, 400)) for _ in range(2)]
            await asyncio.sleep(1)
            settings = live.model / "generation_config.json"
            settings.write_text(settings.read_text() + "\n")  # another content: another version
            await asyncio.to_thread(live.deploy_anew)
            await asyncio.sleep(2)
            done.set()
            await asyncio.gather(*clients)
            return await asyncio.gather(*streams)

    streams = asyncio.run(run())
    assert [(status, text[:200]) for status, text in found if status != 200] == []
    assert all(stream[-1] == "[DONE]" for stream in streams)
    assert before.isdisjoint(worker.pid for worker in live.workers("student"))


def test_a_version_that_cannot_start_leaves_the_old_one_at_work(live: Live) -> None:
    weights = live.model / "model.safetensors"
    whole, before = weights.read_bytes(), {worker.pid for worker in live.workers("student")}
    question = asking("kim", max_tokens=4)
    said = httpx.post(f"{live.url}/v1/chat/completions", json=question, timeout=60).json()["choices"]
    weights.write_bytes(b"no weights")  # in place, over what the running copy has read
    try:
        live.deploy_anew()
        assert "not deployed: Engine 'student' cannot start" in live.log.read_text()
        for _ in range(10):
            answer = httpx.post(f"{live.url}/v1/chat/completions", json=question, timeout=60)
            assert (answer.status_code, answer.json()["choices"]) == (200, said)
        assert before <= {worker.pid for worker in live.workers("student")}
    finally:
        weights.write_bytes(whole)
    live.deploy_anew()
    assert httpx.post(f"{live.url}/v1/chat/completions", json=question, timeout=60).json()["choices"] == said


def test_clients_that_leave_end_the_generation_and_leave_nothing_behind(live: Live) -> None:
    async def leave(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=asking("kim", stream=True, max_tokens=480)) as response:
            async for line in response.aiter_lines():
                if "content" in line:
                    return

    async def cycles(count: int, together: int) -> None:
        async with client_of(live) as client:
            places = asyncio.Semaphore(together)

            async def one() -> None:
                async with places:
                    await leave(client)

            await asyncio.gather(*(one() for _ in range(count)))

    asyncio.run(cycles(200, 200))
    resident = {worker.pid: worker.memory_info().rss for name in ("student", "door") for worker in live.workers(name)}
    asyncio.run(cycles(1000, 50))
    idle, later = live.settled()
    assert idle["in_flight"] == later["in_flight"] == 0
    assert idle["tokens_generated"] == later["tokens_generated"] < 1200 * 480 / 4
    for name in ("student", "door"):
        for worker in live.workers(name):
            assert worker.memory_info().rss - resident[worker.pid] < 60 << 20


def test_a_full_queue_is_told_and_the_clients_own_retry_succeeds(live: Live) -> None:
    async def run() -> tuple[list[httpx.Response], Any]:
        retrying = openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=12, timeout=120)
        async with client_of(live) as client, retrying:
            burst = [client.post("/v1/chat/completions", json=asking("kim", max_tokens=80)) for _ in range(320)]
            sent = asyncio.gather(*burst)
            await asyncio.sleep(0.5)
            patient = [retrying.chat.completions.create(**asking("kim", max_tokens=20)) for _ in range(12)]
            return await sent, await asyncio.gather(*patient)

    answers, retried = asyncio.run(run())
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 and answer.json()["error"]["code"] == "overloaded" for answer in refused)
    assert [reply.usage.completion_tokens for reply in retried] == [20] * 12


def test_requests_under_way_are_answered_when_it_is_told_to_stop(live: Live) -> None:
    """The last of the file: nothing is served afterwards."""

    async def run() -> list[httpx.Response]:
        async with client_of(live) as client:
            sent = [client.post("/v1/chat/completions", json=asking("kim", max_tokens=400)) for _ in range(8)]
            answers = asyncio.gather(*sent)
            await asyncio.sleep(0.3)
            live.process.terminate()
            return await answers

    assert [answer.status_code for answer in asyncio.run(run())] == [200] * 8
    assert live.process.wait(timeout=60) == 0

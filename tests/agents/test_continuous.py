"""Continuous batching: the dynamic engine's greedy replies, and nothing promised that cannot be kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError

from magdi_ray.agents.base import ContextLengthError, Message, Reply, Sampling
from magdi_ray.agents.continuous import ContinuousAgent, cache_blocks
from magdi_ray.agents.load import load_engine
from magdi_ray.agents.transformers import TransformersAgent
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.sections import AgentConfig
from magdi_ray.errors import EngineError

PROMPTS = [f"Mia has {i} apples and buys {j} more. How many does she have?" for i in range(2, 7) for j in (2, 5)]


def teacher(name: str, **changes: object) -> TransformersEngine:
    return TransformersEngine(type="transformers", model=f"pkg://magdi_ray/tiny/models/{name}", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ada() -> Iterator[ContinuousAgent]:
    torch.set_num_threads(1)
    engine = load_engine(teacher("ada", batching="continuous", max_batch_size=4))
    assert isinstance(engine, ContinuousAgent)
    yield engine
    engine.close()


def ask(agent: TransformersAgent, prompts: list[str], *samplings: Sampling) -> list[Reply]:
    async def run() -> list[Reply]:
        pairs = zip(prompts, samplings * len(prompts), strict=False)
        return await asyncio.gather(*(agent.generate([Message("user", prompt)], sampling) for prompt, sampling in pairs))

    return asyncio.run(run())


def told(replies: list[Reply]) -> list[tuple[object, ...]]:
    return [(reply.text, reply.tokens_in, reply.tokens_out, reply.finish_reason, reply.model) for reply in replies]


@pytest.mark.parametrize("name", ["ada", "ben", "cleo"])
def test_greedy_replies_and_their_confidence_are_the_dynamic_engines(name: str) -> None:
    continuous = ContinuousAgent(teacher(name, batching="continuous", max_batch_size=4))
    samplings = (Sampling(max_tokens=40), Sampling(max_tokens=3), Sampling(max_tokens=40, stop=("never", ".")))
    expected = ask(TransformersAgent(teacher(name)), PROMPTS, *samplings)
    replies = ask(continuous, PROMPTS, *samplings)
    continuous.close()
    assert told(replies) == told(expected)
    assert [reply.confidence for reply in replies] == pytest.approx([reply.confidence for reply in expected], abs=1e-4)
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}


def test_what_is_sampled_is_refused_and_not_decoded_greedily(ada: ContinuousAgent) -> None:
    with pytest.raises(EngineError, match=r"greedily, found temperature 0\.7.*Set batching: dynamic"):
        ask(ada, PROMPTS[:1], Sampling(temperature=0.7))
    with pytest.raises(ValidationError, match=r"sampling\.temperature is 0\.7; use batching: dynamic"):
        AgentConfig(name="ada", engine=ada.config, sampling=Sampling(temperature=0.7))
    AgentConfig(name="ada", engine=ada.config, sampling=Sampling(top_p=0.5))


def test_a_short_reply_does_not_wait_for_a_long_one_that_came_first(ada: ContinuousAgent) -> None:
    async def run() -> list[str]:
        ended: list[str] = []

        async def one(name: str, prompt: str, tokens: int) -> None:
            await ada.generate([Message("user", prompt)], Sampling(max_tokens=tokens))
            ended.append(name)

        await asyncio.gather(one("long", PROMPTS[0], 9), *(one("short", prompt, 1) for prompt in PROMPTS))
        return ended

    assert asyncio.run(run()).index("long") >= 3


def test_the_whole_context_can_be_read_and_not_a_token_more(ada: ContinuousAgent) -> None:
    [tokens] = {reply.tokens_in for reply in ask(ada, ["apples"], Sampling(max_tokens=1))}
    fitting = "apples " * (512 - tokens)
    [reply] = ask(ada, [fitting], Sampling(max_tokens=1))
    assert reply.tokens_in == 511
    with pytest.raises(ContextLengthError, match="511 tokens and max_tokens=2 exceed the 512"):
        ask(ada, [fitting], Sampling(max_tokens=2))
    [clipped] = ask(ada, [fitting], Sampling(max_tokens=20, clip_to_context=True))
    assert clipped.tokens_out == 1


def test_a_caller_that_leaves_frees_its_row_and_the_engine_serves_the_next_loop(ada: ContinuousAgent) -> None:
    async def leave() -> None:
        await asyncio.wait_for(ada.generate([Message("user", PROMPTS[0])], Sampling(max_tokens=400)), timeout=0.001)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            asyncio.run(leave())
    assert len(ask(ada, PROMPTS, Sampling(max_tokens=5))) == len(PROMPTS)


def test_after_a_step_that_failed_the_loop_starts_anew(ada: ContinuousAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = told(ask(ada, PROMPTS[:2], Sampling(max_tokens=20)))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ada.model, "forward", fail)
        with pytest.raises(EngineError, match=r"could not decode: .*out of memory"):
            ask(ada, PROMPTS[:2], Sampling(max_tokens=20))
    assert told(ask(ada, PROMPTS[:2], Sampling(max_tokens=20))) == expected


def test_the_cache_has_room_for_every_row_or_for_one_as_long_as_the_context() -> None:
    assert cache_blocks(4, 512) == 8
    assert cache_blocks(4, 100_000) == 391
    assert cache_blocks(64, 100_000) == 64 * 8
    assert cache_blocks(4, None) == 32


def test_a_forgotten_engine_does_not_keep_the_process_alive() -> None:
    code = (
        "import asyncio; from magdi_ray.agents.base import Message, Sampling\n"
        "from magdi_ray.agents.load import load_engine; from magdi_ray.config.engines import TransformersEngine\n"
        "model = 'pkg://magdi_ray/tiny/models/ada'\n"
        "e = load_engine(TransformersEngine(type='transformers', model=model, batching='continuous'))\n"
        "print(asyncio.run(e.generate([Message('user', '2 + 2')], Sampling(max_tokens=3))).tokens_out)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "3"), ended.stderr
    assert "Exception" not in ended.stderr


def test_a_closed_engine_says_so() -> None:
    engine = ContinuousAgent(teacher("ada", batching="continuous"))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        ask(engine, PROMPTS[:1], Sampling(max_tokens=1))

"""Continuous batching: the dynamic engine's replies, whatever the company, and no row that nobody wants."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation.continuous_batching import continuous_api

from magdi_ray.agents.base import ContextLengthError, Message, PromptError, Reply, Sampling
from magdi_ray.agents.continuous import ContinuousAgent, cache_blocks
from magdi_ray.agents.desk import Ticket
from magdi_ray.agents.load import load_engine
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, joined
from magdi_ray.agents.transformers import TransformersAgent
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.errors import ConfigError, EngineError

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


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContinuousAgent]:
    """A model that never ends a reply by itself."""
    directory = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(resolve_model("pkg://magdi_ray/tiny/models/ada"), directory)
    ends = {"config.json": "eos_token_id", "generation_config.json": "eos_token_id", "tokenizer_config.json": "eos_token"}
    for file, name in ends.items():
        settings = json.loads(Path(directory / file).read_text())
        settings.pop(name, None)
        Path(directory / file).write_text(json.dumps(settings))
    engine = ContinuousAgent(TransformersEngine(type="transformers", model=str(directory)))
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


def test_a_seeded_reply_is_the_dynamic_engines_alone_and_among_rows_that_join_and_leave(ada: ContinuousAgent) -> None:
    samplings = [Sampling(temperature=0.5 + i / 10, top_p=1.0 - i / 40, seed=i, max_tokens=5 + i) for i in range(20)]
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(20)]
    alone = [ask(ada, [prompt], sampling)[0] for prompt, sampling in zip(prompts, samplings, strict=True)]
    assert told(ask(TransformersAgent(teacher("ada")), prompts, *samplings)) == told(alone)
    assert told(ask(ada, prompts, *samplings)) == told(alone)
    assert len({reply.text for reply in alone}) > 10


def test_no_seed_draws_anew(ada: ContinuousAgent) -> None:
    replies = ask(ada, PROMPTS[:1] * 8, Sampling(temperature=2.0, max_tokens=12))
    assert len({reply.text for reply in replies}) > 4


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


def prompt(text: str) -> Prompt:
    return Prompt(messages=(Message("user", text),))


async def pieces_of(agent: ContinuousAgent, asked: Prompt, decoding: Decoding) -> list[Piece]:
    return [piece async for piece in agent.stream(asked, decoding)]


@pytest.mark.parametrize("stop", [(), (".",), ("= 6 . answer",), ("never", "answer 6")])
def test_the_pieces_of_a_stream_joined_are_the_whole_reply(ada: ContinuousAgent, stop: tuple[str, ...]) -> None:
    decoding = Decoding(max_tokens=30, stop=stop, top_logprobs=2)

    async def both(asked: Prompt) -> tuple[list[Piece], Piece]:
        return await pieces_of(ada, asked, decoding), await ada.complete(asked, decoding)

    pieces, whole = asyncio.run(both(prompt("mia has 3 apples and buys 3 more . how many ?")))
    assert replace(joined(pieces), queued_s=0) == replace(whole, queued_s=0)
    assert len(pieces) > 1
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert not any(string in whole.text for string in stop)
    assert " ".join(token.text for token in whole.logprobs) == whole.text.strip()


def test_logprobs_are_of_the_model_alone_whatever_temperature_and_penalties_choose(ada: ContinuousAgent) -> None:
    decoding = Decoding(max_tokens=8, temperature=3.0, seed=1, frequency_penalty=1.5, presence_penalty=1.0, top_logprobs=20)
    asked = prompt(PROMPTS[0])
    whole = asyncio.run(ada.complete(asked, decoding))
    words: dict[str, int] = ada.tokenizer.get_vocab()
    ids = [words[token.text] for token in whole.logprobs]
    read = ada.encode(asked)
    with torch.no_grad():
        logits = ada.twin()(torch.tensor([read + ids])).logits[0, len(read) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    assert [token.logprob for token in whole.logprobs] == pytest.approx(
        [float(row[id]) for row, id in zip(expected, ids, strict=False)], abs=1e-4
    )
    for token, row in zip(whole.logprobs, expected, strict=False):
        best = row.topk(20)
        assert [logprob for _, _, logprob in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert {words[text] for text, _, _ in token.top[:5]} == set(best.indices[:5].tolist())


def test_a_frequency_penalty_keeps_a_reply_from_repeating_itself(endless: ContinuousAgent) -> None:
    def tokens(**penalties: float) -> list[str]:
        decoding = Decoding(max_tokens=40, top_logprobs=0, **penalties)  # type: ignore[arg-type]
        return [token.text for token in asyncio.run(endless.complete(prompt(PROMPTS[0]), decoding)).logprobs]

    plain = tokens()
    assert len(set(tokens(presence_penalty=2.0, frequency_penalty=2.0))) > len(set(plain))
    assert tokens(presence_penalty=-2.0, frequency_penalty=-2.0) != plain


@pytest.mark.parametrize("leave", ["close", "cancel stream", "cancel complete"])
def test_a_reply_that_nobody_waits_for_is_decoded_no_further(endless: ContinuousAgent, leave: str) -> None:
    asked, decoding = prompt(PROMPTS[0]), Decoding(max_tokens=450)

    async def run() -> int:
        before = endless.tokens_generated
        if leave == "close":
            stream = endless.stream(asked, decoding)
            await anext(stream)
            await stream.aclose()
        else:
            ways = {
                "cancel stream": lambda: pieces_of(endless, asked, decoding),
                "cancel complete": lambda: endless.complete(asked, decoding),
            }
            waiting = asyncio.ensure_future(ways[leave]())
            while endless.tokens_generated == before:
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert endless.in_flight == 0
        await asyncio.sleep(0.05)
        settled = endless.tokens_generated
        await asyncio.sleep(0.1)
        assert endless.tokens_generated == settled
        return settled - before

    assert 0 < asyncio.run(run()) < 200


def test_a_caller_that_leaves_while_its_request_is_fetched_leaves_no_row_behind(
    endless: ContinuousAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, desk, ids = continuous_api.drain_queue, endless._desk, endless.encode(prompt(PROMPTS[0]))
    left: list[str] = []

    def ask_and_leave_between(queue: Any) -> list[Any]:
        """The loop fetches requests first, and cancellations then."""
        fetched = drain(queue)
        if queue is desk._manager.input_queue and not left:
            name = desk._enter(ids, ticket)
            assert name is not None
            left.append(name)
            desk.leave(name)
        return fetched

    async def run() -> None:
        nonlocal ticket
        ticket = Ticket(Decoding(max_tokens=400))
        before = endless.tokens_generated
        monkeypatch.setattr(continuous_api, "drain_queue", ask_and_leave_between)
        desk._manager._wake_up_loop.set()
        while endless.tokens_generated == before:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert endless.tokens_generated - before == 1

    ticket: Any = None
    asyncio.run(asyncio.wait_for(run(), 30.0))
    assert left


def test_a_stop_string_ends_the_decoding_too(endless: ContinuousAgent) -> None:
    async def run() -> tuple[Piece, int]:
        before = endless.tokens_generated
        whole = await endless.complete(prompt(PROMPTS[0]), Decoding(max_tokens=450, stop=(".",)))
        await asyncio.sleep(0.1)
        return whole, endless.tokens_generated - before

    whole, generated = asyncio.run(run())
    assert whole.finish_reason == "stop"
    assert whole.tokens_out <= generated < 200


def test_what_was_written_since_the_last_time_is_one_piece(endless: ContinuousAgent) -> None:
    async def run() -> list[Piece]:
        pieces = []
        async for piece in endless.stream(prompt(PROMPTS[0]), Decoding(max_tokens=60)):
            pieces.append(piece)
            while endless.in_flight:  # a reader that takes its time
                await asyncio.sleep(0.01)
        return pieces

    pieces = asyncio.run(run())
    assert len(pieces) == 2
    assert pieces[1].tokens_out == 60


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Prompt(), "none of them"),
        (Prompt(text="", ids=None), "empty"),
        (Prompt(text="  \t"), r"^The prompt's text has no token to continue from\.$"),  # and does not repeat it
        (Prompt(ids=()), "empty"),
        (Prompt(messages=()), "at least one message"),
        (Prompt(text="a", ids=(1,)), "text and ids"),
        (Prompt(ids=(154,)), "between 0 and 153, found 154"),
        (Prompt(ids=(-1,)), "found -1"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(ada: ContinuousAgent, asked: Prompt, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        asyncio.run(pieces_of(ada, asked, Decoding(max_tokens=1)))


@pytest.mark.parametrize("asked", [Prompt(text="a" * 10**7), prompt("a" * 10**7), Prompt(ids=(1,) * 10**6)])
def test_an_absurd_prompt_is_refused_before_it_is_read(ada: ContinuousAgent, asked: Prompt) -> None:
    begin = time.perf_counter()
    with pytest.raises(ContextLengthError, match="exceed the 512"):
        asyncio.run(ada.complete(asked, Decoding(max_tokens=1)))
    assert time.perf_counter() - begin < 1.0  # reading it takes many seconds


def test_a_text_is_continued_as_the_tokenizer_writes_it(ada: ContinuousAgent) -> None:
    ids = tuple(ada.tokenizer("2 + 2")["input_ids"])
    assert ada.encode(Prompt(text="2 + 2")) == ada.encode(Prompt(ids=ids)) == list(ids)


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


@pytest.mark.parametrize("batching", ["dynamic", "continuous"])
def test_a_lower_context_length_bounds_prompts_and_replies(batching: str) -> None:
    engine = load_engine(teacher("ada", batching=batching, max_batch_size=2, context_length=40))
    assert isinstance(engine, TransformersAgent)
    assert len(ask(engine, ["apples"], Sampling(max_tokens=20))) == 1
    with pytest.raises(ContextLengthError, match=r"exceed the 40 tokens that .*ada \(with its context_length\) can read"):
        ask(engine, ["apples " * 30], Sampling(max_tokens=20))
    if isinstance(engine, ContinuousAgent):
        assert engine._desk._manager.batch_processor.cache.num_blocks == 2
        engine.close()


def test_a_context_length_above_the_model_s_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads 512 tokens at most; context_length=513 exceeds that"):
        TransformersAgent(teacher("ada", context_length=513))


def test_a_model_that_cannot_be_batched_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("magdi_ray.agents.continuous.use_rows", full)
    with pytest.raises(EngineError, match=r"no room.*a max_batch_size below 3 or a context_length below 512"):
        ContinuousAgent(teacher("ada", max_batch_size=3))


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


def test_a_long_prompt_is_refused_by_its_beginning_and_one_that_fits_is_read(ada: ContinuousAgent) -> None:
    with pytest.raises(ContextLengthError, match=r"The first 4096 of the prompt's 20000 characters are \d+ tokens already"):
        ada.encode(Prompt(text="1 2 " * 5000))
    spaces = " " * 20_000
    assert ada.encode(Prompt(text=f"1 2 {spaces} 3")) == ada.encode(Prompt(text="1 2 3"))


def test_an_engine_that_stands_still_with_work_at_hand_is_not_healthy(
    endless: ContinuousAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, gate = endless.model.forward, threading.Event()

    def stand_still(*args: object, **kwargs: object) -> object:
        gate.wait(10.0)
        return forward(*args, **kwargs)

    async def run() -> None:
        asked = asyncio.ensure_future(endless.complete(prompt(PROMPTS[0]), Decoding(max_tokens=2)))
        await asyncio.sleep(0.3)
        with pytest.raises(EngineError, match="has 1 replies to write and wrote none"):
            endless.check_health(patience_s=0.1)
        gate.set()
        await asked

    endless.check_health(patience_s=0.0)
    monkeypatch.setattr(endless.model, "forward", stand_still)
    asyncio.run(run())
    endless.check_health(patience_s=0.0)

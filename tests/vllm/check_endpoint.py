"""The endpoint with vLLM behind it, asked as clients ask it: `python check_endpoint.py [--keep DIR] [--faults]`.

A tiny student with random weights and a LoRA adapter beside it are made on the spot, served through `magdi_ray.serving.app` with
`engine: vllm`, and asked with the official client. What vLLM writes greedily is compared with our own engine's replies. The last
line printed is one JSON object: what passed, what failed and why, and how long it took. Runs on CPUs, in the environment that
`environment.sh` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.cluster import free_ports, ray_session, serve_over_http
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.serving import StudentArgs
from magdi_ray.serving.keys import digest, new_key

WORDS = ("the student answers a question in a few words", "naïve café, 13 eggs", "what is it?", "answers: 1 2 3 4 5")
LONGEST = 4096
"""Tokens the tiny model reads."""


@dataclass
class Asked:
    """An endpoint that runs, and what is needed to judge it."""

    client: openai.OpenAI
    url: str
    student: str
    tuned: str
    measured: dict[str, float] = field(default_factory=dict)

    def chat(self, words: str, **settings: Any) -> Any:
        """One chat completion; greedy and short unless told otherwise."""
        settings = {"model": "tiny", "temperature": 0, "max_tokens": 24} | settings
        return self.client.chat.completions.create(messages=[{"role": "user", "content": words}], **settings)

    def text(self, words: str, **settings: Any) -> str:
        """What the student says."""
        return str(self.chat(words, **settings).choices[0].message.content)


def make_student(directory: Path) -> tuple[str, str]:
    """A random Llama with a byte-level tokenizer and heads of a size that vLLM's CPU kernels take, and a LoRA adapter on it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet)
    pieces.train_from_iterator(WORDS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=LONGEST, initializer_range=0.1, num_key_value_heads=2, **shape, **ids
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory / "student")
    tokenizer.save_pretrained(directory / "student")
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(directory / "tuned")
    return str(directory / "student"), str(directory / "tuned")


def ours(model: str, words: tuple[str, ...] = WORDS, **settings: Any) -> list[Reply]:
    """What our own engine replies, greedily."""
    from magdi_ray.agents.transformers import TransformersAgent

    agent = TransformersAgent(TransformersEngine(type="transformers", model=model), device="cpu")
    sampling = Sampling(max_tokens=24, **settings)

    async def ask() -> list[Reply]:
        return await asyncio.gather(*(agent.generate([Message("user", text)], sampling) for text in words))

    return asyncio.run(ask())


def greedy_replies_are_those_of_our_own_engine(asked: Asked) -> None:
    for words, reply in zip(WORDS, ours(asked.student), strict=True):
        answer = asked.chat(words)
        assert answer.choices[0].message.content == reply.text
        assert answer.choices[0].finish_reason == reply.finish_reason
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (reply.tokens_in, reply.tokens_out)


def adapters_reply_as_they_do_merged(asked: Asked) -> None:
    for words, reply in zip(WORDS, ours(f"{asked.student}:{asked.tuned}"), strict=True):
        assert asked.text(words, model="tiny:tuned") == reply.text
        assert asked.text(words) != reply.text
    with_unknown = refused(lambda: asked.chat("x", model="tiny:other"))
    assert with_unknown.status_code == 404
    assert {card.id for card in asked.client.models.list()} == {"tiny", "tiny:tuned"}


def a_seed_repeats_a_reply_and_another_seed_does_not(asked: Asked) -> None:
    first, again, other = (asked.text(WORDS[0], temperature=1.0, seed=seed) for seed in (7, 7, 8))
    assert first == again != other
    assert asked.text(WORDS[0], temperature=1.0, seed=2**63 - 1) != first


def a_stream_joins_to_the_whole_reply(asked: Asked) -> None:
    for words in WORDS:
        whole = asked.chat(words)
        chunks = list(asked.chat(words, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
        assert text == whole.choices[0].message.content
        assert ends == [whole.choices[0].finish_reason]
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert sum(bool(chunk.choices) for chunk in chunks) > 2


def a_stop_string_ends_the_reply_before_it(asked: Asked) -> None:
    whole = asked.text(WORDS[0])
    middle = len(whole) // 2
    stop = whole[middle : middle + 3]
    expected = whole[: whole.find(stop)]
    answer = asked.chat(WORDS[0], stop=[stop, "never said"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (expected, "stop")
    chunks = asked.chat(WORDS[0], stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert ours(asked.student, WORDS[:1], stop=(stop,))[0].text == expected


def logprobs_are_the_models_own(asked: Asked) -> None:
    answer = asked.chat(WORDS[0], logprobs=True, top_logprobs=3, frequency_penalty=0.0)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace") == answer.choices[0].message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == token.logprob <= 0.0
    hot = asked.chat(WORDS[0], logprobs=True, temperature=2.0, seed=3, presence_penalty=2.0).choices[0].logprobs.content
    assert all(token.logprob <= 0.0 and not token.top_logprobs for token in hot)


def scores_are_those_of_our_own_model(asked: Asked) -> None:
    import torch

    from magdi_ray.agents.transformers import load_model, read_prompt

    for name, model in (("tiny", asked.student), ("tiny:tuned", f"{asked.student}:{asked.tuned}")):
        weights, tokenizer = load_model(model)
        prompt = read_prompt(tokenizer, [Message("user", WORDS[1])])
        reply = [*tokenizer(" the words", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = weights(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(reply)), reply].sum().item()
        body = {"model": name, "messages": [{"role": "user", "content": WORDS[1]}], "reply": " the words"}
        scores = (
            httpx.post(f"{asked.url}/score", json=body, headers=bearer(asked), timeout=60).raise_for_status().json()["scores"]
        )
        assert abs(scores["logprob"] - expected) < 1e-3
        assert scores["tokens"] == len(reply)
        assert scores["contrast"] is scores["correct"] is None


def penalties_reach_the_model(asked: Asked) -> None:
    prompt = {"model": "tiny", "prompt": "the the the", "temperature": 0, "max_tokens": 40}
    plain = asked.client.completions.create(**prompt)
    varied = asked.client.completions.create(**prompt, frequency_penalty=2.0, presence_penalty=2.0)
    assert plain.usage.prompt_tokens == varied.usage.prompt_tokens
    assert plain.choices[0].text != varied.choices[0].text


def what_exceeds_the_context_is_refused_with_the_counts(asked: Asked) -> None:
    error = refused(lambda: asked.chat(WORDS[0], max_tokens=LONGEST))
    assert (error.status_code, error.code) == (400, "context_length_exceeded")
    assert str(LONGEST) in error.message
    assert refused(lambda: asked.chat("the " * 5000)).code == "context_length_exceeded"
    assert refused(lambda: list(asked.chat("the " * 5000, stream=True))).status_code == 400
    assert len(asked.text("the " * 1900, max_tokens=openai.NOT_GIVEN)) > 0


def several_choices_differ(asked: Asked) -> None:
    choices = asked.chat(WORDS[0], n=2, temperature=1.0, seed=1).choices
    assert [choice.index for choice in choices] == [0, 1]
    assert choices[0].message.content != choices[1].message.content


def samples_are_voted_over(asked: Asked) -> None:
    answer = asked.chat(WORDS[1], temperature=1.0, seed=1, extra_body={"magdi": {"samples": 4}})
    report = answer.model_extra["magdi"]
    assert report["samples"] == 4
    assert report["unread"] + sum(vote["count"] for vote in report["votes"]) == 4


def keys_are_asked_for(asked: Asked) -> None:
    stranger = openai.OpenAI(base_url=asked.url, api_key=new_key(), max_retries=0)
    assert refused(stranger.models.list).status_code == 401


def many_at_once_are_answered_alike(asked: Asked) -> None:
    expected = [asked.text(words) for words in WORDS]
    found: list[tuple[int, str]] = []

    def ask(place: int) -> None:
        found.append((place, asked.text(WORDS[place % len(WORDS)])))

    at_once([partial(ask, place) for place in range(16)])
    assert len(found) == 16
    assert all(text == expected[place % len(WORDS)] for place, text in found)


def a_full_queue_is_told_to_come_again(asked: Asked) -> None:
    found: list[openai.APIStatusError | str] = []

    def ask() -> None:
        try:
            found.append(asked.text(WORDS[0], max_tokens=100))
        except openai.APIStatusError as error:
            found.append(error)

    at_once([ask] * 64)
    errors = [one for one in found if not isinstance(one, str)]
    assert len(found) == 64
    assert 0 < len(errors) < 64
    assert all(error.status_code == 503 and int(error.response.headers["retry-after"]) > 0 for error in errors)


def nobody_writes_for_clients_that_have_left(asked: Asked) -> None:
    """vLLM's worker has nothing to do soon after a client is gone, and long before its reply would have ended."""
    words, took_s = next((words, took) for words in WORDS if (took := seconds_to_write(asked, words, 1500)))
    chunks = asked.chat(words, max_tokens=LONGEST - 200, stream=True)
    for _ in range(5):
        next(chunks)
    assert worked("VLLM::Worker", 1.0) > 0.3
    chunks.close()
    asked.measured["idle_after_a_stream_s"] = idle_after("VLLM::Worker", at_most=took_s)

    asking = threading.Thread(target=give_up, args=(asked, words, 2.0))
    asking.start()
    time.sleep(0.5)
    assert worked("VLLM::Worker", 1.0) > 0.3
    asking.join()
    asked.measured["idle_after_a_whole_reply_s"] = idle_after("VLLM::Worker", at_most=took_s)


def a_copy_whose_engine_dies_is_survived(asked: Asked) -> None:
    """The process that decodes is killed while clients ask: every reply that is not streamed comes all the same."""
    survive(asked, "VLLM::EngineCore")


def a_copy_that_dies_is_survived(asked: Asked) -> None:
    """The same for the process that answers for it."""
    survive(asked, "ServeReplica:student:student")


def survive(asked: Asked, title: str) -> None:
    """Kill a process with requests under way and with further ones to come; count the seconds until all are answered."""
    expected = asked.text(WORDS[0], max_tokens=200)
    found: list[str] = []

    def ask() -> None:
        found.append(asked.text(WORDS[0], max_tokens=200))

    killer = threading.Timer(0.1, lambda: os.kill(process(title).pid, signal.SIGKILL))
    begun = time.monotonic()
    killer.start()
    at_once([ask] * 8)
    ask()
    assert found == [expected] * 9
    asked.measured[f"survived_{title}_s"] = round(time.monotonic() - begun, 1)


CHECKS: tuple[Callable[[Asked], None], ...] = (
    greedy_replies_are_those_of_our_own_engine,
    adapters_reply_as_they_do_merged,
    a_seed_repeats_a_reply_and_another_seed_does_not,
    a_stream_joins_to_the_whole_reply,
    a_stop_string_ends_the_reply_before_it,
    logprobs_are_the_models_own,
    scores_are_those_of_our_own_model,
    penalties_reach_the_model,
    what_exceeds_the_context_is_refused_with_the_counts,
    several_choices_differ,
    samples_are_voted_over,
    keys_are_asked_for,
    many_at_once_are_answered_alike,
    a_full_queue_is_told_to_come_again,
    nobody_writes_for_clients_that_have_left,
)
FAULTS: tuple[Callable[[Asked], None], ...] = (a_copy_whose_engine_dies_is_survived, a_copy_that_dies_is_survived)


def refused(ask: Callable[[], Any]) -> openai.APIStatusError:
    """The error that a request is answered with."""
    try:
        answer = ask()
    except openai.APIStatusError as error:
        return error
    raise AssertionError(f"this should have been refused: {answer}")


def bearer(asked: Asked) -> dict[str, str]:
    """The client's own key, for requests without it."""
    return {"Authorization": f"Bearer {asked.client.api_key}"}


def at_once(asks: Sequence[Callable[[], None]]) -> None:
    """Call all of them side by side, and wait for them."""
    threads = [threading.Thread(target=ask) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds_to_write(asked: Asked, words: str, tokens: int) -> float | None:
    """How long a reply of so many tokens takes; None where the model ends it before."""
    begun = time.monotonic()
    if asked.chat(words, max_tokens=tokens).usage.completion_tokens < tokens:
        return None
    return time.monotonic() - begun


def idle_after(title: str, *, at_most: float) -> float:
    """Seconds until a process has nothing to do."""
    begun = time.monotonic()
    while worked(title, 0.5) > 0.05:
        assert time.monotonic() < begun + at_most, f"{title} still works after {at_most:.1f} s"
    return round(time.monotonic() - begun, 1)


def give_up(asked: Asked, words: str, seconds: float) -> None:
    """Ask for a long reply, and do not wait for it."""
    with suppress(openai.APITimeoutError):
        asked.client.with_options(timeout=seconds).chat.completions.create(
            model="tiny", temperature=0, max_tokens=LONGEST - 200, messages=[{"role": "user", "content": words}]
        )


def process(title: str) -> psutil.Process:
    """A process that this one has started, directly or not."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if title in f"{child.name()} {' '.join(child.cmdline())}":
                return child
    raise AssertionError(f"no process is called {title}")


def worked(title: str, seconds: float) -> float:
    """Seconds that a process works, of so many."""
    found = process(title)
    before = sum(found.cpu_times()[:2])
    time.sleep(seconds)
    return float(sum(found.cpu_times()[:2]) - before)


@contextmanager
def served(directory: Path, seconds: dict[str, float]) -> Iterator[Asked]:
    """The tiny student behind the endpoint, with one key."""
    student, tuned = make_student(directory)
    key, [port] = new_key(), free_ports(1)
    os.environ["MAGDI_KEYS"] = f"check:{digest(key)}"
    args = StudentArgs(
        engine="vllm",
        model=student,
        model_name="tiny",
        adapters={"tuned": tuned},
        task="gsm8k",
        max_batch_size=8,
        max_queued=16,
        api_keys_env="MAGDI_KEYS",
        engine_kwargs={"kv_cache_memory_bytes": 1 << 29},
    )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mv-") as short:  # Ray's sockets live below it
        serve_over_http(Path(short))
        with ray_session(num_cpus=3, temp_dir=short):
            from magdi_ray.serving.app import deploy, start_http

            start_http("127.0.0.1", port)
            deploy(args, timeout_s=400)
            seconds["until_ready"] = round(time.monotonic() - begun, 1)
            url = f"http://127.0.0.1:{port}/v1"
            with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120) as client:
                yield Asked(client, url, student, tuned)


def main() -> int:
    """Run all checks; 0 when all have passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="directory for the tiny student; a temporary one by default")
    parser.add_argument(
        "--faults", action="store_true", help="also kill vLLM's engine and its copy under requests (some minutes more)"
    )
    options = parser.parse_args()
    logging.disable(logging.INFO)  # several packages set up loggers of their own
    seconds: dict[str, float] = {}
    passed: list[str] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary, served(options.keep or Path(temporary), seconds) as asked:
        for check in (*CHECKS, *(FAULTS if options.faults else ())):
            begun = time.monotonic()
            try:
                check(asked)
            except Exception as error:
                traceback.print_exc()
                failed[check.__name__] = f"{type(error).__name__}: {error}"[:500]
            else:
                passed.append(check.__name__)
            seconds[check.__name__] = round(time.monotonic() - begun, 1)
            print(f"{'failed' if check.__name__ in failed else 'passed'}  {check.__name__}", flush=True)
    print(json.dumps({"passed": passed, "failed": failed, "seconds": seconds, "measured": asked.measured}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

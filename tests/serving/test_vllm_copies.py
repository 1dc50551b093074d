"""vLLM behind the endpoint, as far as it can be told without vLLM: what is asked of it, and what is read from its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from math import exp
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.exceptions import WorkerCrashedError

from magdi_ray.agents.base import BusyError, PromptError
from magdi_ray.agents.choosing import Row
from magdi_ray.agents.streaming import Decoding, Piece, joined
from magdi_ray.agents.vllm import has_vllm
from magdi_ray.agents.written import Scribe
from magdi_ray.config.load import parse_section
from magdi_ray.config.serving import StudentArgs
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.serving.vllm import called, context_length, end_ids, server_options, server_settings, threads, vllm_server
from magdi_ray.serving.vllm_replies import Reading, events, likeliest, read_logprobs, reply_request, write

ADA = "pkg://magdi_ray/tiny/models/ada"
END = 2
SAID = {3: "one ", 4: "two ", 5: "three ", END: ""}


def student(**changes: Any) -> StudentArgs:
    return StudentArgs(**{"engine": "vllm", "model": ADA, "model_name": "tiny", **changes})


def choice(ids: list[int], end: str | None = None, **changes: Any) -> dict[str, Any]:
    """An event of a stream, as vLLM writes it when it is asked for token ids."""
    tops = [{f"token_id:{id}": -0.5, "token_id:9": -1.0} for id in ids]
    told = {"token_logprobs": [-0.5] * len(ids), "tokens": [f"token_id:{id}" for id in ids], "top_logprobs": tops}
    return {"choices": [{"index": 0, "text": "", "token_ids": ids, "logprobs": told, "finish_reason": end, **changes}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, "metrics": {"queue_time_ms": 250.0}}


def sent(*parts: dict[str, Any]) -> list[str]:
    """Several events at a time, as Ray hands them over."""
    return [f"data: {json.dumps(part)}\n\n" for part in parts]


class Copy:
    """What a copy answers, item by item; it dies at an exception."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self) -> None:
        self.cancelled = True


def scribe(decoding: Decoding) -> tuple[Row, Scribe]:
    def decode(ids: list[int]) -> str:
        return "".join(SAID[id] for id in ids)

    row = Row(decoding)
    return row, Scribe(row, 7, decode=decode, spelling=lambda id: (SAID.get(id, "?"), b"?"), ends=frozenset({END}))


def read(*items: Any, **decoding: Any) -> list[Piece]:
    async def run() -> list[Piece]:
        return [piece async for piece in Reading(Copy(*items), *scribe(Decoding(**decoding)))]

    return asyncio.run(run())


@pytest.mark.skipif(has_vllm(), reason="vLLM is installed here")
def test_without_vllm_the_student_is_refused_with_the_line_that_installs_it() -> None:
    with pytest.raises(ConfigError, match="not installed here: pip install vllm"):
        vllm_server(student())


def test_the_config_file_describes_a_student_that_vllm_decodes() -> None:
    [application] = yaml.safe_load((Path(__file__).parents[2] / "serve" / "student-vllm.yaml").read_text())["applications"]
    args = parse_section(application["args"], "student-vllm.yaml", StudentArgs)
    assert application["import_path"] == "magdi_ray.serving.app:build"
    assert args.engine == "vllm"
    assert server_settings(args)["engine_kwargs"]["max_num_seqs"] == args.max_batch_size


def test_the_endpoints_settings_reach_vllm_and_engine_kwargs_have_the_last_word() -> None:
    settings = server_settings(student(max_batch_size=16, dtype="bfloat16", stream_interval_ms=5.0))
    assert settings["experimental_configs"] == {"stream_batching_interval_ms": 5.0}
    assert settings["engine_kwargs"].items() >= {"max_num_seqs": 16, "dtype": "bfloat16", "generation_config": "vllm"}.items()
    changed = student(engine_kwargs={"max_num_seqs": 4, "kv_cache_memory_bytes": 7})
    assert server_settings(changed)["engine_kwargs"].items() >= {"max_num_seqs": 4, "kv_cache_memory_bytes": 7}.items()
    assert server_options(changed)["max_ongoing_requests"] == 8


def test_several_gpus_are_workers_of_one_copy() -> None:
    two = server_settings(student(num_gpus=2.0))
    assert two["engine_kwargs"]["tensor_parallel_size"] == 2
    assert two["placement_group_config"] == {"bundle_per_worker": {"GPU": 1.0}}
    half = server_settings(student(num_gpus=0.5))
    assert "tensor_parallel_size" not in half["engine_kwargs"]
    assert half["placement_group_config"] == {"bundle_per_worker": {"GPU": 0.5}}
    lines = server_settings(student(num_gpus=4.0, engine_kwargs={"tensor_parallel_size": 2, "pipeline_parallel_size": 2}))
    assert lines["engine_kwargs"]["tensor_parallel_size"] == 2
    assert lines["placement_group_config"] == {"bundle_per_worker": {"GPU": 1.0}}


def test_a_copy_on_cpus_leaves_memory_to_others() -> None:
    assert server_settings(student())["engine_kwargs"]["kv_cache_memory_bytes"] == 2 << 30
    assert "kv_cache_memory_bytes" not in server_settings(student(num_gpus=1.0))["engine_kwargs"]


def test_a_copy_holds_two_batches_and_a_retired_one_ends_its_requests() -> None:
    options = server_options(
        student(max_batch_size=4, max_queued=9, request_timeout_s=60.0, replicas=(0, 3), downscale_delay_s=5.0)
    )
    assert options["max_ongoing_requests"] == 8
    assert "max_queued_requests" not in options  # the front door bounds what waits
    assert options["graceful_shutdown_timeout_s"] > 60.0
    scaling = {"min_replicas": 0, "max_replicas": 3, "target_ongoing_requests": 4, "downscale_delay_s": 5.0}
    assert options["autoscaling_config"].items() >= scaling.items()
    assert server_options(student(replicas=(2, 2)))["num_replicas"] == 2


def test_a_copy_on_cpus_keeps_to_those_it_reserves() -> None:
    assert threads(student(num_cpus=3.0)) == {"OMP_NUM_THREADS": "3", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    assert threads(student(num_cpus=0.5))["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("asked", "own", "found"), [(64, 4096, 64), (None, 4096, 4096), (-1, 4096, 4096), ("auto", None, None)])
def test_the_context_is_what_vllm_was_told_or_else_the_models(asked: Any, own: int | None, found: int | None) -> None:
    config = SimpleNamespace(max_position_embeddings=own)
    assert context_length(student(engine_kwargs={} if asked is None else {"max_model_len": asked}), config) == found


def test_no_adapter_can_take_the_place_of_the_student_itself() -> None:
    assert {called("base"), called("adapter")}.isdisjoint({"base", "adapter"})


def test_the_whole_decoding_reaches_the_request() -> None:
    decoding = Decoding(max_tokens=5, seed=2**63 + 3, frequency_penalty=0.5, presence_penalty=-0.5, top_logprobs=4, stop=("x",))
    request = reply_request("base", [1, 2], decoding)
    asked = {"prompt": [1, 2], "seed": 3, "frequency_penalty": 0.5, "presence_penalty": -0.5, "logprobs": 4, "stop": ["x"]}
    assert request.items() >= asked.items()
    assert request["return_tokens_as_token_ids"] is request["return_token_ids"] is True
    assert reply_request("base", [1], Decoding())["logprobs"] == 0


def test_a_stream_becomes_pieces_that_join_to_the_reply() -> None:
    pieces = read(sent(choice([3])), sent(choice([4]), choice([5])), sent(choice([END], "stop"), USAGE), "data: [DONE]\n\n")
    assert [piece.text for piece in pieces] == ["one ", "two ", "three ", ""]
    assert [piece.finish_reason for piece in pieces] == [None, None, None, "stop"]
    whole = joined(pieces)
    assert (whole.tokens_in, whole.tokens_out, whole.queued_s) == (7, 4, pytest.approx(0.25))
    assert whole.confidence == pytest.approx(exp(-0.5))


def test_a_reply_at_once_is_one_piece() -> None:
    row, written = scribe(Decoding())
    write(row, choice([3, 4], "length") | {"metrics": None})
    piece = written.read()
    assert piece is not None
    assert (piece.text, piece.tokens_out, piece.finish_reason) == ("one two ", 2, "length")


def test_a_stop_string_is_cut_off_and_nothing_follows_it() -> None:
    pieces = read(sent(choice([3])), sent(choice([4]), choice([5], "stop", stop_reason="three"), USAGE), stop=("three",))
    assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == ("one two ", "stop")
    assert all(piece.finish_reason is None for piece in pieces[:-1])


def test_logprobs_are_told_where_they_are_asked_for() -> None:
    [first, last] = read(sent(choice([3])), sent(choice([END], "stop"), USAGE), top_logprobs=2)
    assert [(token.logprob, len(token.top)) for token in first.logprobs] == [(-0.5, 2)]
    assert last.logprobs == ()
    assert read(sent(choice([3], "length"), USAGE))[-1].logprobs == ()
    chosen_only = read(sent(choice([3], "length"), USAGE), top_logprobs=0)[-1].logprobs
    assert [(token.logprob, token.top) for token in chosen_only] == [(-0.5, ())]


def test_the_chosen_token_is_among_the_likeliest_only_where_it_belongs() -> None:
    top = {"token_id:8": -3.0, "token_id:5": -0.5, "token_id:6": -1.0}
    assert likeliest(top, 2) == ((5, -0.5), (6, -1.0))
    assert likeliest(top, 3)[-1] == (8, -3.0)


def test_a_prompts_logprobs_are_those_of_its_last_tokens() -> None:
    places = [None, {5: {"logprob": -9.0}}, {3: {"logprob": -1.0}, 8: {"logprob": -0.1}}, {"4": {"logprob": -2.0}}]
    assert read_logprobs(places, [3, 4]) == [-1.0, -2.0]


class Told:
    """An object that Ray hands over instead of a text."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self.fields


@pytest.mark.parametrize(
    ("code", "message", "kind", "told"),
    [
        (400, "min_p is no number", PromptError, "vLLM refuses the request: min_p is no number"),
        (503, "please retry", BusyError, "no request just now: please retry"),
        (404, "no such model", EngineError, "could not answer: no such model"),
        (500, "out of memory", EngineError, "could not answer: out of memory"),
        (500, "EngineCore encountered an issue. See above.", WorkerCrashedError, ""),
    ],
)
def test_an_error_is_the_clients_only_where_vllm_says_so(code: int, message: str, kind: type[Exception], told: str) -> None:
    error = {"message": message, "type": "x", "code": code}
    for item in (Told(error=error), sent({"error": error})):
        with pytest.raises(kind, match=told) as raised:
            list(events(item))
        assert type(raised.value) is kind


class EngineDeadError(Exception):
    """Named as vLLM's own."""


def test_a_copy_whose_engine_died_counts_as_dead() -> None:
    with pytest.raises(WorkerCrashedError):
        read(sent(choice([3])), EngineDeadError("EngineCore encountered an issue."))
    with pytest.raises(ZeroDivisionError):
        read(sent(choice([3])), ZeroDivisionError())


def test_a_stream_that_ends_without_a_reason_has_no_last_piece() -> None:
    assert [piece.finish_reason for piece in read(sent(choice([3])))] == [None]


def test_a_reply_that_vllm_breaks_off_is_an_error() -> None:
    with pytest.raises(EngineError, match="finish_reason is 'abort'"):
        read(sent(choice([3], "abort"), USAGE))


def test_a_reader_that_leaves_cancels_the_request() -> None:
    copy = Copy()
    Reading(copy, *scribe(Decoding())).cancel()
    assert copy.cancelled


def test_a_reply_ends_at_the_models_end_tokens_and_at_the_tokenizers(tmp_path: Path) -> None:
    class Tokenizer:
        eos_token_id = 5

    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert end_ids(str(tmp_path), Tokenizer()) == {2, 3, 5}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "llama", "eos_token_id": 7}')
    assert end_ids(str(tmp_path), Tokenizer()) == {5, 7}

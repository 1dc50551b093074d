"""vLLM's teachers, as far as they can be told without vLLM: what is asked of it, and what is read from its answers."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.agents.base import Reply, Sampling
from magdi_ray.agents.load import load_engine
from magdi_ray.agents.pool import PoolSpec, engine_application
from magdi_ray.agents.vllm import (
    check_vllm,
    completion_request,
    engine_arguments,
    has_vllm,
    llm_settings,
    lora_room,
    read_completion,
)
from magdi_ray.config.engines import VllmEngine
from magdi_ray.errors import ConfigError, EngineError

without_vllm = pytest.mark.skipif(has_vllm(), reason="vLLM is installed here")


def engine(**changes: Any) -> VllmEngine:
    return VllmEngine(**{"type": "vllm", "model": "pkg://magdi_ray/tiny/models/ada", **changes})


@without_vllm
def test_without_vllm_the_engine_is_refused_with_the_line_that_installs_it() -> None:
    for attempt in (check_vllm, lambda: engine_application(PoolSpec("ada", engine()))):
        with pytest.raises(ConfigError, match="not installed here: pip install vllm"):
            attempt()


def test_vllm_is_not_loaded_into_the_process_that_asks() -> None:
    with pytest.raises(EngineError, match="only as a Serve application"):
        load_engine(engine())


def test_on_cpus_the_replica_itself_decodes_and_on_gpus_a_worker_beside_it() -> None:
    cpu = llm_settings(PoolSpec("ada", engine(), num_cpus=2.0))
    assert cpu["placement_group_config"] == {"bundles": [{"CPU": 2.0}]}
    assert cpu["deployment_config"]["ray_actor_options"] == {"num_cpus": 0}
    gpu = llm_settings(PoolSpec("ada", engine(), num_cpus=2.0, num_gpus=0.5))
    assert gpu["placement_group_config"] == {"bundle_per_worker": {"GPU": 0.5}}
    assert gpu["deployment_config"]["ray_actor_options"] == {"num_cpus": 2.0}
    assert gpu["engine_kwargs"]["gpu_memory_utilization"] == 0.45


def test_replicas_scale_between_the_two_numbers_at_the_rows_of_one_replica() -> None:
    fixed = llm_settings(PoolSpec("ada", engine(), replicas=(2, 2)))["deployment_config"]
    assert fixed["num_replicas"] == 2
    scaled = llm_settings(PoolSpec("ada", engine(engine_kwargs={"max_num_seqs": 16}), replicas=(1, 3)))["deployment_config"]
    assert scaled["autoscaling_config"].items() >= {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 16}.items()
    assert scaled["max_ongoing_requests"] == 32


def test_the_models_own_sampling_stays_out_and_engine_kwargs_have_the_last_word() -> None:
    arguments = engine_arguments(engine(dtype="float32", max_model_len=256), num_gpus=0)
    assert arguments["generation_config"] == "vllm"
    assert (arguments["dtype"], arguments["max_model_len"], arguments["enforce_eager"]) == ("float32", 256, True)
    changed = engine_arguments(engine(engine_kwargs={"enforce_eager": False, "block_size": 32}), num_gpus=0)
    assert (changed["enforce_eager"], changed["block_size"]) == (False, 32)


def test_the_model_is_located_and_its_adapter_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert engine(model="base:tuned").located().model == f"{tmp_path}/base:{tmp_path}/tuned"
    assert engine(model="base:tuned").files() == ("base", "tuned")
    assert engine(model="pkg://magdi_ray/tiny/models/ada").files() == ("pkg://magdi_ray/tiny/models/ada",)


@pytest.mark.parametrize(("config", "room"), [({"r": 4}, 8), ({"r": 64}, 64), ({"r": 8, "rank_pattern": {"q_proj": 40}}, 64)])
def test_an_adapter_gets_the_smallest_room_that_holds_its_rank(tmp_path: Path, config: dict[str, Any], room: int) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert lora_room(str(tmp_path)) == room


def test_an_adapter_beyond_vllms_ranks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 1024}')
    with pytest.raises(ConfigError, match="has rank 1024; vLLM takes at most 512"):
        lora_room(str(tmp_path))


def test_every_part_of_the_sampling_reaches_the_request() -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=5, stop=("a", ""), seed=3)
    request = completion_request("base", [1, 2], sampling)
    assert request.pop("logprobs") == 0
    assert request == {
        "model": "base", "prompt": [1, 2], "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "stop": ["a"], "seed": 3,
        "return_token_ids": True,
    }  # fmt: skip


def completion(**changes: Any) -> dict[str, Any]:
    probabilities = {"token_logprobs": [log(0.5), log(1.0)]}
    choice = {"text": " 4", "token_ids": [4, 5], "finish_reason": "stop", "logprobs": probabilities, **changes}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def read(response: dict[str, Any], *stops: str) -> Reply:
    return read_completion(response, model="ada", stops=stops, decode=lambda ids: " ".join(map(str, ids)))


def test_a_completion_becomes_a_reply_with_its_counts_and_mean_probability() -> None:
    reply = read(completion())
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.finish_reason, reply.model) == ("4 5", 7, 2, "stop", "ada")
    assert reply.confidence == pytest.approx(0.75)
    assert read(completion(logprobs=None)).confidence is None
    assert read(completion(), "never", " 5", "").text == "4"


def test_a_refusal_and_a_broken_off_reply_are_errors_in_vllms_words() -> None:
    with pytest.raises(EngineError, match="refuses the request to ada: too long"):
        read({"error": {"message": "too long", "code": 400}})
    with pytest.raises(EngineError, match="finish_reason is 'abort'"):
        read(completion(finish_reason="abort"))

"""Attention row by row gives what everybody's keys behind a mask give."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from magdi_ray.agents.attention import FULL, NAME, attend_rows
from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.continuous import ContinuousAgent
from magdi_ray.agents.transformers import TransformersAgent
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.engines import TransformersEngine

SIZE = 8
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def save(config: Any, directory: Path) -> str:
    """A random model of any architecture, with a shipped tokenizer."""
    torch.manual_seed(0)
    source = Path(resolve_model("pkg://magdi_ray/tiny/models/ada"))
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    shutil.copy(source / "tokenizer_config.json", directory)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return str(directory)


TOKENS = {"vocab_size": 154, "max_position_embeddings": 1024, "initializer_range": 0.3, "eos_token_id": 4, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("config", "apart"),
    [
        (LlamaConfig(**SHAPE, **TOKENS), True),
        (Qwen2Config(**SHAPE, **TOKENS), True),
        (MistralConfig(sliding_window=16, **SHAPE, **TOKENS), False),
    ],
)
def test_models_with_and_without_it_decode_as_they_do_one_by_one(config: Any, apart: bool, tmp_path: Path) -> None:
    engine = TransformersEngine(type="transformers", model=save(config, tmp_path / "model"), max_batch_size=3)
    # The longest prompt is read in two steps, between the other rows' tokens.
    asked = [[Message("user", "mia has 3 apples " * times)] for times in (1, 160, 2, 30, 4)]
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=5)

    async def ask(agent: TransformersAgent) -> list[str]:
        return [reply.text for reply in await asyncio.gather(*(agent.generate(messages, sampling) for messages in asked))]

    continuous = ContinuousAgent(engine)
    assert (continuous.model.config._attn_implementation == NAME) is apart
    assert asyncio.run(ask(continuous)) == asyncio.run(ask(TransformersAgent(engine)))
    continuous.close()


class Cache:
    """All keys that were ever written, one after the other, read by their places."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.read = 0

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        [places] = kwargs["read_index"]
        self.read = len(places)
        return self.keys[:, :, places], self.values[:, :, places]


def masked(query: torch.Tensor, cache: Cache, reads: list[int], seen: list[int], places: torch.Tensor) -> torch.Tensor:
    """Everybody's keys, all but the row's own and earlier ones masked away."""
    mask = torch.zeros(sum(reads), sum(seen), dtype=torch.bool)
    top = left = 0
    for read, length in zip(reads, seen, strict=True):
        mask[top : top + read, left : left + length] = torch.ones(read, length, dtype=torch.bool).tril(length - read)
        top, left = top + read, left + length
    shared = query.shape[1] // cache.keys.shape[1]
    keys, values = (x[:, :, places].repeat_interleave(shared, dim=1) for x in (cache.keys, cache.values))
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize(
    ("reads", "seen", "padded"),
    [
        ([1, 1, 1], [5, 9, 7], True),
        ([1], [1], True),
        ([1] * 12, [1] * 11 + [90], False),
        ([1, 6, 4, 1], [9, 6, 11, 2], False),
        ([7], [7], False),
    ],
)
def test_every_row_attends_to_its_own_keys(heads: tuple[int, int], reads: list[int], seen: list[int], padded: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    queries, groups = heads
    keys, values = torch.randn(2, 1, groups, 300, SIZE, generator=draw)
    query = torch.randn(1, queries, sum(reads), SIZE, generator=draw)
    places = torch.randperm(300, generator=draw)[: sum(seen)]
    cache = Cache(keys, values)
    kwargs = {
        "read_index": [places],
        "cu_seq_lens_q": torch.tensor([0, *torch.tensor(reads).cumsum(0)]),
        "cu_seq_lens_k": {FULL: torch.tensor([0, *torch.tensor(seen).cumsum(0)])},
        "max_length_q": max(reads),
        "max_length_k": {FULL: max(seen)},
    }
    module: Any = torch.nn.Module()
    module.layer_idx = 0
    new = torch.randn(1, groups, sum(reads), SIZE, generator=draw)
    expected = masked(query, cache, reads, seen, places)
    for _ in range(2):  # the second layer takes what the first one made
        found, _ = attend_rows(module, query, new, new, None, scaling=0.3, cache=cache, **kwargs)
        assert torch.allclose(found, expected, atol=1e-5)
    assert cache.read == (len(seen) * max(seen) if padded else sum(seen))

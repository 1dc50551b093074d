"""A twin reads beside the decoding, with the same weights in the same memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM

from magdi_ray.agents.continuous import ContinuousAgent
from magdi_ray.agents.streaming import Decoding, Prompt
from magdi_ray.agents.twin import twin
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.engines import TransformersEngine

MODEL = "pkg://magdi_ray/tiny/models/ben"


@pytest.fixture(scope="module")
def ben() -> Iterator[ContinuousAgent]:
    torch.set_num_threads(1)
    engine = ContinuousAgent(TransformersEngine(type="transformers", model=MODEL))
    yield engine
    engine.close()


def test_a_twin_shares_all_its_storage(ben: ContinuousAgent) -> None:
    copied = twin(ben.model)
    for own, other in zip(ben.model.parameters(), copied.parameters(), strict=True):
        assert own.data_ptr() == other.data_ptr()
    for own, other in zip(ben.model.buffers(), copied.buffers(), strict=True):
        assert own.data_ptr() == other.data_ptr()
    assert copied.get_submodule("model.layers.0") is not ben.model.get_submodule("model.layers.0")


def test_a_twin_s_logits_are_a_fresh_model_s_while_the_first_one_decodes(ben: ContinuousAgent) -> None:
    fresh = AutoModelForCausalLM.from_pretrained(resolve_model(MODEL))
    ids = torch.tensor([[1, 20, 30, 40, 50, 60]])
    with torch.no_grad():
        expected = fresh(ids).logits

    async def run() -> None:
        decoding = Decoding(max_tokens=400, temperature=1.0, seed=1, frequency_penalty=2.0)
        asked = [asyncio.ensure_future(ben.complete(Prompt(ids=(1, 20, place)), decoding)) for place in range(8)]
        await asyncio.sleep(0.01)
        copied = ben.twin()
        with torch.no_grad():
            logits = [await asyncio.to_thread(lambda: copied(ids).logits) for _ in range(5)]
        assert all(torch.allclose(found, expected, atol=1e-5) for found in logits)
        await asyncio.gather(*asked)

    asyncio.run(run())

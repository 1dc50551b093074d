"""Adapters on one base: each row is its own adapter's, whatever adapters the rows around it have."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from magdi_ray.agents.adapters import AdaptedLinear, Adapters, LowRank, Present, check_tokenizer, read_adapter
from magdi_ray.agents.base import PromptError
from magdi_ray.agents.continuous import ContinuousAgent
from magdi_ray.agents.streaming import Decoding, Piece, Prompt
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.errors import ConfigError

MODEL = "pkg://magdi_ray/tiny/models/student"
PLAIN: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
RICH: dict[str, Any] = {
    "r": 3,
    "lora_alpha": 5,
    "use_rslora": True,
    "target_modules": ["k_proj", "o_proj", "gate_proj", "down_proj", "lm_head"],
    "rank_pattern": {"layers.0.mlp.gate_proj": 2},
    "alpha_pattern": {"o_proj": 9},
}


def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(resolve_model(MODEL))


def save(directory: Path, seed: int, settings: dict[str, Any]) -> str:
    """A PEFT adapter with random weights, strong enough to change what is said."""
    torch.manual_seed(seed)
    model = get_peft_model(base(), LoraConfig(init_lora_weights=False, **settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(3.0)
    model.save_pretrained(directory, save_embedding_layers=False)
    return str(directory)


def by_peft(directories: dict[str, str]) -> dict[str | None, Any]:
    """What PEFT makes of the adapters: merged, but for the one on a head whose weights are the embeddings' too."""
    rich = PeftModel.from_pretrained(base(), directories["rich"]).eval()
    return {None: base(), "plain": PeftModel.from_pretrained(base(), directories["plain"]).merge_and_unload(), "rich": rich}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {"plain": save(folder / "plain", 1, PLAIN), "rich": save(folder / "rich", 2, RICH)}


@pytest.fixture(scope="module")
def agent(directories: dict[str, str]) -> Iterator[ContinuousAgent]:
    torch.set_num_threads(1)
    engine = ContinuousAgent(TransformersEngine(type="transformers", model=MODEL, max_batch_size=8), adapters=directories)
    yield engine
    engine.close()


def read_by(model: Any, prompt: tuple[int, ...], ids: list[int]) -> list[float]:
    """Log-probabilities of a reply's tokens under an ordinary model."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(dim=-1).tolist() == ids
    return [float(row[id]) for row, id in zip(logits.log_softmax(dim=-1), ids, strict=True)]


def test_rows_of_all_adapters_in_one_batch_are_those_of_merged_models(
    agent: ContinuousAgent, directories: dict[str, str]
) -> None:
    # Prompts of many lengths: one is longer than a step, so that it is read between other rows' tokens.
    prompts = [tuple(6 + (place * step) % 140 for step in range(1, 5 + 37 * place)) for place in range(12)]
    names = [None, "plain", "rich"] * 4

    async def run() -> list[Piece]:
        decodings = [Decoding(max_tokens=6 + place, top_logprobs=0, adapter=name) for place, name in enumerate(names)]
        asked = (agent.complete(Prompt(ids=ids), decoding) for ids, decoding in zip(prompts, decodings, strict=True))
        return await asyncio.gather(*asked)

    models = by_peft(directories)
    vocabulary = agent.tokenizer.get_vocab()
    replies = asyncio.run(run())
    for prompt, name, whole in zip(prompts, names, replies, strict=True):
        ids = [vocabulary[token.raw.decode()] for token in whole.logprobs]
        expected = read_by(models[name], prompt, ids)
        # Which rows stand beside it is chance, and moves the last digits of float32: 1.14e-5 was seen.
        assert [token.logprob for token in whole.logprobs] == pytest.approx(expected, abs=5e-5)
    assert len({reply.text for reply in replies}) > 6


def test_the_same_prompt_is_not_taken_from_another_adapter_s_cache(agent: ContinuousAgent) -> None:
    prompt = Prompt(ids=tuple(6 + step % 140 for step in range(300)))  # longer than a page of the cache

    def say(adapter: str | None) -> Piece:
        return asyncio.run(agent.complete(prompt, Decoding(max_tokens=8, top_logprobs=0, adapter=adapter)))

    first = {name: say(name).logprobs for name in (None, "plain", "rich")}
    assert {name: say(name).logprobs for name in ("rich", None, "plain")} == first
    assert len({tokens[0].logprob for tokens in first.values()}) == 3


def test_a_twin_may_be_of_one_adapter_and_shares_its_weights(agent: ContinuousAgent, directories: dict[str, str]) -> None:
    ids = torch.tensor([[6, 20, 30, 40]])
    models = by_peft(directories)
    with torch.no_grad():
        for name, model in models.items():
            assert torch.allclose(agent.twin(name)(ids).logits, model(ids).logits, atol=1e-4)
    shared = {buffer.data_ptr() for buffer in agent.model.buffers()}
    assert {buffer.data_ptr() for buffer in agent.twin("rich").buffers()} == shared


def test_an_adapter_that_is_not_there_is_refused_with_those_that_are(agent: ContinuousAgent) -> None:
    with pytest.raises(PromptError, match=r"no adapter '\.\./etc'; there are: plain, rich"):
        asyncio.run(agent.complete(Prompt(ids=(6,)), Decoding(max_tokens=1, adapter="../etc")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"some_new_trick": 3}, "some_new_trick=3"),
        ({"r": 5}, "states rank 5"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(
    directories: dict[str, str], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    source = Path(directories["plain"])
    config = json.loads((source / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    save_file(load_file(source / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=rf"(?s)'mine'.*{reason}"):
        read_adapter("mine", str(tmp_path))


def test_an_adapter_of_another_base_is_refused(directories: dict[str, str]) -> None:
    other = AutoModelForCausalLM.from_pretrained(resolve_model("pkg://magdi_ray/tiny/models/ada"))
    with pytest.raises(ConfigError, match=r"'plain' was trained on another base"):
        Adapters(other, {"plain": directories["plain"]})


def test_a_directory_without_an_adapter_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'mine': .* holds no adapter_config\.json"):
        read_adapter("mine", str(tmp_path))


def test_weights_that_only_peft_applies_are_refused(directories: dict[str, str], tmp_path: Path) -> None:
    source = Path(directories["plain"])
    (tmp_path / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(
        {**tensors, "base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(1)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(ConfigError, match="lora_embedding_A"):
        read_adapter("mine", str(tmp_path))


def adapted(*, reads_ends: bool = False) -> AdaptedLinear:
    """Adds the sum of two inputs to nothing, for adapter 0."""
    layer = AdaptedLinear(torch.nn.Linear(2, 1, bias=False), Present(), name="some.layer", reads_ends=reads_ends)
    layer.base.weight.data.zero_()
    layer.put(0, LowRank(torch.ones(1, 2), torch.ones(1, 1), 1.0))
    return layer


@pytest.mark.parametrize("shape", [(1, 6, 2), (1, 3, 2), (2, 4, 2), (1, 1, 2), (3, 2)])
def test_a_layer_that_reads_other_tokens_than_the_step_s_is_an_error_and_not_adapted_anywhere(shape: tuple[int, ...]) -> None:
    layer = adapted()
    steps: list[list[tuple[int | None, int, bool]]] = [[(0, 3, True), (None, 1, True)], [(None, 3, True), (None, 1, False)]]
    for step in steps:  # whether anybody asks for the adapter or not
        layer.present.enter(step)
        with pytest.raises(RuntimeError, match=r"some\.layer has to read the 4 tokens of a step, found an input of shape"):
            layer(torch.ones(shape))
        assert layer(torch.ones(1, 4, 2)).flatten().tolist() == ([2, 2, 2, 0] if step[0][0] == 0 else [0] * 4)


def test_the_head_reads_the_last_tokens_of_rows_that_go_on_even_where_all_rows_read_one_token() -> None:
    head = adapted(reads_ends=True)
    head.present.enter([(0, 1, False), (None, 1, True)])  # the first row goes on reading its prompt
    assert head(torch.ones(1, 2, 2)).flatten().tolist()[:1] == [0]
    head.present.enter([(None, 1, False), (0, 1, True)])
    assert head(torch.ones(1, 2, 2)).flatten().tolist()[:1] == [2]
    head.present.enter([(0, 5, True), (None, 1, True)])
    with pytest.raises(RuntimeError, match="has to read the 2 tokens"):
        head(torch.ones(1, 6, 2))


def test_an_adapter_may_bring_its_base_s_tokenizer_and_no_other(directories: dict[str, str], tmp_path: Path) -> None:
    folder, tokenizer = str(tmp_path / "plain"), AutoTokenizer.from_pretrained(resolve_model(MODEL))
    shutil.copytree(directories["plain"], folder)

    def check(**changes: str) -> None:
        own = AutoTokenizer.from_pretrained(resolve_model(MODEL))
        for name, value in changes.items():
            setattr(own, name, value)
        own.save_pretrained(folder)
        check_tokenizer("mine", folder, base=MODEL, tokenizer=tokenizer)

    check_tokenizer("mine", folder, base=MODEL, tokenizer=tokenizer)  # it brings none
    check()
    for changes, part in [
        ({"chat_template": "{{ messages }}"}, "the chat template in"),
        ({"pad_token": "<|new|>"}, "the vocabulary in"),
        ({"eos_token": "<|user|>"}, "the begin or end of sequence in"),
    ]:
        with pytest.raises(ConfigError, match=rf"(?s)'mine'.*{part} .*plain is not that of its base {MODEL}"):
            check(**changes)
    with pytest.raises(ConfigError, match="'mine'"):
        ContinuousAgent(TransformersEngine(type="transformers", model=MODEL), adapters={"mine": folder})

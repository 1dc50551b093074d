"""A student's shape counts its weights as the model itself would, without loading one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from magdi_ray.config.distil import ScratchModel
from magdi_ray.distill.forecast.shapes import StudentShape, adapted, find_shape, from_config, lora_parameters, published
from magdi_ray.errors import ConfigError

SIZES = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    ("mistral", {}),
    ("qwen2", {"head_dim": 12}),
    ("qwen3", {"tie_word_embeddings": False}),
    ("qwen3", {"attention_bias": True}),
    ("gemma", {}),
    ("gemma2", {}),
    ("gemma3_text", {}),
]


def build(kind: str, more: dict[str, Any]) -> tuple[Any, StudentShape]:
    """A model on the meta device, which has shapes and no numbers, and what its configuration says."""
    config = AutoConfig.for_model(kind, **(SIZES | more))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return model, from_config(config, source="")


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
        ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-chat-hf", 13_015_864_320),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("qwen/qwen3-8b", 8_190_735_360),
        ("Qwen/Qwen3-4B", 4_022_468_096),
    ],
)
def test_the_table_gives_the_published_totals(name: str, total: int) -> None:
    shape = published(name)
    assert shape is not None
    assert shape.parameters == total


@pytest.mark.parametrize(("kind", "more"), VARIANTS)
def test_weights_are_counted_as_the_model_has_them(kind: str, more: dict[str, Any]) -> None:
    model, shape = build(kind, more)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert shape.head == model.get_output_embeddings().weight.numel()


@pytest.mark.parametrize(
    "targets", [("q_proj", "v_proj"), ("mlp.down_proj",), ("lm_head", "model.layers.1.self_attn.o_proj"), "all-linear"]
)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_adapters_are_counted_as_peft_makes_them(kind: str, targets: Any) -> None:
    model, shape = build(kind, {"tie_word_embeddings": False})
    chosen = targets if isinstance(targets, str) else list(targets)
    made = get_peft_model(model, LoraConfig(r=5, target_modules=chosen, task_type="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in made.parameters() if weight.requires_grad)
    assert lora_parameters(shape, r=5, targets=targets) == trained


def test_target_modules_that_name_nothing_are_refused() -> None:
    _, shape = build("llama", {})
    with pytest.raises(ConfigError, match="q_proj"):
        adapted(shape, ("query",))


def test_a_configuration_at_hand_comes_before_the_table(tmp_path: Path) -> None:
    AutoConfig.for_model("llama", **SIZES).save_pretrained(tmp_path)
    found = find_shape(str(tmp_path))
    assert (found.hidden, found.layers) == (48, 3)
    assert found.source == "its config.json"


def test_a_student_from_scratch_has_the_shape_it_is_given() -> None:
    shape = ScratchModel(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    model, counted = build(
        "llama",
        shape.model_dump(exclude={"architecture"}) | {"num_key_value_heads": 4, "head_dim": 8, "tie_word_embeddings": True},
    )
    assert find_shape(shape).parameters == counted.parameters == sum(weight.numel() for weight in model.parameters())


def test_an_unknown_student_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"hf download acme/unknown-7b config\.json"):
        find_shape("acme/unknown-7b")

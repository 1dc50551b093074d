"""The student as a product: a plain Hugging Face directory that gives the same logits in a fresh process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from magdi_ray.config.distil import DeepSpeedConfig, LoraTuning, QloraTuning, StudentConfig, TrainConfig
from magdi_ray.config.recipes import Interaction, resolve_recipe
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.student import (
    HEADS,
    DistillModel,
    check_tuning,
    decoder_of,
    export_student,
    load_student,
    load_tokenizer,
)
from magdi_ray.errors import ConfigError

from .conftest import Workbench

QLORA = QloraTuning(type="qlora", r=4, alpha=8, dropout=0.0)
LORA = LoraTuning(type="lora", r=4, alpha=8, dropout=0.0)

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
base, directory, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base or directory, dtype=torch.float32)
model = PeftModel.from_pretrained(model, directory) if base else model
torch.save(model.eval()(torch.arange(5, 25)[None]).logits, out)
"""


def trained(bench: Workbench, tuning: LoraTuning | None) -> DistillModel:
    """A student whose weights have moved."""
    config = StudentConfig(model=str(bench.directory), **({"tuning": tuning} if tuning else {"tuning": {"type": "full"}}))
    model = DistillModel(load_student(config, str(bench.directory)), resolve_recipe("level4"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("tuning", [None, LORA], ids=["full", "lora"])
def test_an_exported_student_gives_the_same_logits_in_a_fresh_process(
    bench: Workbench, tmp_path: Path, tuning: LoraTuning | None
) -> None:
    model = trained(bench, tuning)
    export_student(model, bench.tokenizer, tmp_path / "student")
    arguments = [str(bench.directory) if tuning else "", str(tmp_path / "student"), str(tmp_path / "logits.pt")]
    subprocess.run([sys.executable, "-c", LOAD, *arguments], check=True, capture_output=True)
    fresh = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(fresh, model.student.eval()(torch.arange(5, 25)[None]).logits, atol=1e-5, rtol=1e-5)


def test_an_adapter_holds_nothing_but_the_adapter_and_the_heads_are_beside_it(bench: Workbench, tmp_path: Path) -> None:
    export_student(trained(bench, LORA), bench.tokenizer, tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as weights:
        assert all("lora_" in name for name in weights.keys())  # noqa: SIM118 - not a dict
    with safe_open(tmp_path / HEADS, "pt") as heads:
        assert {name.split(".")[0] for name in heads.keys()} == {"scorer", "graph"}  # noqa: SIM118


def test_lora_trains_the_adapter_and_leaves_the_base_alone(bench: Workbench) -> None:
    model = DistillModel(
        load_student(StudentConfig(model=str(bench.directory), tuning=LORA), str(bench.directory)), resolve_recipe("level2")
    )
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names
    assert all("lora_" in name for name in names)


def test_live_embeddings_reach_a_lora_adapter(bench: Workbench) -> None:
    model = trained(bench, LORA)
    outputs = model(collate(bench.graphs(), pad_id=0))
    outputs.node_logits_N2.square().sum().backward()
    assert sum(float(p.grad.abs().sum()) for n, p in model.named_parameters() if "lora_A" in n and p.grad is not None) > 1e-4


def test_target_modules_that_do_not_exist_are_refused_with_those_that_do(bench: Workbench) -> None:
    wrong = LoraTuning(type="lora", target_modules=("query",))
    with pytest.raises(ConfigError, match=r"query.*q_proj"):
        load_student(StudentConfig(model=str(bench.directory), tuning=wrong), str(bench.directory))


def test_a_student_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no usable tokenizer"):
        load_tokenizer(str(tmp_path))


def test_qlora_under_zero_3_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"qlora.*zero_stage 3.*Set zero_stage to 0, 1 or 2"):
        check_tuning(StudentConfig(model="m", tuning=QLORA), DeepSpeedConfig(zero_stage=3))


def test_qlora_without_its_package_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch, bench: Workbench) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = StudentConfig(model="m", tuning=QLORA)
    with pytest.raises(ConfigError, match=r"pip install .magdi-ray\[qlora\]"):
        check_tuning(config, DeepSpeedConfig(zero_stage=2))
    with pytest.raises(ConfigError, match=r"pip install .magdi-ray\[qlora\]"):
        load_student(config, str(bench.directory))


@pytest.mark.parametrize("tuning", [LORA, {"type": "full"}], ids=["lora", "full"])
def test_other_tunings_may_have_any_stage(tuning: object) -> None:
    check_tuning(StudentConfig(model="m", tuning=tuning), DeepSpeedConfig(zero_stage=3))  # type: ignore[arg-type]


def quantised(bench: Workbench, path: str, *, bf16: bool = False, checkpointing: bool = False) -> DistillModel:
    """A student over 4-bit weights, with the level-4 heads and no dropout."""
    pytest.importorskip("bitsandbytes", exc_type=ImportError)
    config = StudentConfig(model=str(bench.directory), tuning=QLORA)
    train = TrainConfig(max_steps=1, bf16=bf16, gradient_checkpointing=checkpointing)
    torch.manual_seed(0)
    student = load_student(config, str(bench.directory), train=train).train()
    prepare_attention(decoder_of(student), path, device="cpu")  # type: ignore[arg-type]
    level4 = resolve_recipe("level4")
    objectives = tuple(o.model_copy(update={"dropout": 0.0}) if isinstance(o, Interaction) else o for o in level4.objectives)
    return DistillModel(student, level4.model_copy(update={"objectives": objectives}))


def test_qlora_holds_its_linear_layers_in_4_bits_and_trains_nothing_but_adapter_and_heads(bench: Workbench) -> None:
    model = quantised(bench, "segments")
    packed = {name for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 2 * 7
    trained_names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith(("scorer", "graph")) for name in trained_names)
    assert type(model.token_loss.head) is torch.nn.Linear


@pytest.mark.parametrize("checkpointing", [False, True])
def test_qlora_gives_the_same_packed_and_padded(bench: Workbench, checkpointing: bool) -> None:
    found = []
    for path in ("segments", "padded"):
        model = quantised(bench, path, checkpointing=checkpointing)
        batch = collate(bench.graphs(), pad_id=0, packed=path == "segments")
        loss, _ = weighted_sum(model(batch), batch, resolve_recipe("level4").objectives, Counts(100, 10, 10))
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    (loss, gradients), (expected, theirs) = found
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    for name, gradient in theirs.items():
        assert float((gradients[name] - gradient).norm()) <= 1e-5 * max(1e-3, float(gradient.norm())), name  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("bf16", [False, True])
def test_qlora_learns(bench: Workbench, bf16: bool) -> None:
    model, batch = quantised(bench, "segments", bf16=bf16), collate(bench.graphs(), pad_id=0, packed=True)
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), []
    for _ in range(5):
        loss, _ = weighted_sum(model(batch), batch, resolve_recipe("level4").objectives, Counts(len(batch.targets_M), 17, 12))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


def test_a_qlora_export_is_an_adapter_and_the_heads(bench: Workbench, tmp_path: Path) -> None:
    export_student(quantised(bench, "segments"), bench.tokenizer, tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as weights:
        assert weights.keys()
        assert all("lora_" in name for name in weights.keys())  # noqa: SIM118 - not a dict
    assert (tmp_path / HEADS).is_file()

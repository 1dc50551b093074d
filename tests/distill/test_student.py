"""The student as a product: a plain Hugging Face directory that gives the same logits in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from magdi_ray.config.distil import LoraTuning, StudentConfig
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.distill.batch import collate
from magdi_ray.distill.student import HEADS, DistillModel, export_student, load_student, load_tokenizer
from magdi_ray.errors import ConfigError

from .conftest import Workbench

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

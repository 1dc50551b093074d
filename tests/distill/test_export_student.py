"""Exported students: what two ZeRO-3 ranks trained gives the same logits in a fresh process, as an adapter and merged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from magdi_ray.config.distil import DeepSpeedConfig, LoraTuning, ScratchModel, StudentConfig, TrainConfig
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.export.record import Base
from magdi_ray.distill.export.student import Exported, base_of, write_export
from magdi_ray.distill.job import HEADS
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.student import DistillModel, export_student, load_student, load_tokenizer
from magdi_ray.distill.tokens import GraphTokens
from magdi_ray.distill.zero import build_engine, gathered_state
from magdi_ray.errors import ConfigError, EngineError

from .conftest import Workbench
from .ranks import start

STEPS = 4
TARGETS = {"lora": ("q_proj", "v_proj"), "lora on the head": ("q_proj", "lm_head")}
"""The base's embeddings are tied to its head, so that an adapter on the head must not change them."""
HUB = Base("org/base", "hub")
PROBE = torch.arange(5, 25)[None]

FRESH = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
for base, directory in zip(sys.argv[1::2], sys.argv[2::2]):
    model = AutoModelForCausalLM.from_pretrained(base or directory, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, directory) if base else model
    torch.save(model.eval()(torch.arange(5, 25)[None]).logits, directory + ".pt")
"""


def work(rank: int, world: int, base: str, graphs: tuple[GraphTokens, ...], root: Path) -> None:
    """One of two ranks: every student is trained a few steps under ZeRO-3, its logits noted, and written by rank 0."""
    recipe, train = resolve_recipe("level4"), TrainConfig(max_steps=STEPS, learning_rate=5e-2, warmup_steps=1)
    batch = collate(graphs[rank::2], pad_id=0)
    counts = Counts(*(2 * n for n in (len(batch.targets_M), len(batch.correct_N), max(1, batch.pairs_2P.shape[1]))))
    for name, targets in TARGETS.items():
        torch.manual_seed(0)
        tuning = LoraTuning(type="lora", r=4, dropout=0.0, target_modules=targets)
        model = DistillModel(load_student(StudentConfig(model=base, tuning=tuning), base), recipe)
        engine = build_engine(model, train, deepspeed=DeepSpeedConfig(zero_stage=3), steps=STEPS)
        for _ in range(STEPS):
            loss, _ = weighted_sum(engine(batch), batch, recipe.objectives, counts)
            engine.backward(loss)
            engine.step()
        engine.eval()
        with torch.no_grad():
            logits = model.student(PROBE).logits
        state = gathered_state(engine, rank=rank)
        if state is not None:
            export_student(model, load_tokenizer(base), root / name / "student", state=state)
            torch.save(logits, root / name / "trained.pt")


@pytest.fixture(scope="module")
def trained(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory a student: student/ as a run holds it, and trained.pt, the logits it had in training."""
    root = tmp_path_factory.mktemp("trained")
    start(work, 2, str(bench.directory), bench.graphs(), root)
    return root


def export(student: Path, target: Path, base: Path, **options: object) -> Exported:
    target.mkdir()
    return write_export(student, target, base=str(base), named=HUB, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fresh(trained: Path, bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every student exported both ways, and the logits that a process knowing nothing of this package gives each."""
    root = tmp_path_factory.mktemp("fresh")
    arguments = []
    for name in TARGETS:
        for merge in (False, True):
            target = root / f"{name} {merge}"
            export(trained / name / "student", target, bench.directory, merge=merge)
            arguments += ["" if merge else str(bench.directory), str(target)]
    subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True, capture_output=True)
    return root


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_what_zero_3_trained_gives_its_logits_in_a_fresh_process(
    trained: Path, fresh: Path, bench: Workbench, name: str, merge: bool
) -> None:
    expected = torch.load(trained / name / "trained.pt", weights_only=True)
    untaught = AutoModelForCausalLM.from_pretrained(bench.directory, dtype=torch.float32)(PROBE).logits
    assert (expected - untaught).abs().max() > 0.05
    found = torch.load(fresh / f"{name} {merge}.pt", weights_only=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_exported_adapter_holds_nothing_but_adapter_and_tokenizer(trained: Path, bench: Workbench, tmp_path: Path) -> None:
    done = export(trained / "lora" / "student", tmp_path / "out", bench.directory)
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert done == Exported("adapter", "float32")
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as weights:
        assert all(".lora_A." in name or ".lora_B." in name for name in weights.keys())  # noqa: SIM118 - not a dict
    config = (tmp_path / "out" / "adapter_config.json").read_text()
    assert json.loads(config)["base_model_name_or_path"] == "org/base"
    assert str(bench.directory) not in config


def test_heads_go_along_only_when_asked(trained: Path, bench: Workbench, tmp_path: Path) -> None:
    export(trained / "lora" / "student", tmp_path / "out", bench.directory, heads=True)
    assert load_file(tmp_path / "out" / HEADS).keys() == load_file(trained / "lora" / "student" / HEADS).keys()


@pytest.mark.parametrize(("name", "tied"), [("lora", True), ("lora on the head", False)])
def test_embeddings_are_untied_only_where_the_adapter_changes_one_of_them(
    trained: Path, bench: Workbench, tmp_path: Path, name: str, tied: bool
) -> None:
    export(trained / name / "student", tmp_path / "out", bench.directory, merge=True)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert ("lm_head.weight" not in weights) is tied
    base = load_file(bench.directory / "model.safetensors")
    assert torch.equal(weights["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_a_base_in_bfloat16_is_merged_in_its_own_precision_unless_another_is_asked_for(
    trained: Path, bench: Workbench, tmp_path: Path
) -> None:
    student, base = trained / "lora" / "student", tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(bench.directory, dtype=torch.bfloat16).save_pretrained(base)
    assert export(student, tmp_path / "own", base, merge=True).dtype == "bfloat16"
    assert export(student, tmp_path / "wide", base, merge=True, dtype="float32").dtype == "float32"
    assert export(student, tmp_path / "half", bench.directory, merge=True, dtype="float16").dtype == "float16"
    exact = load_file(tmp_path / "wide" / "model.safetensors")
    for key, weight in load_file(tmp_path / "own" / "model.safetensors").items():
        assert torch.equal(weight, exact[key].to(torch.bfloat16))


def test_an_adapter_keeps_its_precision_and_merges_into_nothing_quantised(
    trained: Path, bench: Workbench, tmp_path: Path
) -> None:
    student = trained / "lora" / "student"
    with pytest.raises(ConfigError, match="needs --merge"):
        export(student, tmp_path / "a", bench.directory, dtype="bfloat16")
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((bench.directory / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ConfigError, match="stored quantised"):
        export(student, tmp_path / "b", base, merge=True)
    with pytest.raises(EngineError, match="cannot be read"):
        export(student, tmp_path / "c", tmp_path / "nowhere", merge=True)


def test_an_adapter_that_is_not_finite_is_not_merged(trained: Path, bench: Workbench, tmp_path: Path) -> None:
    student = tmp_path / "student"
    student.mkdir()
    for file in (trained / "lora" / "student").iterdir():
        (student / file.name).write_bytes(file.read_bytes())
    weights = load_file(student / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, student / "adapter_model.safetensors")
    with pytest.raises(EngineError, match="cannot be merged"):
        export(student, tmp_path / "out", bench.directory, merge=True)


@pytest.fixture
def full(bench: Workbench, tmp_path: Path) -> Path:
    """A student of which all weights were trained, with files beside it that are nobody's business."""
    export_student(bench.model("level4"), bench.tokenizer, tmp_path / "student")
    (tmp_path / "student" / "manifest.json").write_text("{}")
    (tmp_path / "student" / "optimizer.pt").write_bytes(b"pickle")
    return tmp_path / "student"


def test_a_full_student_is_exported_as_it_is_and_never_a_pickle(full: Path, bench: Workbench, tmp_path: Path) -> None:
    done = export(full, tmp_path / "out", bench.directory, merge=True)
    assert done == Exported("full", "float32", ("optimizer.pt",))
    left = {"manifest.json", "optimizer.pt", HEADS}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in full.iterdir()} - left
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (full / path.name).read_bytes()


def test_a_full_student_is_converted_where_a_precision_is_asked_for(full: Path, bench: Workbench, tmp_path: Path) -> None:
    assert export(full, tmp_path / "out", bench.directory, dtype="bfloat16").dtype == "bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_base_that_samples_by_a_temperature_alone_can_be_written(full: Path, bench: Workbench, tmp_path: Path) -> None:
    (full / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    export(full, tmp_path / "out", bench.directory, dtype="bfloat16")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (written["temperature"], written["do_sample"]) == (0.6, True)


def test_a_student_lacking_weights_or_heads_is_refused(full: Path, bench: Workbench, tmp_path: Path) -> None:
    (full / HEADS).unlink()
    with pytest.raises(ConfigError, match="has none"):
        export(full, tmp_path / "a", bench.directory, heads=True)
    (full / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        export(full, tmp_path / "b", bench.directory)


def test_a_base_is_named_without_any_path_of_this_machine(bench: Workbench, tmp_path: Path) -> None:
    assert base_of(tmp_path, "mistralai/Mistral-7B-v0.1") == Base("mistralai/Mistral-7B-v0.1", "hub")
    assert base_of(tmp_path, "pkg://magdi_ray/tiny/models/student").kind == "package"
    assert base_of(tmp_path, ScratchModel()).kind == "scratch"
    assert base_of(tmp_path, str(bench.directory)) == Base(bench.directory.name, "local")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere/models/base"}))
    assert base_of(tmp_path, "models/base") == Base("base", "local")

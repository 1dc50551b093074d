"""Packages: what is missing, too old, untested, or needed by a configuration, and what torch and DeepSpeed see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from magdi_ray.config import load_config
from magdi_ray.doctor import packages
from magdi_ray.doctor.check import Finding
from magdi_ray.doctor.child import Outcome, run_child
from magdi_ray.doctor.packages import Need

ROOT = Path(__file__).parents[2]
TORCH = {"torch": "2.13.0", "cuda": "13.0", "gpus": ["H200"], "available": True, "no_kernels": []}
CPU = TORCH | {"torch": "2.13.0+cpu", "cuda": None, "gpus": [], "available": False}


def torch(facts: dict, cards: int, *, wanted: bool = False, errors: str = "", code: int | None = 0) -> Finding:
    (finding,) = packages.check_torch(Outcome(facts, errors, code), cards, wanted=wanted)
    return finding


def test_a_missing_package_is_named_with_the_line_that_installs_it() -> None:
    wanted = ["ray[serve,train]>=2.60,<3", "pydantic>=2", "types-x>=1; extra == 'dev'"]
    (finding,) = packages.check_required(wanted, {"pydantic": "2.14.3"}.get)
    assert (finding.name, finding.state, finding.found) == ("ray", "failed", "not installed")
    assert finding.todo == 'pip install "ray[serve,train]<3,>=2.60"'


def test_a_version_outside_what_is_required_is_named() -> None:
    (finding,) = packages.check_required(["transformers>=5.23,<6"], lambda _: "5.19.0")
    assert (finding.name, finding.state) == ("transformers", "failed")
    assert finding.found == "5.19.0; <6,>=5.23 is required"


def test_an_extra_of_a_package_that_was_left_out_is_named() -> None:
    installed = {"ray": "2.60.0", "fastapi": "0.165"}
    brings = ["fastapi; extra == 'serve'", "uvicorn; extra == 'serve'", "gymnasium; extra == 'rllib'"]
    (finding,) = packages.check_extras(["ray[serve]>=2.60"], lambda _: brings, installed.get)
    assert (finding.name, finding.state, finding.found) == ("ray[serve]", "failed", "without uvicorn")


def test_a_version_outside_the_constraints_is_a_warning_and_ours_come_first(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# tested\naiohttp==3.14\ntorch==2.13.0\nzipp==1.0\n")
    installed = {"aiohttp": "3.13", "torch": "2.12.1+cu130"}
    (finding,) = packages.check_tested(file, ["torch>=2.8"], installed.get)
    assert finding.state == "warning"
    assert finding.found == "torch 2.12.1+cu130 (tested: 2.13.0), aiohttp 3.13 (tested: 3.14)"


def test_the_build_of_a_tested_version_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("torch==2.13.0\n")
    (finding,) = packages.check_tested(file, ["torch"], {"torch": "2.13.0+cpu"}.get)
    assert (finding.state, finding.found) == ("ok", "all 1 installed packages of constraints.txt have the tested version")


def test_another_python_than_the_project_declares_is_named() -> None:
    required, _ = packages.declared()
    assert [f.state for f in packages.check_python("3.12.1", required)] == ["ok"]
    (finding,) = packages.check_python("3.10.14", required)
    assert (finding.state, finding.found) == ("failed", "3.10.14; >=3.11 is required")


def test_this_machine_has_what_this_project_declares() -> None:
    _, wanted = packages.declared()
    (finding,) = packages.check_required(wanted)
    assert finding.state == "ok"


def test_a_configuration_asks_for_the_packages_it_will_import() -> None:
    config = load_config(
        ROOT / "configs" / "tiny.yaml",
        ["distil.student.tuning={type: qlora}", "distil.track.wandb={mode: offline}", "serve.engine=vllm"],
    )
    named = {need.module for need in packages.needs(config, ["abfs://c/run", "s3://b/r", "gs://b/r", "/plain"])}
    assert named == {"bitsandbytes", "wandb", "vllm", "adlfs"}


def test_questions_from_the_hub_need_the_package_datasets(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    task = f"task={{name: math, path: {file}, test_path: hendrycks/math}}"
    config = load_config(ROOT / "configs" / "gsm8k-api.yaml", [task])
    assert {need.module for need in packages.needs(config, [])} == {"math_verify", "datasets"}
    config = load_config(ROOT / "configs" / "gsm8k-api.yaml", [f"task={{name: math, path: {file}}}"])
    assert {need.module for need in packages.needs(config, [])} == {"math_verify"}


def test_a_package_only_this_configuration_needs_is_named_with_its_reason() -> None:
    (finding,) = packages.check_needed([Need("s3fs", "s3:// is used", "s3fs")], lambda _: False)
    assert (finding.name, finding.state) == ("s3fs", "failed")
    assert finding.found == "not installed, but s3:// is used"
    assert finding.todo.startswith('pip install "s3fs"')


@pytest.mark.parametrize(
    ("facts", "cards", "wanted", "state", "said"),
    [
        (CPU, 0, False, "ok", "sees 0 GPUs"),
        (TORCH, 1, True, "ok", "sees 1 GPUs"),
        (CPU, 8, False, "warning", "without CUDA, but there are 8 GPUs"),
        (CPU, 8, True, "failed", "without CUDA, but there are 8 GPUs"),
        (TORCH | {"available": False, "gpus": []}, 1, True, "failed", "cannot use the 1 GPUs"),
        (TORCH | {"no_kernels": ["B300"]}, 1, False, "failed", "has no code for B300"),
    ],
)
def test_torch_is_held_against_the_gpus(facts: dict, cards: int, wanted: bool, state: str, said: str) -> None:
    finding = torch(facts, cards, wanted=wanted)
    assert finding.state == state
    assert said in finding.found


def test_a_torch_that_cannot_be_imported_says_why() -> None:
    finding = torch({}, 0, errors="Traceback ...\nImportError: libcudart.so.13: no such file", code=1)
    assert finding.found == "cannot be imported: ImportError: libcudart.so.13: no such file"
    assert torch({}, 0, code=None).found == "cannot be imported: it took too long"


def test_a_deepspeed_that_cannot_be_imported_says_why() -> None:
    (finding,) = packages.check_deepspeed(Outcome(TORCH, "ModuleNotFoundError: No module named 'deepspeed'", 1))
    assert (finding.name, finding.state) == ("deepspeed", "failed")
    assert "No module named 'deepspeed'" in finding.found


def test_ops_that_cannot_be_built_matter_only_where_there_are_gpus() -> None:
    deepspeed = {"deepspeed": "0.19.8", "accelerator": "cuda", "ops": {"fused_adam": "cannot be built (MissingCUDAException: )"}}
    (finding,) = packages.check_deepspeed(Outcome(TORCH | deepspeed, "", 0))
    assert finding.state == "warning"
    (finding,) = packages.check_deepspeed(Outcome(CPU | deepspeed | {"accelerator": "cpu"}, "", 0))
    assert finding.state == "ok"


def test_torch_and_deepspeed_of_this_machine_are_seen_in_a_process_of_their_own() -> None:
    seen = run_child(["torch"], limit_s=90, env=os.environ)
    assert seen.code == 0
    assert seen.facts["deepspeed"] == packages.installed_version("deepspeed")
    assert set(seen.facts["ops"].values()) <= {"built", "can be built", "cannot be built"}


def test_a_child_that_takes_too_long_is_ended() -> None:
    seen = run_child(["torch"], limit_s=0.05, env=os.environ)
    assert (seen.code, seen.facts) == (None, {})

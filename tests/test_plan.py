"""Which stages there are, and what makes each of them run again."""

from __future__ import annotations

import shutil
from pathlib import Path

from magdi_ray.config import RunConfig, content_hash, load_config
from magdi_ray.pipeline import plan

ROOT = Path(__file__).parent.parent
TINY = ROOT / "configs" / "tiny.yaml"


def shapes(config: RunConfig) -> dict[str, str]:
    """Stage -> hash of what shapes it."""
    return {stage.name: content_hash(stage.shaped_by) for stage in plan(config)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_the_comparisons_come_before_the_product_and_the_evaluation_last() -> None:
    names = ["questions", "debates", "graphs", "ablations/level1", "ablations/level4", "student", "evaluation"]
    assert [stage.name for stage in plan(load_config(TINY))] == names


def test_a_changed_setting_touches_its_own_stage_only() -> None:
    plain = shapes(load_config(TINY))
    assert changed(plain, shapes(load_config(TINY, ["debate.protocol.rounds=3"]))) == {"debates"}
    assert changed(plain, shapes(load_config(TINY, ["graph.labels=vote"]))) == {"graphs"}
    assert changed(plain, shapes(load_config(TINY, ["evaluate.splits=[ood]"]))) == {"evaluation"}
    assert changed(plain, shapes(load_config(TINY, ["distil.scaling.num_workers=2", "distil.parallel=1"]))) == set()


def test_a_teacher_trained_anew_makes_the_debates_run_again(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "magdi_ray" / "tiny" / "models" / "ada", tmp_path / "ada")
    config = load_config(TINY, [f"debate.agents.0.engine.model={tmp_path / 'ada'}"])
    before = shapes(config)
    (tmp_path / "ada" / "model.safetensors").write_bytes(b"other weights")
    assert changed(before, shapes(config)) == {"debates"}


def test_a_question_file_that_changed_makes_the_questions_run_again(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("{}")
    config = load_config(TINY, [f"task={{name: gsm8k, path: {file}}}"])
    before = shapes(config)
    file.write_text("{ }")
    assert changed(before, shapes(config)) == {"questions"}


def test_graphs_that_were_relabelled_in_place_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "graphs.parquet"
    file.write_bytes(b"gold labels")
    config = load_config(TINY, ["debate=null", f"graph.source={{format: mag, path: {file}, test: 1}}"])
    before = shapes(config)
    file.write_bytes(b"vote labels")
    assert changed(before, shapes(config)) == {"questions", "graphs"}

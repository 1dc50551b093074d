"""A whole study on hand-made debates: tuned, trained, compared at equal tokens, and repeated for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from magdi_ray.graph.store import write_mags
from magdi_ray.pipeline import load_results
from magdi_ray.runs import Run
from magdi_ray.study.conduct import conduct, load_study
from magdi_ray.study.page import write_page
from tests.distill.conftest import make_mag

STUDIES = Path(__file__).parent.parent.parent / "configs" / "studies"
SHAPE = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_valid_and_its_run_is_there(path: Path) -> None:
    study = load_study(path)
    assert (path.parent / study.run).is_file()
    assert len(study.resolved) > 2


def configured(folder: Path) -> Path:
    """A study of one recipe, over debates whose questions are trained on, tuned on and tested on."""
    splits = ["train"] * 12 + ["dev"] * 4 + ["test"] * 4
    answers = ("18", "7", "18", "7", "7", "18")
    write_mags(folder / "graphs.parquet", [make_mag(n, answers, split=split) for n, split in enumerate(splits)])
    base = {
        "name": "base",
        "task": {"name": "gsm8k"},
        "graph": {"source": {"format": "mag", "path": str(folder / "graphs.parquet")}},
        "distil": {
            "student": {"model": SHAPE, "tuning": {"type": "full"}, "max_length": 256},
            "train": {"max_steps": 2, "tokens_per_step": 100, "learning_rate": 1e-3, "warmup_steps": 1},
            "parallel": 2,
        },
        "evaluate": {
            "sampling": {"max_tokens": 4},
            "self_consistency": {"samples": 2, "systems": "students", "verifier": True},
            "self_revision": True,
            "latency_questions": 1,
            "num_cpus": 0.5,
        },
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    both: dict[str, Any] = {"name": "both", "objectives": [{"name": "next_token"}, {"name": "contrast", "hidden": 8}]}
    both["train"] = {"tokens_per_step": 300}  # far more than the baseline's, which needs more steps for as many
    study = {
        "name": "small",
        "run": "base.yaml",
        "seeds": 2,
        "tuning": {"learning_rates": [1e-3], "max_steps": [2, 3], "seeds": 1, "recipes": ["level2"]},
        "recipes": [both],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_study_runs_to_its_page_and_again_does_nothing(ray_cluster: None, tmp_path: Path) -> None:
    path = configured(tmp_path)
    result = conduct(load_study(path), tmp_path, tmp_path / "out")
    assert [trial["max_steps"] for trial in result["tuning"]] == [2, 3]
    both, level2 = result["rows"]
    assert (both["recipe"], level2["recipe"]) == ("both", "level2")
    assert both["equal"]["reference"].startswith("level2-at-")
    assert (both["equal"]["seeds"], both["equal"]["questions"]) == (2, 4)
    [beside] = result["beside"]
    assert beside["tokens"] == pytest.approx(both["tokens"], rel=0.2)
    assert result["said"][0].startswith("both ")
    assert both["equal"]["reference"] in write_page(result, tmp_path / "study.md").read_text()
    measured = load_results(Run(tmp_path / "out" / "students"))["scores"]
    asked = {name: {row["method"] for row in measured if row["system"] == name} for name in ("both", "level2")}
    assert asked["level2"] == {"single", "revised", "majority", "confidence"}  # it has no head to rate with
    assert asked["both"] == asked["level2"] | {"verifier", "best"}
    assert all(row["seconds"] > 0 for row in measured if row["system"] == "both" and row["method"] == "single")
    manifests = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("manifest.json")}
    assert len(manifests) > 10
    assert conduct(load_study(path), tmp_path, tmp_path / "out") == result
    assert {file: file.stat().st_mtime_ns for file in manifests} == manifests
    assert Run(tmp_path / "out" / "students").require("student").facts["steps"] in (2, 3)

"""`magdi graph export`: from recorded debates to a training file by two commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from magdi_ray import cli
from magdi_ray.cli.graph import IMPORTED, TASK_NAMES
from magdi_ray.graph.formats import FORMATS
from magdi_ray.tasks.load import TASKS

ROOT = Path(__file__).parent.parent


def magdi(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert stopped.value.code == code, said
    return " ".join((said.out + said.err).split())


def test_recorded_debates_become_a_training_file(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, graphs, out = data_dir / "debates" / "du_gsm" / "gsm_3_2_100.json", tmp_path / "g.parquet", tmp_path / "p.jsonl"
    magdi(capsys, "graph", "import", source, "--format", "society", "--out", graphs)
    said = magdi(capsys, "graph", "export", graphs, "--format", "preference", "--out", out, "--conversational")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{len(rows)} rows written to {out}" in said
    assert "left out: " in said
    assert rows[0]["chosen"][0]["role"] == "assistant"
    assert "exists already" in magdi(capsys, "graph", "export", graphs, "--format", "messages", "--out", out, code=2)


def test_a_run_is_exported_under_its_own_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "configs" / "tiny.yaml", tmp_path / "config.yaml")
    arguments = ("graph", "export", tmp_path, "--format", "messages", "--out", tmp_path / "m.jsonl")
    assert "a run of the task 'tiny'" in magdi(capsys, *arguments, "--task", "gsm8k", code=2)
    assert "no finished 'graphs' stage" in magdi(capsys, *arguments, code=2)
    assert "Example: magdi graph export" in magdi(capsys, "graph", "export", "--help")
    assert "--task must be one of" in magdi(capsys, *arguments, "--task", "chess", code=2)


def test_help_names_every_task_and_every_format() -> None:
    assert set(TASK_NAMES.replace(" or ", ", ").split(", ")) == set(TASKS)
    assert set(IMPORTED.rstrip(".").replace(" or ", ", ").split(", ")) == set(FORMATS)

"""The small world's models: built by the command, each with what it has learned."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from magdi_ray.cli.commands import app

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_quick_build_makes_three_teachers_and_nine_students_and_says_what_it_lacks(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["tiny", "build", "--world", "small", "--reduced", "--quick", "--out", str(tmp_path)])
    assert told.exit_code == 0, told.output
    notes = json.loads((tmp_path / "build.json").read_text())
    assert notes["reduced"].startswith("Quick")
    assert notes["reduced"][:40] in told.output.replace("\n", " ")
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == set(notes["models"]) >= {"ada", "ben", "cleo", "small-weak", "large-saturated"}
    assert len(names) == 12
    assert 1 <= len(notes["models"]["small-saturated"]["right_after_each_pass"]) <= 2
    for name in ("cleo", "large-fair"):
        AutoTokenizer.from_pretrained(tmp_path / name)
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name).num_parameters() == notes["models"][name]["parameters"]

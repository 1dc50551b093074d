"""The run directory: resume is a fact on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from magdi_ray.config import RunConfig, load_config, parse_config
from magdi_ray.errors import RunError
from magdi_ray.runs import MANIFEST, Run, file_hash

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config() -> RunConfig:
    return load_config(ROOT / "configs" / "tiny.yaml")


def finish(run: Run, stage: str, text: str, shaped_by: object = "a", inputs: tuple[str, ...] = ()) -> None:
    (run.clear(stage) / "data.txt").write_text(text)
    run.finish(stage, shaped_by, inputs, seconds=1.0, facts={"rows": 1})


def test_a_stage_is_complete_exactly_when_its_manifest_exists(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.state("graphs", "a", ()) == "missing"
    (run.clear("graphs") / "data.txt").write_text("half")
    assert run.state("graphs", "a", ()) == "unfinished"
    run.finish("graphs", "a", (), seconds=1.0, facts={})
    assert run.state("graphs", "a", ()) == "complete"


def test_a_changed_configuration_makes_its_stage_stale(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, "graphs", "x", {"labels": "gold"})
    assert run.state("graphs", {"labels": "vote"}, ()) == "stale"


def test_a_stage_made_anew_makes_what_read_it_stale_only_if_its_files_changed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, "graphs", "x")
    finish(run, "student", "weights", inputs=("graphs",))
    finish(run, "graphs", "x")
    assert run.state("student", "a", ("graphs",)) == "complete"
    finish(run, "graphs", "other")
    assert run.state("student", "a", ("graphs",)) == "stale"


def test_nothing_is_deleted_when_a_stage_runs_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, "ablations/level1", "first")
    finish(run, "ablations/level1", "second")
    kept = list((tmp_path / "superseded").rglob("data.txt"))
    assert [path.read_text() for path in kept] == ["first"]


def test_a_directory_that_is_no_run_is_not_touched(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="no run of magdi"):
        Run(tmp_path).prepare(config, "if_possible")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_runs_directory_is_refused(tmp_path: Path, config: RunConfig) -> None:
    Run(tmp_path).prepare(config, "never")
    other = parse_config(config.model_dump(mode="json") | {"name": "other"}, "test")
    with pytest.raises(RunError, match="holds the run 'tiny', not 'other'"):
        Run(tmp_path).prepare(other, "if_possible")


def test_resume_never_wants_a_fresh_directory_and_always_a_used_one(tmp_path: Path, config: RunConfig) -> None:
    with pytest.raises(RunError, match="no run in"):
        Run(tmp_path / "new").prepare(config, "always")
    Run(tmp_path).prepare(config, "never")
    Run(tmp_path).prepare(config, "always")
    with pytest.raises(RunError, match="already holds a run"):
        Run(tmp_path).prepare(config, "never")


def test_the_resolved_configuration_is_stored_and_equal(tmp_path: Path, config: RunConfig) -> None:
    Run(tmp_path).prepare(config, "never")
    assert load_config(tmp_path / "config.yaml") == config


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, "graphs", "x")
    (tmp_path / "graphs" / MANIFEST).write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json cannot be read"):
        run.read_manifest("graphs")


def test_two_processes_never_work_in_one_run(tmp_path: Path) -> None:
    first, second = Run(tmp_path), Run(tmp_path)
    first.lock()
    with pytest.raises(RunError, match="is in use by process"):
        second.lock()
    first.unlock()
    second.lock()


def test_files_a_run_starts_from_count_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("one")
    before = file_hash(str(tmp_path / "model"))
    (tmp_path / "model" / "weights").touch()
    assert file_hash(str(tmp_path / "model")) == before
    (tmp_path / "model" / "weights").write_text("two")
    assert file_hash(str(tmp_path / "model")) != before
    assert file_hash("org/on-the-hub") == ""


def test_a_run_keeps_its_identity_when_it_is_taken_up_and_when_it_is_moved(tmp_path: Path, config: RunConfig) -> None:
    first = Run(tmp_path / "first")
    assert first.identity == ""
    first.prepare(config, "if_possible")
    name = first.identity
    first.unlock()
    first.root.rename(tmp_path / "second")
    second = Run(tmp_path / "second")
    second.prepare(config, "if_possible")
    assert name == second.identity != ""

"""The run directory: resume is a fact on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from magdi_ray.config import RunConfig, load_config, parse_config
from magdi_ray.errors import RunError
from magdi_ray.runs import MANIFEST, Resume, Run, file_hash
from magdi_ray.storage import delivered, fetched, listing, read_text

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config() -> RunConfig:
    return load_config(ROOT / "configs" / "tiny.yaml")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a run may be; a URL, of which every machine makes copies."""
    monkeypatch.setenv("MAGDI_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/bucket/run"


@pytest.fixture(params=["path", "url"])
def run(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Iterator[Run]:
    """A run that this process works at."""
    run = Run(tmp_path / "run" if request.param == "path" else url)
    run.root.mkdir(exist_ok=True)
    run.lock()
    yield run
    run.unlock()


def begun(where: Path, config: RunConfig, resume: Resume = "never") -> None:
    """A run that was begun, and that nobody works at."""
    run = Run(where)
    run.prepare(config, resume)
    run.unlock()


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
    begun(tmp_path, config)
    other = parse_config(config.model_dump(mode="json") | {"name": "other"}, "test")
    with pytest.raises(RunError, match="holds the run 'tiny', not 'other'"):
        Run(tmp_path).prepare(other, "if_possible")


def test_resume_never_wants_a_fresh_directory_and_always_a_used_one(tmp_path: Path, config: RunConfig) -> None:
    with pytest.raises(RunError, match="no run in"):
        Run(tmp_path / "new").prepare(config, "always")
    begun(tmp_path, config)
    begun(tmp_path, config, "always")
    with pytest.raises(RunError, match="already holds a run"):
        Run(tmp_path).prepare(config, "never")


def test_the_resolved_configuration_is_stored_and_equal(tmp_path: Path, config: RunConfig) -> None:
    begun(tmp_path, config)
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
    assert second.attempt == 2
    second.unlock()


def test_a_stage_is_made_under_the_attempts_number_and_appears_when_it_is_whole(run: Run) -> None:
    assert run.place_of(run.clear("ablations/level1")) == f"{run.where}/attempts/00000001/ablations/level1"
    assert run.state("ablations/level1", "a", ()) == "unfinished"
    (run.root / "attempts" / "00000001" / "ablations" / "level1" / "data.txt").write_text("whole")
    run.finish("ablations/level1", "a", (), seconds=1.0, facts={})
    assert (run.path("ablations/level1") / "data.txt").read_text() == "whole"
    assert Run(run.where).read_manifest("ablations/level1") is not None


def test_what_an_attempt_left_unfinished_is_kept_and_out_of_the_way(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.lock()
    (first.clear("debates") / "data.txt").write_text("half")
    first.unlock()
    second = Run(tmp_path)
    second.lock()
    assert second.state("debates", "a", ()) == "missing"
    assert [path.read_text() for path in (tmp_path / "superseded").rglob("data.txt")] == ["half"]
    second.unlock()


def test_an_attempt_that_was_taken_over_from_declares_nothing_finished(run: Run) -> None:
    (run.clear("student") / "weights").write_text("of the first")
    (record,) = Path(run.where.removeprefix("file://")).glob("leases/*")
    record.with_name(record.name.replace("00000001", "00000002")).write_text(record.read_text())
    with pytest.raises(RunError, match="attempt 2 took over"):
        run.finish("student", "a", (), seconds=1.0, facts={})
    assert Run(run.where).read_manifest("student") is None


def test_a_run_at_a_url_is_seen_from_other_machines(url: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(url)
    run.prepare(config, "never")
    finish(run, "graphs", "x")
    finish(run, "ablations/level1", "weights", inputs=("graphs",))
    run.metrics.write_text("{}\n")
    run.unlock()
    monkeypatch.setenv("MAGDI_CACHE", os.environ["MAGDI_CACHE"] + "-of-another-machine")
    other = Run(url)
    assert load_config(other.root / "config.yaml") == config
    assert (other.identity, other.metrics.read_text()) == (run.identity, "{}\n")
    assert other.state("ablations/level1", "a", ("graphs",)) == "complete"
    assert (other.path("ablations/level1") / "data.txt").read_text() == "weights"
    assert fetched(other.place("graphs")) == other.path("graphs")


def test_a_stage_at_a_url_may_be_written_by_workers(url: str, config: RunConfig) -> None:
    run = Run(url)
    run.prepare(config, "never")
    directory = run.clear("debates")
    with delivered(run.place_of(directory)) as elsewhere:
        (elsewhere / "part.parquet").write_text("of a worker")
    run.gather(directory)
    (directory / "own.txt").write_text("of the driver")
    manifest = run.finish("debates", "a", (), seconds=1.0, facts={})
    assert set(manifest.files) == {"own.txt", "part.parquet"}
    assert set(listing(run.place("debates"))) == {"own.txt", "part.parquet", MANIFEST}
    run.unlock()


def test_a_stage_at_a_url_that_is_made_anew_leaves_the_older_one(url: str, config: RunConfig) -> None:
    for text in ("first", "second"):
        run = Run(url)
        run.prepare(config, "if_possible")
        finish(run, "graphs", text)
        run.unlock()
    assert (Run(url).path("graphs") / "data.txt").read_text() == "second"
    assert read_text(f"{url}/attempts/00000001/graphs/data.txt") == "first"


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

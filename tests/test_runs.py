"""The run directory: resume is a fact on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from magdi_ray.config import RunConfig, load_config, parse_config
from magdi_ray.errors import ConfigError, RunError
from magdi_ray.runs import MANIFEST, Resume, Run, file_hash
from magdi_ray.storage import delivered, fetched, listing, read_text, write_text

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config() -> RunConfig:
    return load_config(ROOT / "configs" / "tiny.yaml")


@pytest.fixture(autouse=True)
def _uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is lost in here ends no process of the tests'; that it does is tested in one of its own."""
    monkeypatch.setattr("magdi_ray.runs._interrupt", lambda: None)


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


def take_over(run: Run) -> None:
    """As another attempt does that has not heard of this one for long enough."""
    (record,) = Path(run.where.removeprefix("file://")).glob("leases/*")
    record.with_name(record.name.replace("00000001", "00000002")).write_text(record.read_text())


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
    directory = run.clear("ablations/level1")
    assert re.fullmatch(r".*/run/attempts/00000001-\w{8}/ablations/level1", run.place_of(directory))
    assert run.state("ablations/level1", "a", ()) == "unfinished"
    (directory / "data.txt").write_text("whole")
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
    take_over(run)
    with pytest.raises(RunError, match="attempt 2 took over"):
        run.finish("student", "a", (), seconds=1.0, facts={})
    assert Run(run.where).read_manifest("student") is None


def test_an_attempt_that_has_ended_puts_nothing_into_its_place(run: Run) -> None:
    """As a thread does that goes on after Ctrl-C."""
    finish(run, "graphs", "whole")
    (run.clear("graphs") / "data.txt").write_text("half")
    run.unlock()
    with pytest.raises(RunError, match="has ended"):
        run.finish("graphs", "a", (), seconds=1.0, facts={})
    with pytest.raises(RunError, match="is gone, where 'student' was made"):
        run.finish("student", "a", (), seconds=1.0, facts={})
    assert (Run(run.where).path("graphs") / "data.txt").read_text() == "whole"


def test_stages_that_are_made_side_by_side_are_finished_one_by_one(run: Run) -> None:
    for name in ("ablations/a", "ablations/b"):
        (run.clear(name) / "data.txt").write_text(name)
    for name in ("ablations/a", "ablations/b"):
        run.finish(name, "a", (), seconds=1.0, facts={})
        assert (run.path(name) / "data.txt").read_text() == name


def test_what_a_successor_finished_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older attempt stood still between its last look at its lease and the renaming."""
    older, newer = Run(tmp_path), Run(tmp_path)
    older.lock()
    (older.clear("graphs") / "data.txt").write_text("of the older")

    def stand_still() -> None:
        record = json.loads((tmp_path / "leases" / "00000001.json").read_text())
        (tmp_path / "leases" / "00000001.json").write_text(json.dumps(record | {"released": True}))
        newer.lock()
        finish(newer, "graphs", "of the newer")

    monkeypatch.setattr(older, "check", stand_still)
    with pytest.raises(OSError, match="graphs"):
        older.finish("graphs", "a", (), seconds=1.0, facts={})
    assert (newer.path("graphs") / "data.txt").read_text() == "of the newer"
    newer.unlock()
    older.unlock()


def test_a_stage_is_not_finished_when_what_it_read_was_made_anew(run: Run) -> None:
    finish(run, "graphs", "one")
    (run.clear("student", ["graphs"]) / "data.txt").write_text("of the first graphs")
    finish(run, "graphs", "two")
    with pytest.raises(RunError, match="was made from has changed"):
        run.finish("student", "a", ("graphs",), seconds=1.0, facts={})


def test_who_was_taken_over_from_pushes_nothing_any_more(url: str, config: RunConfig) -> None:
    run = Run(url)
    run.prepare(config, "never")
    run.metrics.write_text("of the first\n")
    take_over(run)
    write_text(f"{url}/metrics.jsonl", "of the second\n")
    with pytest.raises(RunError, match="attempt 2 took over"):
        run.push()
    run.unlock()
    assert read_text(f"{url}/metrics.jsonl") == "of the second\n"


def test_a_run_that_was_deleted_and_begun_anew_is_never_mixed_with_copies_of_the_old_one(url: str, config: RunConfig) -> None:
    for text in ("old", "new"):
        shutil.rmtree(url.removeprefix("file://"), ignore_errors=True)
        run = Run(url)
        run.prepare(config, "never")
        finish(run, "graphs", text)
        run.unlock()
        assert (Run(url).path("graphs") / "data.txt").read_text() == text


def test_other_files_beside_a_run_at_a_url_are_let_alone(url: str, config: RunConfig) -> None:
    run = Run(url)
    run.prepare(config, "never")
    run.unlock()
    Path(url.removeprefix("file://"), "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    assert not (Run(url).root / "picture.png").exists()


def test_a_url_with_options_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"takes no options.*AWS_REGION"):
        Run("s3://bucket/run?region=eu-west-1")


WAITS = """
import sys, time
from functools import partial
from magdi_ray.errors import RunError
from magdi_ray.pipeline import held, together
from magdi_ray.runs import Run
run = Run(sys.argv[1])
try:
    with held(run):
        run.lock()
        print("locked", flush=True)
        together([partial(time.sleep, 60)], 1)
except RunError as error:
    print(error, flush=True)
    import os
    os._exit(7)
"""


def test_a_driver_that_was_taken_over_from_ends_at_once(tmp_path: Path) -> None:
    """Also where it waits for a worker, and where a script started it in the background, where Ctrl-C is not heard."""
    command = ["bash", "-c", f'trap "" INT; exec {sys.executable} -c "$0" {tmp_path}', WAITS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    record = tmp_path / "leases" / "00000001.json"
    record.with_name("00000002.json").write_text(record.read_text())
    assert process.wait(timeout=20) == 7
    assert "attempt 2 took over" in process.stdout.read()


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
    (older,) = Path(url.removeprefix("file://")).glob("attempts/00000001-*/graphs/data.txt")
    assert older.read_text() == "first"


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

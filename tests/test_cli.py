"""The command line: bad input is refused in words, with exit code 2, before any worker starts."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from magdi_ray import cli, pipeline
from magdi_ray.graph.schema import MAG_SCHEMA
from tests.evaluate.report import made

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "configs" / "tiny.yaml")
STUDENT = ROOT / "magdi_ray" / "tiny" / "models" / "student"

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command that must exit with code 2 without ever starting Ray; returns what it said."""

    def started(**_: object) -> None:
        raise AssertionError("a worker was about to start")

    monkeypatch.setattr(pipeline, "ray_session", started)

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr().err
        assert stopped.value.code == 2, said
        assert "Traceback" not in said
        return " ".join(said.split())

    return run


def test_an_unknown_key_is_refused_with_the_nearest_known_one(refused: Refused, tmp_path: Path) -> None:
    assert "distil.train.learning_rte: unknown key; did you mean 'learning_rate'?" in refused(
        "run", TINY, "--out", tmp_path, "--set", "distil.train.learning_rte=1e-3"
    )


def test_a_missing_model_directory_names_the_agent_and_the_directory(refused: Refused, tmp_path: Path) -> None:
    said = refused("run", TINY, "--out", tmp_path, "--set", "debate.agents.1.engine.model=/nowhere/model")
    assert "Agent 'ben'" in said
    assert "/nowhere/model" in said


def test_an_empty_question_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    empty = tmp_path / "train.jsonl"
    empty.write_text("")
    said = refused("run", TINY, "--out", tmp_path / "run", "--set", f"task={{name: gsm8k, path: {empty}}}")
    assert str(empty) in said
    assert "is empty" in said


def test_duplicate_question_ids_are_refused_with_their_lines(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    rows = [{"id": "q1", "question": f"How many are {n}?", "answer": f"#### {n}"} for n in (1, 2)]
    file.write_text("\n".join(map(json.dumps, rows)))
    said = refused("run", TINY, "--out", tmp_path / "run", "--set", f"task={{name: gsm8k, path: {file}}}")
    assert "q1" in said
    assert "line 2" in said or ":2" in said


def newer_graphs(path: Path) -> None:
    """A graph file as a later version of this project would write it."""
    schema = MAG_SCHEMA.with_metadata({"magdi_ray.schema": "mag", "magdi_ray.schema_version": "99"})
    pq.write_table(schema.empty_table(), path)


def test_a_graph_file_of_a_newer_schema_is_refused_wherever_it_is_named(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "graphs.parquet"
    newer_graphs(file)
    settings = ("--set", "debate=null", "--set", f"graph.source={{format: mag, path: {file}, test: 1}}")
    for said in (refused("graph", "stats", file), refused("run", TINY, "--out", tmp_path / "run", *settings)):
        assert "99" in said
        assert "newer" in said


def test_a_student_without_a_tokenizer_is_refused(refused: Refused, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    said = refused("run", TINY, "--out", tmp_path / "run", "--set", f"distil.student.model={student}")
    assert "has no tokenizer" in said


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("distil.scaling.num_workers=4096", "4096 workers"),
        ("distil.scaling={num_workers: 900, use_gpu: true, num_cpus: 0.001}", "GPUs"),
    ],
)
def test_more_workers_than_the_machine_holds_are_refused(refused: Refused, tmp_path: Path, override: str, found: str) -> None:
    assert found in refused("run", TINY, "--out", tmp_path, "--set", override)


def test_agents_that_do_not_fit_the_machine_are_refused(refused: Refused, tmp_path: Path) -> None:
    assert "smallest pools want" in refused("run", TINY, "--out", tmp_path, "--set", "debate.agents.0.replicas=[9999, 9999]")


def test_a_recipe_that_learns_from_an_absent_agent_is_refused(refused: Refused, tmp_path: Path) -> None:
    recipe = "distil.recipe={name: own, nodes: {agents: [zoe]}, objectives: [{name: next_token}]}"
    assert "zoe" in refused("run", TINY, "--out", tmp_path, "--set", recipe)


def test_a_recipe_that_learns_only_from_critics_is_refused(refused: Refused, tmp_path: Path) -> None:
    recipe = "distil.recipe={name: own, nodes: {agents: [ben]}, objectives: [{name: next_token}]}"
    said = refused("run", TINY, "--out", tmp_path, "--set", recipe, "--set", "debate.protocol={name: critique}")
    assert "would learn nothing" in said
    assert "ben is a critic" in said


def test_pools_that_would_leave_no_room_to_read_the_questions_are_refused(refused: Refused, tmp_path: Path) -> None:
    grown = "debate.agents.0.replicas=[1, 4000]"
    assert "largest pools want" in refused("debate", TINY, "--out", tmp_path, "--set", grown)


def test_a_prompt_template_that_is_not_jinja_is_refused(refused: Refused, tmp_path: Path) -> None:
    prompts = "debate.protocol.prompts={initial: '{{ prompt', discussion: x}"
    assert "initial template is not valid jinja2" in refused("run", TINY, "--out", tmp_path, "--set", prompts)


def test_several_problems_are_said_at_once(refused: Refused, tmp_path: Path) -> None:
    said = refused(
        "run",
        TINY,
        "--out",
        tmp_path,
        "--set",
        "distil.scaling.num_workers=4096",
        "--set",
        "debate.agents.0.engine.model=/nowhere",
    )
    assert "4096 workers" in said
    assert "Agent 'ada'" in said


def test_a_directory_with_other_files_is_refused_and_untouched(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "no run of magdi" in refused("run", TINY, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_serving_a_run_that_is_not_there_says_so(refused: Refused, tmp_path: Path) -> None:
    assert "is no run directory" in refused("serve", tmp_path)


def test_a_place_where_no_run_can_be_is_refused_in_words(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "thesis.tex"
    file.write_text("years of work")
    assert f"{file} is a file, and a run is a directory" in refused("run", TINY, "--out", file)
    assert "cannot be made" in refused("run", TINY, "--out", file / "run")
    assert "is written s3://BUCKET/RUN" in refused("run", TINY, "--out", "s3:/bucket/run")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "Free space there"), (errno.EIO, "run the same command again")])
def test_what_the_machine_refuses_is_said_with_a_remedy(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/full/disk")

    monkeypatch.setattr("magdi_ray.cli.commands.config_schema", fails)
    said = refused("config", "schema")
    assert f"MachineError {os.strerror(number)}: /full/disk." in said
    assert remedy in said


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("magdi_ray.cli.commands.config_schema", fails)
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main(["config", "schema"])


def test_an_override_says_what_is_there_instead(refused: Refused) -> None:
    assert "debate.agents is a list of 3, counted from 0; it has no '7'" in refused(
        "run", TINY, "--set", "debate.agents.7.name=z"
    )
    assert "name is the value 'tiny'; it has no 'x'" in refused("run", TINY, "--set", "name.x=z")


def test_yaml_that_is_none_is_told_with_its_file_and_line(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: x\ntask: {name: tiny\n")
    assert f"in {file}, line 2" in refused("run", file)
    file.write_text("")
    assert "found nothing" in refused("run", file)


def test_recorded_debates_are_imported_shown_and_counted(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = data_dir / "debates" / "du_gsm" / "gsm_3_2_100.json", tmp_path / "graphs.parquet"
    for arguments in (["graph", "import", str(source), "--format", "society", "--out", str(out)], ["graph", "stats", str(out)]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "100 graphs written" in said
    identity = pq.read_table(out, columns=["question_id"]).column(0)[0].as_py()
    with pytest.raises(SystemExit):
        cli.main(["graph", "show", str(out), identity])
    assert "agent-1" in capsys.readouterr().out


def test_an_attention_path_that_needs_a_gpu_is_refused_without_one(refused: Refused, tmp_path: Path) -> None:
    assert "needs a GPU" in refused("run", TINY, "--out", tmp_path, "--set", "distil.student.packing=flex")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--student", "level1"), "--student belongs to --lm-eval TASKS"),
        (("--limit", 5), "--limit belongs to"),
        (("--chat-template", "--endpoint", "http://x/v1"), "--endpoint, --chat-template belong to"),
        (("--batch-size", 1, "--fewshot", 0, "--model", "m"), "--model, --fewshot, --batch-size belong to"),
    ],
)
def test_options_of_the_harness_are_refused_by_name_without_it(
    refused: Refused, tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    assert told in refused("evaluate", TINY, "--out", tmp_path, *options)


def test_the_help_shows_the_options_of_the_harness_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    first, apart = capsys.readouterr().out.split("With --lm-eval")
    assert "--set" in first
    assert all(name not in first for name in ("--student", "--fewshot", "--chat-template"))
    assert all(name in apart for name in ("--student", "--fewshot", "--chat-template"))


def test_the_harness_takes_a_finished_run_as_it_is(refused: Refused, tmp_path: Path) -> None:
    assert "leave out --set and --resume" in refused("evaluate", TINY, "--out", tmp_path, "--lm-eval", "x", "--set", "seed=1")


def test_a_report_of_what_is_no_run_says_what_is_required(refused: Refused, tmp_path: Path) -> None:
    said = refused("report", tmp_path)
    assert f"{tmp_path} is no run directory" in said


def test_a_report_is_written_over_nothing_but_a_report(refused: Refused, tmp_path: Path) -> None:
    made.finished_run(tmp_path / "run", made.config(), made.answers("base", [True]), [made.debate("1", split="test")])
    notes = tmp_path / "notes.html"
    notes.write_text("years of work")
    assert "notes.html exists and is none" in refused("report", tmp_path / "run", "--out", notes)
    assert "/proc/x.html cannot be written" in refused("report", tmp_path / "run", "--out", "/proc/x.html")
    assert notes.read_text() == "years of work"


def test_a_task_that_is_evaluated_besides_is_looked_at_before_anything_runs(refused: Refused, tmp_path: Path) -> None:
    said = refused("run", TINY, "--out", tmp_path, "--set", "evaluate.tasks=[{name: svamp, test_path: /nowhere/SVAMP.json}]")
    assert "/nowhere/SVAMP.json" in said


def test_who_interrupts_a_run_is_told_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "ray_session", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", TINY, "--out", str(tmp_path / "run")])
    assert ended.value.code == 130
    assert "run the same command to go on" in capsys.readouterr().err

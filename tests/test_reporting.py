"""From run directories to a report: what is gathered, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config import RunConfig
from magdi_ray.config.recipes import RECIPES
from magdi_ray.distill.watch.steplog import read_dev, read_steps, read_trainings
from magdi_ray.errors import ConfigError, RunError
from magdi_ray.evaluate.answers import BASE, VOTE, Answer, write_answers
from magdi_ray.graph.schema import Mag
from magdi_ray.report_parts.curves import POINTS, thinned
from magdi_ray.report_parts.facts import recipe_in_words
from magdi_ray.report_parts.finished import open_runs
from magdi_ray.reporting import report_data, write_markdown, write_report
from magdi_ray.runs import Run
from magdi_ray.tasks.base import Question
from tests.evaluate.report.made import answers, config, debate, finished_run

RIGHT = {BASE: [False, False, True, False], "level1": [True, False, True, False], "level2": [True, True, True, False]}


def mags() -> list[Mag]:
    held_out = [debate("112", "111", name=f"test-{i}", split="test") for i in range(4)]
    return [*held_out, *(debate("221", "222", name=f"train-{i}") for i in range(4))]


def said(seeds: int = 1) -> list[Answer]:
    trained = [row for name in ("level1", "level2") for seed in range(seeds) for row in answers(name, RIGHT[name], seed=seed)]
    teachers = [row for name in ("ada", "ben") for row in answers(name, [True] * 4)]
    return [*answers(BASE, RIGHT[BASE]), *trained, *teachers, *answers(VOTE, [True] * 4, confidence=1.0, tokens_out=90)]


def made(path: Path, *, settings: RunConfig | None = None, given: Sequence[Answer] | None = None, **more: Any) -> Run:
    return finished_run(path, settings or config(), said() if given is None else given, more.pop("graphs", mags()), **more)


def test_a_report_holds_every_section_of_a_run(tmp_path: Path) -> None:
    data = report_data([made(tmp_path / "run")])
    [run] = data["runs"]
    assert run["sets"] == [{"id": "tiny/test", "task": "tiny", "split": "test", "domain": "in", "questions": 4}]
    assert [(row["system"], row["set"], row["accuracy"]) for row in run["scores"]][:3] == [
        *((BASE, "tiny/test", 0.25), ("level1", "tiny/test", 0.5), ("level2", "tiny/test", 0.75)),
    ]
    assert [(row["split"], row["round"], row["debates"], row["vote_accuracy"]) for row in run["rounds"]] == [
        *(("test", 0, 4, 1.0), ("test", 1, 4, 1.0), ("train", 0, 4, 0.0), ("train", 1, 4, 0.0)),
    ]
    assert {(row["who"], row["kind"]) for row in run["calibration"]} >= {
        ("ada", "teacher"),
        ("level2", "student"),
        ("vote", "debate"),
    }
    assert ["task", "tiny"] in run["facts"]
    json.dumps(data)


def test_claims_use_differences_that_the_evaluation_did_not_take(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    taken = json.loads((run.path("evaluation") / "metrics.json").read_text())["differences"]
    assert [(row["system"], row["reference"]) for row in taken] == [("level2", BASE)]
    [data] = report_data([run])["runs"]
    assert [row["claim"] for row in data["orderings"]][:2] == ["level 1 beats the base", "level 2 beats level 1"]
    assert data["orderings"][1]["difference"] == 0.25


def test_a_stage_is_a_row_of_cost_and_what_is_unknown_is_none(tmp_path: Path) -> None:
    [run] = report_data([made(tmp_path / "run")])["runs"]
    rows = {row["stage"]: row for row in run["cost"]}
    assert list(rows) == ["questions", "debates", "graphs", "level1, seed 0", "level2, seed 0", "evaluation"]
    assert (rows["debates"]["tokens_out"], rows["debates"]["usd"]) == (20, None)
    assert (rows["level2, seed 0"]["tokens_in"], rows["level2, seed 0"]["seconds"]) == (90, 3.0)
    assert (rows["evaluation"]["tokens_out"], rows["evaluation"]["what"]) == (60, "12 replies of 3 systems")


def test_every_training_is_a_curve(tmp_path: Path) -> None:
    lines = [
        {"recipe": "level2", "seed": seed, "step": step, "loss": 3.0 - step, "next_token": 1.0, "learning_rate": 0.1}
        for seed in (0, 1)
        for step in range(3)
    ]
    measured = {"recipe": "level2", "seed": 1, "event": "dev", "step": 2, "loss": 2.5, "accuracy": None}
    run = made(tmp_path / "run", settings=config(seeds=2), given=said(2), log=[*lines, measured])
    first, second = report_data([run])["runs"][0]["curves"]
    assert (first["recipe"], first["seed"], first["parts"]["loss"]) == ("level2", 0, [[0, 3.0], [1, 2.0], [2, 1.0]])
    assert (list(first["parts"]), first["dev"], second["dev"]) == (["loss", "next_token"], [], [[2, 2.5, None]])


def test_trainings_are_read_in_one_go_as_one_by_one(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    start = {"stage": "distil", "recipe": "a", "event": "start"}
    step = {"stage": "distil", "recipe": "a"}
    dev = {"stage": "distil", "recipe": "a", "event": "dev"}
    lines = [
        *(start | {"step": 0}, dev | {"step": 0, "loss": 9.0}, step | {"step": 0, "loss": 3.0}, step | {"step": 1, "loss": 2.0}),
        *(dev | {"step": 2, "loss": 8.0}, start | {"step": 1}, step | {"step": 1, "loss": 1.0}, {"stage": "debates"}),
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "dist', encoding="utf-8")
    training = read_trainings(log, ["loss"])["a", 0]
    assert (
        training.steps
        == {line["step"]: {"loss": line["loss"]} for line in read_steps(log, "a")}
        == {0: {"loss": 3.0}, 1: {"loss": 1.0}}
    )
    assert training.dev == {line["step"]: (line["loss"], None) for line in read_dev(log, "a")} == {0: (9.0, None)}


@pytest.mark.parametrize("count", [1, 2, POINTS, POINTS + 1, 777, 10_000])
def test_a_long_curve_is_thinned_to_means_and_its_last_point(count: int) -> None:
    found = thinned([(step, 2.0 * step) for step in range(count)])
    assert len(found) == min(count, POINTS)
    assert found[-1] == [count - 1, 2.0 * (count - 1)]
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    assert all(abs(value - 2.0 * step) <= 1.0 for step, value in found)


def test_the_page_shows_evaluated_questions_first_and_then_training_debates(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    page = write_report([run])
    assert page == run.root / "report.html"
    text = page.read_text(encoding="utf-8")
    assert '"count":8' in text
    assert '"left_out":0' in text
    assert '"systems":["base","level1","level2"]' in text


@pytest.mark.parametrize(("limit", "left_out"), [(None, 0), (6, 2), (2, 6), (0, 8)])
def test_a_limit_takes_evaluated_questions_first_and_says_what_is_left_out(
    tmp_path: Path, limit: int | None, left_out: int
) -> None:
    assert report_data([made(tmp_path / "run")], questions=limit)["viewer"]["left_out"] == left_out


def test_questions_of_further_tasks_are_shown_with_their_answers(tmp_path: Path) -> None:
    sets = [
        {"task": "tiny", "split": "test", "domain": "in", "questions": 4},
        {"task": "gsm8k", "split": "test", "domain": "out", "questions": 1},
    ]
    other = [replace(row, question_id="g-0") for row in answers("level2", [True], task="gsm8k")]
    asked = [Question("g-0", "How many?", "1", "test")]
    run = made(tmp_path / "run", given=[*said(), *other], sets=sets, asked=asked)
    [data] = report_data([run])["runs"]
    assert [(row["id"], row["domain"]) for row in data["sets"]] == [("tiny/test", "in"), ("gsm8k/test", "out")]
    assert [row["count"] for row in data["calibration"] if row["who"] == "level2"] == [4]
    assert '"count":9' in write_report([run]).read_text(encoding="utf-8")


def test_training_questions_need_no_gold_answer(tmp_path: Path) -> None:
    graphs = [*mags()[:4], debate("221", "222", name="train-0", gold=None)]
    [run] = report_data([made(tmp_path / "run", graphs=graphs)])["runs"]
    assert [row["vote_accuracy"] for row in run["rounds"]] == [1.0, 1.0, None, None]


def test_runs_are_compared_on_what_both_asked(tmp_path: Path) -> None:
    better = [row if row.system != "level2" else replace(row, correct=True, answer="1") for row in said()]
    runs = [made(tmp_path / "one"), made(tmp_path / "two", given=better)]
    data = report_data(runs)
    assert [run["label"] for run in data["runs"]] == ["demo", "demo 2"]
    first = data["comparisons"][0]
    assert (first["run"], first["reference_run"], first["system"], first["set"]) == ("demo 2", "demo", "level2", "tiny/test")
    assert (first["difference"], first["gained"]) == (0.25, 1)
    assert data["matched"] == [
        {"set": "tiny/test", "run": "demo 2", "reference_run": "demo", "common": 4, "only_run": 0, "only_reference": 0}
    ]


def test_the_tables_are_written_beside_the_page(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    write_report([run], tmp_path / "new" / "page.html", markdown=tmp_path / "study.md")
    page = (tmp_path / "study.md").read_text(encoding="utf-8")
    write_markdown(tmp_path / "again.md", {**report_data([run]), "made": page.split("Made ")[1].split(" by")[0]})
    assert page == (tmp_path / "again.md").read_text(encoding="utf-8")
    assert "| the level2 | 75.0 |" in page
    assert "## Claims" in page


def test_several_runs_need_a_place_for_their_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a file with --out FILE"):
        write_report([Run(tmp_path / "one"), Run(tmp_path / "two")])


def test_a_page_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out names the file to write"):
        write_report([made(tmp_path / "run")], tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run directory"):
        open_runs([Run(tmp_path)])


def test_a_run_without_a_finished_evaluation_names_the_command(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run.path("evaluation") / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"no finished 'evaluation' stage. Run it first: magdi run CONFIG --out"):
        open_runs([run])


def test_an_evaluation_of_an_earlier_student_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run.clear("student") / "weights").write_text("new")
    run.finish("student", {}, ("graphs",), seconds=1.0, facts={})
    with pytest.raises(RunError, match=r"measured before 'student' was made again. Measure anew: magdi evaluate"):
        open_runs([run])


def test_runs_of_different_tasks_are_refused(tmp_path: Path) -> None:
    other = config(task={"name": "gsm8k", "path": "train.jsonl", "test_path": "test.jsonl"})
    runs = [made(tmp_path / "one"), made(tmp_path / "two", settings=other)]
    with pytest.raises(RunError, match="demo is of tiny, demo 2 is of gsm8k"):
        open_runs(runs)


def test_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with pytest.raises(RunError, match="is named twice"):
        open_runs([run, Run(tmp_path / "." / "run")])


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("answers/part.parquet", "no answers of base, level1, level2, whose"),
        ("debates.parquet", "no answers of ada, ben, vote, whose"),
    ],
)
def test_answers_that_are_missing_are_refused_with_the_systems_and_the_command(tmp_path: Path, lost: str, told: str) -> None:
    run = made(tmp_path / "run")
    (run.path("evaluation") / lost).unlink()
    with pytest.raises(RunError, match=rf"{told}.* magdi evaluate CONFIG --out {run.root}"):
        write_report([run])
    assert not (run.root / "report.html").exists()


def test_a_part_of_the_answers_is_not_enough(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    rows = [row for row in said() if row.system in (BASE, "level1", "level2")]
    write_answers(run.path("evaluation") / "answers" / "part.parquet", rows[:-1])
    with pytest.raises(RunError, match="holds not all answers of level2, whose"):
        write_report([run])


@pytest.mark.parametrize("file", ["answers/part.parquet", "debates.parquet", "asked.parquet", "metrics.json"])
def test_a_damaged_file_of_the_evaluation_is_told_in_words(tmp_path: Path, file: str) -> None:
    run = made(tmp_path / "run")
    (run.path("evaluation") / file).write_text("[torn")
    with pytest.raises(RunError, match=r"cannot be read .*magdi evaluate CONFIG --out"):
        write_report([run])


def test_questions_that_cannot_be_read_are_told_in_words(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run.path("questions") / "train.parquet").write_text("torn")
    with pytest.raises(RunError, match=r"questions; they cannot be read .*magdi run CONFIG --out"):
        write_report([run])


@pytest.mark.parametrize("text", [None, "[]"])
def test_figures_that_are_missing_or_none_are_told_in_words(tmp_path: Path, text: str | None) -> None:
    run = made(tmp_path / "run")
    file = run.path("evaluation") / "metrics.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(RunError, match=r"metrics.json cannot be read .*magdi evaluate CONFIG --out"):
        open_runs([run])


@pytest.mark.parametrize("option", ["--out", "--markdown"])
@pytest.mark.parametrize("place", ["/proc/1/x.md", "file/x.md", "/dev/null"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path, option: str, place: str) -> None:
    run = made(tmp_path / "run")
    (tmp_path / "file").write_text("")
    (run.path("evaluation") / "debates.parquet").unlink()
    wanted, free = tmp_path / place, tmp_path / "free"
    page, markdown = (wanted, free) if option == "--out" else (free, wanted)
    with pytest.raises(ConfigError, match=f"{option} .*{place}"):
        write_report([run], page, markdown=markdown)


def test_page_and_tables_are_two_files(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with pytest.raises(ConfigError, match="must be two files"):
        write_report([run], markdown=run.root / "evaluation" / ".." / "report.html")


def test_only_an_earlier_page_is_replaced(tmp_path: Path) -> None:
    run, other = made(tmp_path / "run"), tmp_path / "thesis.html"
    first = write_report([run])
    assert write_report([run]) == first
    other.write_text("<!doctype html><title>years of work</title>")
    with pytest.raises(ConfigError, match=r"thesis.html exists and is none"):
        write_report([run], other)
    assert "years of work" in other.read_text()


def test_only_a_markdown_file_is_replaced_by_the_tables(tmp_path: Path) -> None:
    run, notes = made(tmp_path / "run"), tmp_path / "notes.txt"
    for _ in range(2):
        write_report([run], markdown=tmp_path / "study.md")
    notes.write_text("years of work")
    with pytest.raises(ConfigError, match=r"notes.txt exists and is named otherwise"):
        write_report([run], markdown=notes)
    assert notes.read_text() == "years of work"


def test_a_recipe_is_told_in_words() -> None:
    assert recipe_in_words(RECIPES["level1"]) == "1 x next_token; agents: best; round 0 only"
    chosen = RECIPES["level1"].nodes.model_copy(update={"agents": ("ada", "ben"), "rounds": (0, 2)})
    told = recipe_in_words(RECIPES["level1"].model_copy(update={"nodes": chosen}))
    assert told == "1 x next_token; agents: ada, ben; rounds 0, 2 only"


def test_the_clock_and_the_workers_time_are_told_apart(tmp_path: Path) -> None:
    [run] = report_data([made(tmp_path / "run")])["runs"]
    row = next(row for row in run["cost"] if row["stage"] == "level2, seed 0")
    assert (row["seconds"], row["what"]) == (3.0, "3 steps on 4 graphs, 2 worker seconds (added up over all workers)")

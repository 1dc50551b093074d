"""Figures and log lines of a run: whose they are, what they say, and that nobody looking on changes nothing."""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.agents.budget import Spend
from magdi_ray.debate.books import Books
from magdi_ray.debate.view import Measured, public_name
from magdi_ray.distill.watch.trackers import Prometheus, checkpointed
from magdi_ray.errors import ConfigError
from magdi_ray.evaluate import run as evaluation
from magdi_ray.observe import logs
from magdi_ray.observe.figures import COMMON, FIGURES, table
from magdi_ray.observe.meter import Meter
from magdi_ray.observe.meter import meter as process_meter
from magdi_ray.observe.stages import observed
from magdi_ray.observe.where import VARIABLE, Where, at, handed_on, here, named, settle
from magdi_ray.progress import Progress, console, polled
from tests.distill.test_steplog import FIGURES as STEP
from tests.distill.test_steplog import job_in

ROOT = Path(__file__).parent.parent
MINE = named("mine-3f9c", "debates")


class Kept(Meter):
    """Keeps what it would send: {"debate_failed error=Overloaded": 2.0}, without the common labels."""

    def __init__(self) -> None:
        super().__init__()
        self._repeating = True  # once is enough to read
        self.found: dict[str, float] = {}
        self.whose: set[tuple[str, ...]] = set()

    def _connected(self) -> bool:
        return True

    def _send(self, key: Any, value: float) -> None:
        labels = dict(key[1])
        self.whose.add(tuple(labels.pop(name) for name in COMMON))
        name = " ".join((key[0], *(f"{label}={text}" for label, text in labels.items())))
        self.found[name] = value + (self.found.get(name, 0.0) if FIGURES[key[0]].kind == "counter" else 0.0)


@pytest.fixture
def logging_as(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    level = logging.getLogger("magdi_ray").level

    def start(kind: str) -> None:
        monkeypatch.setenv("MAGDI_LOG", kind)
        logs.set_up()

    yield start
    logs.take_down()
    logging.getLogger("magdi_ray").setLevel(level)


def test_a_run_is_named_by_its_configuration_and_its_id() -> None:
    assert named("my-run-3f9c01ab22e7", "debates") == Where("my-run", "3f9c01ab22e7", "debates")
    assert named("alone") == Where("alone", "", "")
    assert named("my-run-3f9c", "x").full_name == "my-run-3f9c"


def test_what_a_thread_says_goes_before_the_process_and_that_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.observe.where._Process.where", None)
    monkeypatch.setenv(VARIABLE, "told-1")
    assert here() == Where("told", "1")
    settle(MINE)
    assert here() == MINE
    with at(named("other-2", "student")):
        assert here().stage == "student"
        assert handed_on() == {VARIABLE: "other-2"}
    assert here() == MINE


def test_whoever_looks_at_progress_knows_whose_it_is() -> None:
    seen: list[Where] = []
    with at(MINE), polled(Progress("work", None), lambda _: seen.append(here()), every=0.01):
        pass
    assert set(seen) == {MINE}


def test_a_figure_must_be_known_and_have_its_labels() -> None:
    with pytest.raises(KeyError):
        Kept().set("debate_mood", 1)
    with pytest.raises(ValueError, match="has the labels error, found"):
        Kept().set("debate_failed", 1, question="q-17")


def test_a_counter_is_told_totals_and_begins_again_with_what_it_counts() -> None:
    kept = Kept()
    for total in (3, 3, 10, 4):
        kept.total("debate_replies", total, where=MINE)
    assert kept.found == {"debate_replies": 14.0}


def test_outside_ray_figures_are_kept_for_later_and_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    meter, before = Meter(), threading.active_count()
    meter.set("debate_ended", 3, where=MINE)
    meter.total("debate_replies", 3, where=MINE)
    assert "ray" not in sys.modules
    assert threading.active_count() == before
    assert list(meter._gauges.values()) == [3.0]


def test_a_failure_of_rays_metrics_is_said_once_and_ends_no_work(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Kept):
        _connected, _send = Meter._connected, Meter._send

        def _metric(self, name: str) -> Any:
            raise RuntimeError("no agent")

    broken = Broken()
    for _ in range(3):
        broken._send(("debate_ended", ()), 1.0)
    assert broken._failed
    assert not broken._connected()
    assert caplog.messages[0].endswith("RuntimeError: no agent")


def test_a_debate_stage_is_shown_with_its_failures_its_money_and_its_providers() -> None:
    books = Books(debates=10, consensus=4, failed=2, replies=50, reused=20, errors=Counter(Overloaded=2))
    provider = {"under_way": 3, "concurrency": 8, "granted": 60, "rate_limited": 5, "overloaded": 1}
    spend = {"a": Spend(40, 4000, 1000, 0.75), "b": Spend(10, 900, 100, 0.25)}
    state = {"spend": spend, "providers": {"https://u:pw@api.x/v1#KEY": provider}}
    kept = Kept()
    with at(MINE):
        Measured(100, budget_usd=2.0, budget_tokens=100_000, max_failed_share=0.05, meter=kept).tell(books, state)
    assert kept.whose == {("mine", "3f9c", "debates")}
    wanted = {"debate_questions": 100, "debate_ended": 10, "debate_failed error=Overloaded": 2, "debate_replies_reused": 20}
    wanted |= {
        "debate_spent_usd agent=a": 0.75,
        "debate_spent_tokens agent=b direction=in": 900,
        "debate_budget_spent_ratio": 0.5,
    }
    wanted |= {"debate_under_way provider=api.x/v1#KEY": 3, "debate_rate_limited provider=api.x/v1#KEY": 5}
    assert {name: kept.found[name] for name in wanted} == wanted


def test_the_time_of_the_last_debate_stands_still_while_none_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, now = Kept(), iter([100.0, 160.0])
    monkeypatch.setattr("magdi_ray.debate.view.time.time", lambda: next(now))
    measured, state = Measured(10, meter=kept), {"spend": {}, "providers": {}}
    seen = []
    for debates in (0, 0, 4, 4):
        measured.tell(Books(debates=debates), state)
        seen.append(kept.found["debate_last_ended_timestamp_seconds"])
    assert seen == [100.0, 100.0, 160.0, 160.0]


def test_a_providers_name_shows_no_password() -> None:
    assert public_name("https://me:secret@api.example.com/v1/#OPENAI_API_KEY") == "api.example.com/v1#OPENAI_API_KEY"
    assert public_name("http://localhost:8000#") == "localhost:8000"


def test_a_training_is_shown_step_by_step_with_its_losses_and_measurements(tmp_path: Path) -> None:
    kept, job = Kept(), job_in(tmp_path)
    tracker = Prometheus(job, start=40, total=200, meter=kept)
    tracker.log(40, {**STEP, "tokens_per_second": 5.0, "grad_norm/next_token": 0.1})
    tracker.log(40, {"dev/loss": 2.5, "dev/accuracy": 0.25, "dev/seconds": 1.0})
    checkpointed(job, 41, meter=kept)
    assert kept.whose == {("demo", "1", "distil")}
    wanted = {"distil_started_at_step": 40, "distil_planned_steps": 200, "distil_steps": 41, "distil_tokens_per_second": 5.0}
    wanted |= {"distil_dev_loss": 2.5, "distil_dev_accuracy": 0.25, "distil_checkpoint_step": 41}
    assert {name: kept.found[f"{name} training=level4"] for name in wanted} == wanted
    terms = {name.partition("term=")[2] for name in kept.found if name.startswith("distil_loss")}
    assert terms == {"all", "next_token"}


def test_an_evaluation_is_shown_system_by_system() -> None:
    kept = Kept()
    evaluation.Measured(30, meter=kept).tell(Counter(base=9, vote=10), Counter(vote=1))
    assert kept.found["evaluation_planned"] == 30
    assert kept.found["evaluation_answered system=base"] == 9
    assert kept.found["evaluation_failed system=base"] == 0
    assert kept.found["evaluation_failed system=vote"] == 1


@pytest.mark.parametrize(("error", "state"), [(None, "finished"), (ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_a_stage_ends_in_one_state(error: type[BaseException] | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr("magdi_ray.observe.stages.meter", kept)
    with pytest.raises(error) if error else nullcontext(), observed("mine-3f9c", "graphs") as tell:
        tell({"graphs": 7, "source": "debates", "whole": True})
        if error is not None:
            raise error
    states = {name.partition("state=")[2]: value for name, value in kept.found.items() if name.startswith("stage_state")}
    assert states == {"running": 0, "finished": 0, "failed": 0, "stopped": 0} | {state: 1}
    assert [name for name in kept.found if name.startswith("stage_count")] == ["stage_count what=graphs"]


def test_a_line_of_text_says_whose_it_is(logging_as: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logging_as("text")
    with at(MINE):
        logging.getLogger("magdi_ray.debate").warning("The store is %s.", "full")
        logging.getLogger("magdi_ray.debate").info("Shown as progress.")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING magdi_ray.debate [mine-3f9c debates] The store is full.")


def test_a_line_of_json_is_one_line_with_run_stage_and_traceback(logging_as: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logging_as("json")
    with at(MINE):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("magdi_ray.debate").exception('said "no"')
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["run"], found["run_id"], found["stage"], found["level"]) == ("mine", "3f9c", "debates", "ERROR")
    assert found["message"] == 'said "no"'
    assert found["exception"].endswith("ValueError: two\nlines")


def test_a_format_that_ray_gives_to_our_handler_changes_nothing(logging_as: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logging_as("json")
    for handler in logging.getLogger("ray").handlers:
        handler.setFormatter(logging.Formatter("of Ray: %(message)s"))
    logging.getLogger("ray").error("gone")
    assert json.loads(capsys.readouterr().err)["message"] == "gone"


def test_what_people_are_shown_is_json_too_where_lines_are_collected(logging_as: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logging_as("json")
    console.print("[green]✓[/] graphs: " + "7 graphs, " * 20)
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"].startswith("✓ graphs: 7 graphs")


def test_a_misspelt_format_is_refused_before_anything_starts(logging_as: Any) -> None:
    with pytest.raises(ConfigError, match="must be one of text, json, found 'jsno'"):
        logging_as("jsno")


def test_set_up_twice_says_everything_once(logging_as: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logging_as("json")
    logging_as("text")
    logging.getLogger("magdi_ray.debate").warning("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_metrics_table_of_the_documentation_is_the_registry() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    shown = [line.split("|")[1:5] for line in text.splitlines() if line.startswith("| `ray_magdi_")]
    listed = [[f" {cell} " for cell in (f"`{name}`", *cells)] for name, *cells in table()]
    assert shown == listed


@pytest.mark.cluster
def test_figures_are_found_at_the_nodes_metrics_port_and_stay_there(ray_cluster: None) -> None:
    import time

    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    process_meter.set("debate_ended", 41, where=MINE)
    process_meter.total("debate_replies", 205, where=MINE)
    wanted = ("ray_magdi_debate_ended{", "ray_magdi_debate_replies_total{")

    def found() -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return [line for line in lines if line.startswith(wanted) and 'run="mine",run_id="3f9c",stage="debates"' in line]

    deadline = time.monotonic() + 60
    while len(found()) < 2:
        assert time.monotonic() < deadline
        time.sleep(1)
    time.sleep(25)  # longer than Ray keeps a gauge that is not set again
    assert sorted(float(line.split()[-1]) for line in found()) == [41.0, 205.0]


@pytest.mark.cluster
def test_a_worker_logs_json_alone_with_its_node(ray_cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"MAGDI_LOG": "json"}})
    def work() -> str:
        import io
        from contextlib import redirect_stderr

        with redirect_stderr(io.StringIO()) as told:
            logging.getLogger().addHandler(logging.StreamHandler())  # as Ray Train does
            logs.begin_work("mine-3f9c", "distil")
            logging.getLogger("magdi_ray.agents").info("ready")
        return told.getvalue()

    line = json.loads(ray.get(work.remote()))
    assert (line["run"], line["run_id"], line["stage"], line["message"]) == ("mine", "3f9c", "distil", "ready")
    assert line["node_id"] == ray.nodes()[0]["NodeID"]

"""The debate stage as people run it, against a server that counts: killed, with faults, on a budget, without showing keys."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.openai_server import running_server
from magdi_ray import cli
from magdi_ray.config import load_config
from magdi_ray.debate.store import read_debates
from magdi_ray.debate.transcript import Debate
from magdi_ray.errors import EngineError, RunError
from magdi_ray.pipeline import run_pipeline
from magdi_ray.runs import Run
from tests.debates_at_scale import KEY, configuration, kill_family, magdi

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
QUESTIONS, CONCURRENCY = 300, 24
OPEN: dict[str, Any] = {"limits": {"concurrency": CONCURRENCY}, "api_key_env": None}


def debates_of(run: Path) -> dict[str, Debate]:
    debates = list(read_debates(run / "debates"))
    found = {debate.question.id: debate for debate in debates}
    assert len(found) == len(debates), "a question was debated twice"
    return found


def hold(config: Path, run: Path, *overrides: str) -> None:
    """`magdi debate`, in this process and on the tests' own Ray."""
    run_pipeline(load_config(config, overrides), Run(run), until="debates")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(ray_cluster: None, tmp_path: Path) -> None:
    with running_server(latency=0.1, jitter=0.5) as server:
        config = configuration(tmp_path, server.url, questions=QUESTIONS, engine=OPEN, workers=2)
        hold(config, tmp_path / "undisturbed")
        calls = server.stats()["received"]
    with running_server(latency=0.1, jitter=0.5) as server:
        config = configuration(tmp_path, server.url, questions=QUESTIONS, engine=OPEN, workers=2)
        first = magdi("debate", str(config), "--out", str(tmp_path / "run"))
        wait_until(lambda: server.stats()["received"] >= calls // 2)
        os.kill(server.process.pid, signal.SIGSTOP)  # it gives no more answers: what is in flight now stays in flight
        kill_family(first)
        os.kill(server.process.pid, signal.SIGCONT)
        received = server.stats()["received"]
        assert calls * 0.45 < received < calls * 0.9
        hold(config, tmp_path / "run")
        assert calls <= server.stats()["received"] <= calls + CONCURRENCY
    found, undisturbed = debates_of(tmp_path / "run"), debates_of(tmp_path / "undisturbed")
    assert set(found) == {f"q{number}" for number in range(QUESTIONS)}
    assert found == undisturbed


def processes_of_a_stage() -> list[str]:
    """What is alive of a debate stage: its ledger, its limiter, its workers."""
    titles = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            titles.append(" ".join(child.cmdline()))
    return [title for title in titles if title.startswith(("ray::Ledger", "ray::Limiter")) or "DebateOperator" in title]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Cycles of references are not looked for: what they hold stays."""
    gc.disable()
    yield
    gc.enable()


def test_a_stage_leaves_no_process_behind_in_a_driver_that_goes_on(ray_cluster: None, no_collector: None, tmp_path: Path) -> None:
    with running_server(fault_401=0.5) as server:
        config = configuration(tmp_path, server.url, questions=8, engine=OPEN)
        hold(config, tmp_path / "run", "debate.max_failed_share=1.0")
        wait_until(lambda: not processes_of_a_stage())
        with pytest.raises(EngineError) as kept:  # the error keeps the frames of all who were called
            hold(config, tmp_path / "failed", "debate.max_failed_share=0.0")
        wait_until(lambda: not processes_of_a_stage())
    assert kept.traceback


RPM = 2400
FAULTS = {
    "fault_429": 0.05,
    "fault_500": 0.03,
    "fault_hang": 0.02,
    "fault_malformed": 0.02,
    "fault_empty": 0.01,
    "fault_reset": 0.01,
}


@pytest.fixture(scope="module")
def faulty(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with four workers against a server with all kinds of faults, some of them lasting; and the server's counts."""
    folder = tmp_path_factory.mktemp("faulty")
    engine = {"limits": {"rpm": RPM, "concurrency": 48}, "timeout_s": 2.0, "max_attempts": 4, "api_key_env": None}
    with running_server(latency=0.05, permanent=0.005, retry_after=0.5, **FAULTS) as server:
        config = configuration(folder, server.url, questions=160, engine=engine, workers=4, max_failed_share=0.2)
        hold(config, folder / "run")
        return folder / "run", server.stats(arrivals=True)


def test_every_question_ends_as_a_debate_or_as_a_row_with_its_error(faulty: tuple[Path, dict[str, Any]]) -> None:
    run, stats = faulty
    debates, facts = debates_of(run), Run(run).require("debates").facts
    failed = [debate for debate in debates.values() if debate.error is not None]
    assert set(debates) == {f"q{number}" for number in range(160)}
    assert {"429", "500", "hang", "malformed", "empty", "reset"} <= set(stats["faults"])
    assert facts["failed"] == len(failed) > 0
    assert facts["errors"] == Counter(str(debate.error).partition(":")[0] for debate in failed)
    assert facts["debates"] == 160
    assert facts["replies"] == sum(len(debate.turns) for debate in debates.values())


def test_concurrency_falls_under_faults_and_recovers(faulty: tuple[Path, dict[str, Any]]) -> None:
    (provider,) = Run(faulty[0]).require("debates").facts["providers"].values()
    assert provider["rate_limited"] > 0
    assert provider["lowest"] < 48
    assert provider["highest after lowest"] > provider["lowest"]


def test_four_workers_together_never_send_more_than_the_limit_in_any_ten_seconds(faulty: tuple[Path, dict[str, Any]]) -> None:
    arrivals = sorted(faulty[1]["arrivals"])
    busiest = max(bisect_right(arrivals, start + 10.0) - place for place, start in enumerate(arrivals))
    assert busiest <= RPM // 6


def replies_kept(run: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (run / "replies").glob("*.jsonl"))


def test_an_engine_replica_that_is_killed_loses_no_question(ray_cluster: None, tmp_path: Path) -> None:
    questions, kept, run = 80, 60, tmp_path / "run"
    sets = [f"task.train={questions}", "task.test=0", "evaluate.splits=[train]"]
    sets += [f"debate.agents.{seat}.engine.max_batch_size=8" for seat in range(3)]  # replies come a few at a time
    with ThreadPoolExecutor() as pool:
        debate = pool.submit(hold, ROOT / "configs" / "tiny.yaml", run, *sets)
        wait_until(lambda: replies_kept(run) >= kept or debate.done())
        family = psutil.Process().children(recursive=True)
        next(member for member in family if "ServeReplica:debate" in " ".join(member.cmdline())).kill()
        assert replies_kept(run) < 3 * questions  # in the middle of it: every question is put to three agents at the least
        debate.result()
    facts = Run(run).require("debates").facts
    assert (facts["debates"], facts["failed"]) == (questions, 0)
    assert len(debates_of(run)) == questions


def test_a_budget_stops_the_run_and_raising_it_goes_on(ray_cluster: None, tmp_path: Path) -> None:
    with running_server(latency=0.02) as server:
        engine = {"price": {"input": 100.0, "output": 100.0}, "limits": {"concurrency": 8}, "api_key_env": None}
        config = configuration(tmp_path, server.url, questions=60, engine=engine)
        with pytest.raises(RunError, match=r"budget(.|\n)*raise debate\.budget_usd(.|\n)*nothing is paid for twice"):
            hold(config, tmp_path / "run", "debate.budget_usd=8")
        stats = server.stats()
        assert 4.0 < (stats["tokens_in"] + stats["tokens_out"]) * 100e-6 <= 8.0
        hold(config, tmp_path / "run")
        assert server.stats()["received"] == server.stats()["distinct"] > stats["received"]
    facts = Run(tmp_path / "run").require("debates").facts
    assert facts["replies already in the store"] == stats["received"]


def test_what_failed_calls_cost_counts_in_the_next_attempt_too(ray_cluster: None, tmp_path: Path) -> None:
    with running_server(fault_empty=1.0) as server:
        engine = {"price": {"input": 100.0, "output": 100.0}, "max_attempts": 2, "api_key_env": None}
        config = configuration(tmp_path, server.url, questions=3, engine=engine, max_failed_share=0.0)
        for _ in range(2):
            with pytest.raises(EngineError, match="Empty"):
                hold(config, tmp_path / "run")
        stats = server.stats()
    wasted = json.loads((tmp_path / "run/failed-calls.json").read_text()).values()
    assert sum(row["calls"] for row in wasted) == stats["received"]
    assert sum(row["tokens_in"] for row in wasted) == stats["tokens_in"] > 0


def test_a_stage_in_which_all_fails_stops_early_and_says_why(ray_cluster: None, tmp_path: Path) -> None:
    with running_server(fault_401=1.0) as server:
        engine = {"limits": {"concurrency": 8}, "api_key_env": None}
        config = configuration(tmp_path, server.url, questions=2000, engine=engine, max_in_flight=64)
        with pytest.raises(EngineError, match=r"max_failed_share(.|\n)*Unauthorised(.|\n)*not held any more"):
            hold(config, tmp_path / "run")
        assert server.stats()["received"] < 2000


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets live in it."""
    folder = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_keys_are_nowhere_in_the_run_directory_nor_in_logs_nor_in_errors(short: Path) -> None:
    with running_server(fault_401=0.3, fault_400=0.1) as server:
        config = configuration(short, server.url, questions=30, engine={}, max_failed_share=0.0)
        said = magdi("debate", str(config), "--out", str(short / "run"), log=short / "said.log", RAY_TMPDIR=str(short / "ray"))
        assert said.wait(timeout=120) == 2
        assert server.stats()["keys_seen"] == 1  # it was sent
    assert "Unauthorised" in (short / "said.log").read_text()
    files = [path for path in short.rglob("*") if path.is_file()]
    assert any("session" in str(path) for path in files)
    assert [str(path) for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_plan_comes_within_15_percent_of_the_run(
    ray_cluster: None, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = data_dir / "debates/du_gsm/gsm_3_2_100.json"
    asked = set(json.loads(recording.read_text()))
    rows = [line for line in (data_dir / "gsm8k/test.jsonl").read_text().splitlines() if json.loads(line)["question"] in asked]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(rows) + "\n")
    sets = [f"task.path={questions}", "task.limit=null", "task.test_path=null", "evaluate.splits=[train]", "debate.workers=1"]
    with running_server(mode="recorded", recording=recording) as server:
        for seat in range(3):
            engine = f"debate.agents.{seat}.engine"
            sets += [f"{engine}.model=agent-{seat}", f"{engine}.base_url={server.url}", f"{engine}.api_key_env=null"]
            sets += [f"{engine}.limits.rpm=null"]  # a test should not wait for them
        config = ROOT / "configs" / "gsm8k-api.yaml"
        with pytest.raises(SystemExit) as ended:
            cli.main(["plan", str(config), "--json", *(part for item in sets for part in ("--set", item))])
        assert ended.value.code == 0
        hold(config, tmp_path / "run", *sets)
        stats = server.stats()
    planned = json.loads(capsys.readouterr().out.splitlines()[-1])
    tokens = stats["tokens_in"] + stats["tokens_out"]
    assert planned["calls"] == pytest.approx(stats["received"], rel=0.15)
    assert planned["tokens_in"] + planned["tokens_out"] == pytest.approx(tokens, rel=0.15)

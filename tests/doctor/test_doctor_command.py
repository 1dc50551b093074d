"""The command: one line a check by topic, exit code 1 where one failed, no key in it, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from magdi_ray.cli.doctor import doctor, summary
from magdi_ray.cluster import free_ports
from magdi_ray.doctor.check import failed, ok, warning

ROOT = Path(__file__).parents[2]
KEY = "sk-secret-0123456789"


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("doctor") / "run"
    result = run(str(ROOT / "configs" / "tiny.yaml"), "--out", str(out), "--json")
    assert not out.exists()
    return result


def test_a_machine_that_can_run_the_bundled_world_is_told_so(tiny: Result) -> None:
    found = json.loads(tiny.stdout)
    assert {one["state"] for one in found if one["topic"] in ("endpoints", "storage", "run")} == {"ok"}
    assert "failed" not in {one["state"] for one in found if one["topic"] == "packages"}
    assert {one["topic"] for one in found} == {"packages", "machine", "ray", "endpoints", "storage", "run"}
    assert tiny.exit_code == int(any(one["state"] == "failed" for one in found))


def test_findings_come_topic_by_topic_with_what_to_do_where_something_is_amiss(tiny: Result) -> None:
    found = json.loads(tiny.stdout)
    topics = [one["topic"] for one in found]
    assert topics == sorted(topics, key=["packages", "machine", "ray", "endpoints", "storage", "run"].index)
    assert all(one["todo"] for one in found if one["state"] != "ok" and one["topic"] != "run")


def test_a_broken_run_is_told_line_by_line_and_exits_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    (tmp_path / "file").write_text("x")
    closed = f"http://127.0.0.1:{free_ports(1)[0]}/v1"
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.setenv(f"{name}_BASE_URL", closed)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    result = run(str(ROOT / "configs" / "gsm8k-api.yaml"), "--out", str(tmp_path / "file" / "run"))
    assert result.exit_code == 1
    said = result.stdout
    for part in ("ANTHROPIC_API_KEY is not set", "nobody listens there", "HF_HUB_OFFLINE forbids", "is a file", "failed,"):
        assert part in said
    assert KEY not in said


def test_a_configuration_that_is_wrong_is_a_finding_and_the_machine_is_still_looked_at(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\ntask: {name: tinny}\n")
    result = run(str(tmp_path / "bad.yaml"), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    (amiss,) = [one for one in found if one["topic"] == "run"]
    assert (amiss["state"], "tinny" in amiss["found"]) == ("failed", True)
    assert {"packages", "machine", "ray"} <= {one["topic"] for one in found}


def test_what_the_run_s_own_check_finds_is_said_once(tmp_path: Path) -> None:
    agent = '{name: ada, engine: {type: recorded, path: "/nowhere.jsonl"}}'
    result = run(str(ROOT / "configs" / "tiny.yaml"), "--set", f"debate.agents=[{agent}]", "--out", str(tmp_path), "--json")
    told = [one for one in json.loads(result.stdout) if "/nowhere.jsonl" in one["found"]]
    assert [(one["topic"], one["state"]) for one in told] == [("endpoints", "failed")]


def test_the_last_line_counts() -> None:
    bad, doubtful, good = failed("a", "", ""), warning("b", "", ""), ok("c", "")
    assert summary([bad, bad, doubtful, *[good] * 31]) == "2 failed, 1 warning, 31 ok"
    assert summary([good]) == "1 ok"

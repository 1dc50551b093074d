"""`magdi submit` before anything is uploaded: what is refused, and what a job is made of."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from magdi_ray.cli.commands import app
from magdi_ray.errors import ConfigError
from magdi_ray.submitting import Told, connect, exit_code, follow, forwarded, prepare, shared_place, unique_name

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "configs" / "tiny.yaml"
REMOTE, HERE = "http://head.example:8265", "http://127.0.0.1:8265"


def job(**more: Any) -> Any:
    given = {"address": REMOTE, "out": "s3://bucket/run", "working_dir": ROOT, "environment": {}}
    return prepare(TINY, **(given | more))


def test_the_job_runs_the_same_configuration_in_the_uploaded_copy() -> None:
    words = shlex.split(job(stage="distil", overrides=["task.train=48", "distil.train.adam_betas=[0.9, 0.95]"]).entrypoint)
    assert words[:5] == ["python", "-m", "magdi_ray.cli.job", "distill", "configs/tiny.yaml"]
    assert words[5:] == ["--out", "s3://bucket/run", "--set", "task.train=48", "--set", "distil.train.adam_betas=[0.9, 0.95]"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (None, "--out is missing"),
        ("runs/first", "relative path"),
        ("~/runs/first", "relative path"),
        ("memory://run", "another one on each"),
        ("file:///shared/run", "another one on each"),
        ("/tmp/run", "every machine has such a directory"),
        ("/dev/shm/run", "every machine has such a directory"),
    ],
)
def test_a_run_directory_that_the_nodes_do_not_share_is_refused(out: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        job(out=out)
    assert "s3://" in str(refused.value)


@pytest.mark.parametrize("out", ["s3://bucket/run", "gs://bucket/run", "/shared/run"])
def test_a_bucket_and_a_directory_that_may_be_shared_are_taken(out: str) -> None:
    assert shared_place(out, REMOTE) == out


@pytest.mark.parametrize("address", [HERE, "http://localhost:8265", "http://[::1]:8265"])
def test_a_temporary_directory_will_do_for_a_cluster_on_this_machine(address: str) -> None:
    assert shared_place("/tmp/run", address) == "/tmp/run"


def test_a_configuration_with_a_mistake_is_refused_with_its_field() -> None:
    with pytest.raises(ConfigError, match=r"distil\.train\.max_stepz"):
        job(overrides=["distil.train.max_stepz=3"])


def test_a_configuration_outside_of_what_is_uploaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--working-dir {TINY.parent}"):
        job(working_dir=tmp_path)
    with pytest.raises(ConfigError, match="there is none"):
        job(working_dir=tmp_path / "nowhere")


def test_only_named_variables_go_along() -> None:
    made = job(env=["HF_HOME"], environment={"HF_HOME": "/shared/hf", "OPENAI_API_KEY": "sk-1", "USER": "ada"})
    assert made.env == {"RAY_JOB_STOP_WAIT_TIME_S": "30", "HF_HOME": "/shared/hf"}
    assert "/shared/hf" not in repr(made)


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "HF_TOKEN", "hf_token", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "APIKEY", "RAY_AUTH_TOKEN"]
)
def test_a_variable_named_like_a_secret_is_refused_until_it_is_insisted_on(name: str) -> None:
    with pytest.raises(ConfigError, match="dashboard") as refused:
        forwarded([name], {name: "hush-1234"}, insecure=False)
    assert "hush" not in str(refused.value)
    assert forwarded([name], {name: "hush-1234"}, insecure=True) == {name: "hush-1234"}


@pytest.mark.parametrize("name", ["HF_HOME", "MAGDI_DATA", "KEYBOARD", "PATH", "TOKENIZERS_PARALLELISM", "MONKEY_BUSINESS"])
def test_other_variables_are_no_secrets(name: str) -> None:
    assert forwarded([name], {name: "1"}, insecure=False) == {name: "1"}


def test_a_value_on_the_command_line_is_not_repeated_and_an_unset_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes the name of a variable") as refused:
        forwarded(["OPENAI_API_KEY=sk-1234"], {}, insecure=True)
    assert "sk-1234" not in str(refused.value)
    with pytest.raises(ConfigError, match="not set here"):
        forwarded(["HF_HOME"], {}, insecure=False)


def test_variables_that_the_configuration_takes_and_that_stay_here_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_NAME", "mine")
    config = tmp_path / "run.yaml"
    config.write_text(TINY.read_text().replace("name: tiny\n", "name: ${RUN_NAME}\n").replace(": cosine", ": ${CURVE:-cosine}"))
    given: dict[str, Any] = {
        "address": REMOTE,
        "out": "/shared/run",
        "working_dir": tmp_path,
        "environment": {"RUN_NAME": "mine"},
    }
    assert prepare(config, **given).missing == ("RUN_NAME",)
    assert prepare(config, **given, env=["RUN_NAME"]).missing == ()


def test_the_keys_that_the_nodes_need_are_told() -> None:
    given: dict[str, Any] = {"address": REMOTE, "out": "/shared/run", "working_dir": ROOT, "environment": {}}
    assert set(prepare(ROOT / "configs" / "gsm8k-api.yaml", **given).missing) >= {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"}


def test_submissions_of_one_run_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.submitting.time.time", lambda: 1769851800.4815)
    assert unique_name("tiny") == "tiny-20260131-093000-481"


@pytest.mark.parametrize("label", ["market", "=spot", "market="])
def test_a_label_has_a_key_and_a_value(label: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        job(labels=[label])
    assert job(labels=["market=spot"]).labels == {"market": "spot"}


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "auto"])
def test_jobs_go_to_the_dashboard_and_nowhere_else(address: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:8265"):
        connect(address)


@pytest.mark.parametrize(
    ("status", "own", "code"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 130), ("FAILED", 2, 2), ("FAILED", 130, 130), ("FAILED", None, 1), ("FAILED", -9, 1)],
)
def test_the_exit_code_is_the_jobs(status: str, own: int | None, code: int) -> None:
    details: Any = SimpleNamespace(status=SimpleNamespace(value=status), driver_exit_code=own)
    assert exit_code(details) == code


def test_a_log_is_shown_once_however_often_the_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.submitting.LOOK_S", 0)
    client: Any = Breaking("one\ntwo\nthree\nfour\n")
    shown: list[str] = []
    assert follow(client, "job", write=shown.append).driver_exit_code == 0
    assert "".join(shown) == client.text
    assert client.connections == 3


def test_pieces_of_a_log_are_told_from_where_they_stopped() -> None:
    shown: list[str] = []
    told = Told(shown.append)
    told.hear("ab")
    told.read = 0
    told.hear("a")
    told.hear("bcd")
    told.hear("abcde", whole=True)
    assert shown == ["ab", "cd", "e"]


def test_submit_is_a_command() -> None:
    assert "submit" in {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


class Breaking:
    """A cluster's job client whose connections end early: with an error, without one, and then with the job."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.connections = 0

    async def tail_job_logs(self, name: str) -> Any:
        self.connections += 1
        for line in self.text.splitlines(keepends=True)[: self.connections + 1]:
            yield line
        if self.connections == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, name: str) -> Any:
        status = SimpleNamespace(value="SUCCEEDED", is_terminal=lambda: self.connections == 3)
        return SimpleNamespace(status=status, driver_exit_code=0)

    def get_job_logs(self, name: str) -> str:
        return self.text

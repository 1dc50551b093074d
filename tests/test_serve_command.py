"""What `magdi serve` is asked to serve: a run, or a model directory; everything wrong is said before Ray starts."""

from __future__ import annotations

import shlex
import socket
import tempfile
from pathlib import Path

import pytest
import yaml

from magdi_ray.agents.weights import resolve_model
from magdi_ray.cluster import socket_directory
from magdi_ray.config.load import parse_section
from magdi_ray.config.serving import StudentArgs
from magdi_ray.endpoint import example_call, from_model, serve_path
from magdi_ray.errors import ConfigError, MagdiError, RunError
from magdi_ray.serving.app import build, check_files

STUDENT = Path(resolve_model("pkg://magdi_ray/tiny/models/student"))
SERVE = Path(__file__).parent.parent / "serve"


def test_a_model_directory_is_served_under_its_own_name() -> None:
    served = from_model(STUDENT, task="tiny", overrides=["serve.replicas=[0,2]", "serve.port=9000"])
    assert (served.args.model_name, served.args.task, served.args.replicas) == ("student", "tiny", (0, 2))
    assert served.config.port == 9000
    assert served.args.run is None


@pytest.mark.parametrize(
    ("task", "override", "told"),
    [
        ("tinyy", "serve.port=1", "did you mean 'tiny'"),
        (None, "serve.replica=[1,2]", "replicas"),
        (None, "serve.replicas=[2,1]", "min <= max"),
        (None, "evaluate.samples=2", "begins with `serve.`"),
        (None, "serve.escalate=true", "serve the run directory"),
        (None, "serve.engine_kwargs={seed: 1}", "engine: vllm"),
        (None, "serve.api_keys_env=sk-magdi-secret", "never a key itself"),
    ],
)
def test_what_cannot_be_served_so_is_told(task: str | None, override: str, told: str) -> None:
    with pytest.raises(MagdiError, match=told) as error:
        from_model(STUDENT, task=task, overrides=[override])
    assert "sk-magdi" not in str(error.value)


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", "Address already in use"), ("192.0.2.77", "listen at 192.0.2.77")])
def test_an_address_that_nobody_can_listen_at_is_told_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, host: str, told: str
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("magdi_ray.endpoint.ray_session", started)
    monkeypatch.setattr("magdi_ray.endpoint.serve_over_http", started)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        overrides = [f"serve.host={host}", f"serve.port={taken.getsockname()[1]}"]
        with pytest.raises(ConfigError, match=told):
            serve_path(str(STUDENT), student=None, task="tiny", overrides=overrides)


def test_sockets_of_the_proxy_have_short_paths_wherever_temporary_files_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with tempfile.TemporaryDirectory(prefix="magdi-serve-", dir=socket_directory()) as made:
        assert len(f"{made}/{'a' * 56}/metrics.sock") <= 97
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert socket_directory() == "/tmp"


def test_a_directory_that_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run directory"):
        serve_path(str(tmp_path), student=None, task=None, overrides=[])


def test_options_of_the_other_kind_of_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a run has its own task"):
        serve_path(str(tmp_path), student=None, task="tiny", overrides=[])
    with pytest.raises(ConfigError, match="a recipe of a run"):
        serve_path(str(STUDENT), student="level1", task=None, overrides=[])


def test_the_example_call_is_one_a_shell_takes() -> None:
    served = from_model(STUDENT, overrides=[f"serve.api_keys_file={STUDENT}/config.json"])
    words = shlex.split(example_call(served, "http://x"))
    assert words[:2] == ["curl", "http://x/v1/chat/completions"]
    assert "Authorization: Bearer $KEY" in words


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "/nowhere/student"}, "No model directory"),
        ({"adapters": {"short": str(STUDENT)}}, "no PEFT adapter"),
        ({"task": "tinyy"}, "did you mean 'tiny'"),
        ({"api_keys_file": "/nowhere/keys.yaml"}, "a readable file of API keys is required"),
        ({"model_name": "a:b"}, "model_name"),
        ({"escalate": True}, "escalate needs debate, task, escalations"),
        ({"replica": 3}, "replicas"),
    ],
)
def test_a_config_files_arguments_are_checked_before_anything_starts(changed: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build({"model": str(STUDENT), "model_name": "student", **changed})


@pytest.mark.parametrize("file", sorted(SERVE.glob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_config_file_asks_for_this_application(file: Path) -> None:
    [application] = yaml.safe_load(file.read_text())["applications"]
    assert application["import_path"] == "magdi_ray.serving.app:build"
    args = parse_section(application["args"], file.name, StudentArgs)
    with pytest.raises(ConfigError, match="No model directory at '/runs"):  # the arguments are right, the run is not here
        check_files(args)

"""Keys are named by their variable, read where they are used, and are found in no file, argument, error or upload."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.cli import main
from magdi_ray.config.load import dump_config, load_config
from magdi_ray.errors import ConfigError
from magdi_ray.runs import Run
from magdi_ray.submitting import SECRET_FILES, Submission, submit

ROOT = Path(__file__).parent.parent.parent
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
KEPT = ("run.yaml", "data/train.jsonl", "data/key.json", "magdi_ray/agents/keys.py", "tokens.txt", "monkey.keys.txt")
SECRET = (
    *(".env", ".env.local", "sub/.env", "server.pem", "deep/er/tls.key", "id_rsa", "id_ed25519", ".aws/credentials", ".netrc"),
    *("home/.ssh/config", "service-account-prod.json", ".kube/config", "auth_token", ".git-credentials", "x.p12"),
)


def test_what_usually_holds_secrets_is_not_uploaded(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    for name in (*KEPT, *SECRET):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text(KEY)
    given: dict[str, Any] = {}

    class Client:
        def submit_job(self, **job: Any) -> None:
            given.update(job["runtime_env"])

    submit(Client(), Submission("a", "true", tmp_path / "work", {}, 0.0, {}, ()))  # type: ignore[arg-type]
    assert given["excludes"] == list(SECRET_FILES)
    create_package(given["working_dir"], tmp_path / "sent.zip", include_gitignore=True, excludes=given["excludes"])
    sent = {name for name in zipfile.ZipFile(tmp_path / "sent.zip").namelist() if not name.endswith("/")}
    assert {name.split("/", 1)[1] if name.startswith("work/") else name for name in sent} == set(KEPT)


def written(tmp_path: Path, **engine: Any) -> Path:
    agent = {"name": "ada", "engine": {"type": "api", "model": "m", **engine}}
    config = {"name": "mine", "task": {"name": "tiny"}, "debate": {"protocol": {"name": "single"}, "agents": [agent]}}
    config["distil"] = {
        "student": {"model": "pkg://magdi_ray/tiny/models/student"},
        "recipe": "level1",
        "train": {"max_steps": 1},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("field", ["api_key_env", "base_url"])
def test_a_key_pasted_into_a_configuration_is_refused_and_not_repeated(tmp_path: Path, field: str, capsys: Any) -> None:
    value = KEY if field == "api_key_env" else f"https://user:{KEY}@api.example/v1"
    with pytest.raises(ConfigError, match=field) as caught:
        load_config(written(tmp_path, **{field: value}))
    assert KEY not in str(caught.value)
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "run.yaml")])
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err


def test_a_run_keeps_the_name_of_a_key_s_variable_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    config = load_config(written(tmp_path, api_key_env="THE_KEY"))
    with caplog.at_level(logging.DEBUG):
        run = Run(tmp_path / "run")
        run.prepare(config, "if_possible")
        run.clear("questions")
        run.finish("questions", config, (), seconds=1.0, facts={})
        run.unlock()
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {"config.yaml", "manifest.json"} <= set(texts)
    assert "THE_KEY" in texts["config.yaml"]
    assert KEY not in "".join(texts.values()) + caplog.text + dump_config(config) + repr(config)


def test_no_command_takes_a_key_as_an_argument(capsys: Any) -> None:
    for verb in (["keys", "hash"], ["keys", "new"], ["serve"], ["submit"], ["evaluate"]):
        with pytest.raises(SystemExit):
            main([*verb, "--help"])
        assert "--api-key" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["keys", "hash", KEY])  # `ps` would show it to everybody


def test_no_file_of_the_repository_holds_anything_like_a_key() -> None:
    looks = re.compile(
        r"sk-(?:proj|ant|live)-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}"
    )
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode().split("\0")
    names = [name for name in listed if name] or pytest.skip("no checkout")
    found = [n for n in names if (ROOT / n).is_file() and looks.search((ROOT / n).read_bytes().decode(errors="replace"))]
    assert [name for name in found if not name.startswith("tests/")] == []

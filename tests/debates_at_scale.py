"""What the tests of debates at scale share: questions, a configuration for a test server, and `magdi` in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

KEY = "sk-test-2f6b8c1d-never-to-be-seen"


def write_questions(path: Path, count: int) -> Path:
    """Made-up word problems, a JSON object a line."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row = {
                "id": f"q{number}",
                "question": f"How many are {number} apples and {number % 7} pears?",
                "answer": f"#### {number}",
            }
            stream.write(json.dumps(row) + "\n")
    return path


def configuration(folder: Path, url: str, *, questions: int, engine: Mapping[str, Any], **debate: Any) -> Path:
    """A run of three agents of one provider, asked through `url`."""
    agents = [
        {
            "name": f"agent{seat}",
            "engine": {"type": "api", "base_url": url, "model": f"agent-{seat}", "api_key_env": "MAGDI_TEST_KEY", **engine},
            "sampling": {"max_tokens": 400},
        }
        for seat in range(3)
    ]
    config = {
        "name": "scale",
        "task": {"name": "gsm8k", "path": str(write_questions(folder / "questions.jsonl", questions))},
        "debate": {"protocol": {"name": "reconcile", "rounds": 2}, "agents": agents, **debate},
        "distil": {"student": {"model": "pkg://magdi_ray/tiny/models/student"}, "recipe": "level2", "train": {"epochs": 1}},
        "evaluate": {"splits": ["train"]},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def magdi(*arguments: str, log: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """`magdi` in a process of its own; what it prints goes to a file."""
    out = (log or Path(os.devnull)).open("ab")
    variables = {**os.environ, "MAGDI_TEST_KEY": KEY, "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.Popen([sys.executable, "-m", "magdi_ray.cli", *arguments], stdout=out, stderr=out, env=variables)


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a driver, its Ray and its workers, all at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        if member.is_running():
            os.kill(member.pid, signal.SIGKILL)
    process.wait()

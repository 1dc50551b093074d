"""A finished run's files, written from a schedule that is known to the second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from magdi_ray.debate.store import to_table
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.tasks.base import Question

API = {"type": "api", "base_url": "http://localhost:1/v1", "model": "m"}
LOCAL = {"type": "transformers", "model": "pkg://magdi_ray/tiny/models/ada", "max_batch_size": 4}


def configuration(agents: dict[str, dict[str, Any]], **debate: Any) -> dict[str, Any]:
    """A run on the bundled task."""
    seats = [{"name": name, "engine": engine, "sampling": {"max_tokens": 64}} for name, engine in agents.items()]
    return {
        "name": "known",
        "task": {"name": "tiny", "train": 40, "test": 10},
        "debate": {"protocol": {"name": "reconcile", "rounds": 2}, "agents": seats, **debate},
        "distil": {"student": {"model": "pkg://magdi_ray/tiny/models/student"}, "recipe": "level2", "train": {"epochs": 1}},
        "evaluate": {"splits": ["test"]},
    }


def write_run(root: Path, config: dict[str, Any], said: list[tuple[str, int, int, float]], **facts: Any) -> Path:
    """`said`: (agent, debate, round, second at which its reply was stored); each reply has 10 tokens, of 100 read."""
    (root / "debates").mkdir(parents=True)
    (root / "replies").mkdir()
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    turns: dict[int, list[Turn]] = {}
    lines = []
    for agent, debate, number, at in said:
        text = f"reply of {agent} in {debate}, round {number}"
        turns.setdefault(debate, []).append(Turn(agent, number, (), text, "1", None, "none", 100, 10, "m", "ok"))
        lines.append(json.dumps({"agent": agent, "tokens_in": 100, "tokens_out": 10, "at": at, "text": text}))
    names = tuple(dict.fromkeys(agent for agent, *_ in said))
    debates = [
        Debate(Question(f"q{number}", "how many?"), names, "reconcile", tuple(found), "1", 1.0, "consensus")
        for number, found in sorted(turns.items())
    ]
    pq.write_table(to_table(debates), root / "debates" / "part.parquet")
    (root / "replies" / "one.jsonl").write_text("\n".join(lines) + "\n")
    whole = {"debates": len(debates), "seconds_deploying": 3.0, "seconds_debating": 50.0} | facts
    (root / "debates" / "manifest.json").write_text(json.dumps({"facts": whole, "files": {"part.parquet": 1000}}))
    return root

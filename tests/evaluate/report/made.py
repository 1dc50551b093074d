"""Debates and finished runs for the tests of the report: small, written by the package's own writers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from magdi_ray.config import RunConfig, parse_config, recipes
from magdi_ray.config.load import dump_config
from magdi_ray.config.sections import FileTask
from magdi_ray.evaluate.answers import BASE, VOTE, Answer, Method, write_answers
from magdi_ray.evaluate.exam import Paper, write_asked
from magdi_ray.evaluate.metrics import differences, grouped, scores
from magdi_ray.graph.schema import Edge, Mag, Node, edge_type
from magdi_ray.graph.store import write_mags
from magdi_ray.runs import CONFIG, Run
from magdi_ray.stages import student_stage
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.store import write_splits
from magdi_ray.tasks.tiny import Tiny

TASK = Tiny()
AGENTS = ("ada", "ben", "cy")


def node(agent: str, round_: int, answer: str | None, *, gold: str | None = "1", **changes: Any) -> Node:
    """A reply; right where it gives the gold answer."""
    said: dict[str, Any] = {
        "agent": agent, "round": round_, "role": "debater", "model": "m", "text": f"answer {answer}", "reasoning": "so",
        "answer": answer, "confidence": 0.9, "confidence_source": "stated", "tokens_in": 3, "tokens_out": 4,
        "correct": None if gold is None else answer == gold, "status": "ok" if answer else "unparsed",
    }  # fmt: skip
    return Node(**(said | changes))


def debate(
    *rounds: str,
    name: str = "q",
    gold: str | None = "1",
    answer: str | None = None,
    split: Split = "train",
    extra: Sequence[Node] = (),
) -> Mag:
    """A debate in which round r's replies are the characters of `rounds[r]`, one an agent ("-": unreadable); all are shown all.

    The answer is the last round's most frequent one; `extra` are the nodes of judges and critics, shown all of the last round.
    """
    table = AGENTS[: len(rounds[0])]
    given = [(agent, r, None if c == "-" else c) for r, row in enumerate(rounds) for agent, c in zip(table, row, strict=True)]
    said = [[node(*one, gold=gold) for one in given if one[1] == r] for r in range(len(rounds))]
    levels = [*said, *([list(extra)] if extra else [])]
    nodes = [one for level in levels for one in level]
    edges, first = [], 0
    for earlier, later in pairwise(levels):
        places = [(first + s, first + len(earlier) + t) for t in range(len(later)) for s in range(len(earlier))]
        edges += [Edge(s, t, edge_type(nodes[s], nodes[t])) for s, t in places]
        first += len(earlier)
    last = rounds[-1].replace("-", "") or None
    team = answer or (max(sorted(set(last)), key=last.count) if last else None)
    agents = tuple(dict.fromkeys(one.agent for one in nodes))
    return Mag(
        question=Question(name, f"what is {name} ?", gold, split),
        protocol="reconcile",
        agents=agents,
        answer=team,
        agreement=rounds[-1].count(team) / len(table) if team else 0.0,
        stopped="consensus" if last and len(set(rounds[-1])) == 1 else "rounds",
        labels="none" if gold is None else "gold",
        nodes=tuple(nodes),
        edges=tuple(edges),
    )


def answers(
    system: str,
    right: Iterable[bool],
    *,
    task: str = "tiny",
    split: str = "test",
    seed: int = 0,
    method: Method = "single",
    **more: Any,
) -> list[Answer]:
    """One answer a question, right or wrong."""
    rows = enumerate(right)
    said = {"tokens_in": 10, "tokens_out": 5, "task": task, "seed": seed, "method": method, "confidence": 0.75} | more
    return [Answer(f"{split}-{i}", split, system, f"answer {'1' if r else '2'}", "1" if r else "2", r, **said) for i, r in rows]


def config(*, seeds: int = 1, task: Mapping[str, Any] | None = None) -> RunConfig:
    """A run, of the tiny task unless another is given."""
    agents = [{"name": agent, "engine": {"type": "transformers", "model": f"pkg://models/{agent}"}} for agent in AGENTS]
    student = {"model": {"architecture": "llama"}, "tuning": {"type": "full"}}
    return parse_config(
        {
            "name": "demo",
            "task": task or {"name": "tiny", "train": 4, "test": 4},
            "debate": {"protocol": {"name": "reconcile", "rounds": 1}, "agents": agents},
            "distil": {
                "student": student,
                "recipe": "level2",
                "ablations": ["level1"],
                "train": {"max_steps": 3},
                "seeds": seeds,
            },
        },
        "made by a test",
    )


def finished_run(root: Path, settings: RunConfig, given: Sequence[Answer], mags: Sequence[Mag], **more: Any) -> Run:
    """A run directory as a finished run leaves it, with these answers and graphs.

    Further: `sets`, else all there are answers to; `asked` of another task; `log`, lines of trainings.
    """
    run = Run(root)
    root.mkdir(parents=True)
    (root / CONFIG).write_text(dump_config(settings), encoding="utf-8")
    directory = run.clear("questions")
    write_splits(directory, [mag.question for mag in mags])
    run.finish("questions", {}, (), seconds=1.0, facts={"train": 4, "test": 4})
    run.clear("debates")
    spent = {"debates": len(mags), "replies": 6, "tokens_in": 30, "tokens_out": 20, "usd": 0.0}
    run.finish("debates", {}, ("questions",), seconds=2.0, facts=spent)
    write_mags(run.clear("graphs") / "part-00000.parquet", mags)
    run.finish("graphs", {}, ("debates",), seconds=1.0, facts={"graphs": len(mags), "nodes": 6})
    for recipe in recipes(settings.distil):
        run.clear(student_stage(settings, recipe))
        trained = {"steps": 3, "graphs": 4, "tokens_forwarded": 90, "worker_seconds": 2.5}
        run.finish(student_stage(settings, recipe), {}, ("graphs",), seconds=3.0, facts=trained)
    with run.metrics.open("w", encoding="utf-8") as log:
        for line in more.get("log", ()):
            log.write(json.dumps({"stage": "distil", **line}) + "\n")
    _evaluation(run, settings, given, more)
    return run


def _evaluation(run: Run, settings: RunConfig, given: Sequence[Answer], more: Mapping[str, Any]) -> None:
    directory = run.clear("evaluation")
    (directory / "answers").mkdir()
    debaters = (*AGENTS, VOTE)
    write_answers(directory / "answers" / "part.parquet", [row for row in given if row.system not in debaters])
    write_answers(directory / "debates.parquet", [row for row in given if row.system in debaters])
    papers = [Paper(FileTask(name="gsm8k"), "out", tuple(more.get("asked", ())))]
    write_asked(directory / "asked.parquet", papers)
    groups = grouped(given)
    product = recipes(settings.distil)[-1].name
    names = dict.fromkeys(row.system for row in given)
    kinds = {BASE: "base", VOTE: "debate", **dict.fromkeys(AGENTS, "teacher")}
    found = [
        {"name": n, "kind": kinds.get(n, "student"), "title": f"the {n}", "product": n == product, "seeds": settings.distil.seeds}
        for n in names
    ]
    places = dict.fromkeys((key.task, key.split) for key in groups)
    metrics = {
        "schema": 2,
        "sets": more.get("sets") or [{"task": t, "split": s, "domain": "in", "questions": 4} for t, s in places],
        "systems": found,
        "scores": [asdict(row) for row in scores(given)],
        "differences": [asdict(row) for row in differences(groups, [((product, "single"), (BASE, "single"))])],
        "seconds": {},
    }
    (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    inputs = ("questions", "graphs", *(student_stage(settings, recipe) for recipe in recipes(settings.distil)))
    run.finish("evaluation", {}, inputs, seconds=4.0, facts={})

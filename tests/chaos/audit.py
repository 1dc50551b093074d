"""Reads a finished run directory into an `Account`. What cannot be seen in it is told by whoever watched."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magdi_ray.debate.store import read_debates
from magdi_ray.distill.watch.steplog import read_steps
from magdi_ray.evaluate.answers import iter_answers
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import iter_mags
from magdi_ray.runs import MANIFEST, Manifest, Run
from tests.chaos.books import Account, Graph, Node, Stage, Start
from tests.chaos.sight import STAGES

RECIPE = "level4"


def read_account(
    where: Path, *, calls: Mapping[str, int], starts: Sequence[Start], served: Sequence[str], left: Sequence[str]
) -> Account:
    """The books of the run in a directory; `calls`, `starts`, `served` and `left` as in `Account`."""
    run = Run(where)
    debates = list(read_debates(run.path("debates")))
    return Account(
        debated=dict(Counter(debate.question.id for debate in debates if debate.error is None)),
        failed={debate.question.id: debate.error for debate in debates if debate.error is not None},
        graphs=tuple(_graph(mag) for mag in iter_mags(run.path("graphs"))),
        calls=calls,
        steps={line["step"]: line["loss"] for line in read_steps(run.metrics, RECIPE)},
        starts=tuple(starts),
        answers={
            f"{answer.system} {answer.question_id} {answer.method} {answer.sample}": f"{answer.text} | {answer.correct}"
            for answer in iter_answers(run.path("evaluation"))
        },
        served=tuple(served),
        stages=tuple(_stage(run, name) for name in STAGES if run.read_manifest(name)),
        claims=tuple(str(path.parent.relative_to(where)) for path in sorted(where.glob(f"attempts/**/{MANIFEST}"))),
        left=tuple(left),
    )


def _graph(mag: Mag) -> Graph:
    nodes = [Node(n.agent, n.round, n.text, n.answer, n.correct, n.status, n.confidence) for n in mag.nodes]
    edges = tuple((edge.source, edge.target, edge.type) for edge in mag.edges)
    question = mag.question
    return Graph(question.id, question.split, question.gold, mag.answer, mag.stopped, tuple(nodes), edges)


def _stage(run: Run, name: str) -> Stage:
    manifest: Manifest = run.require(name)
    root = run.path(name)
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file() and path.name != MANIFEST}
    digest = hashlib.sha256()
    for file, path in files.items():
        digest.update(f"{file}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    sizes = {file: path.stat().st_size for file, path in files.items()}
    return Stage(name, manifest.files, sizes, manifest.content, digest.hexdigest(), manifest.inputs)


def account_of(data: Mapping[str, Any]) -> Account:
    """An account that was written with `dataclasses.asdict` and JSON."""
    graphs = tuple(
        Graph(**{**row, "nodes": tuple(Node(**node) for node in row["nodes"]), "edges": tuple(map(tuple, row["edges"]))})
        for row in data["graphs"]
    )
    return Account(
        debated=data["debated"],
        failed=data["failed"],
        graphs=graphs,
        calls=data["calls"],
        steps={int(step): loss for step, loss in data["steps"].items()},
        starts=tuple(Start(**row) for row in data["starts"]),
        answers=data["answers"],
        served=tuple(data["served"]),
        stages=tuple(Stage(**row) for row in data["stages"]),
        claims=tuple(data["claims"]),
        left=tuple(data["left"]),
    )

"""Calibration: what a finished run says of its calls, replicas, overheads and files.

Latencies of API agents come from the time between a round's last reply and each reply of the next one, so waiting in a line is in
them: a run held by its limits is a poor teacher, and is named. Speeds of local replicas come from replies that were stored
together: what was decoded together ends together. Fixed overheads are what the stage took beside the time between its first and
its last reply.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from magdi_ray.config.load import load_config
from magdi_ray.config.run import RunConfig
from magdi_ray.errors import ConfigError
from magdi_ray.simulate.scenario import Call, Latency, Speed, Trace

QUANTILES = 40
"""Equally likely latencies kept of each agent."""
TRACES = 20_000
"""Debates of a run that are kept as traces."""
TOGETHER_S = 0.15
"""Replies of one agent stored within so many seconds of one another may be of one batch."""
FRAGMENT = 0.15
"""A batch that seems to take less than this share of the usual time is the rest of the one before."""
ENOUGH = 20
"""Gaps of an agent that make a distribution."""


class Stored(NamedTuple):
    """One line of the reply store, as far as time and size depend on it."""

    agent: str
    at: float
    tokens_in: int
    tokens_out: int
    text: str
    beside: int
    """Bytes of the line that are not its text."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """How large things are. The defaults were measured on the bundled offline run (2000 questions)."""

    per_token: float = 2.6
    """Of a reply's text."""
    question: float = 42.0
    """A question in parquet."""
    reply_line: float = 273.0
    """A line of the reply store, its text aside."""
    debates: float = 0.94
    """Parquet of debates over the bytes of their replies' texts."""
    graphs: float = 0.99
    """Parquet of graphs over the same."""
    tokens: float = 1.73
    """Tokenised graphs of one recipe over the same."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found in a run."""

    run: str
    config: RunConfig
    questions: int
    agents: tuple[str, ...]
    traces: tuple[Trace, ...]
    latency: dict[str, Latency] = field(default_factory=dict)
    """Of API agents."""
    speed: dict[str, Speed] = field(default_factory=dict)
    """Of local agents."""
    agreement: float = 0.6
    """Share of the debates that ended after one round."""
    reply_tokens: int = 180
    span_s: float = 0.0
    """From the first to the last reply."""
    fixed_s: float = 0.0
    deploying_s: float = 0.0
    debating_s: float = 0.0
    sizes: Bytes = Bytes()
    graph_s: float | None = None
    """Of building one graph."""
    flops_per_s: float | None = None
    """Of training, one worker, its start counted."""
    asked_per_s: float | None = None
    """Questions of one system that the evaluation had answered in a second, all machines together."""
    remarks: tuple[str, ...] = ()


def calibrate(run: str | Path) -> Measured:
    """Read a finished run's debates, replies and manifests.

    Raises:
        ConfigError: the run has no finished debates, or its replies are elsewhere or from several attempts.
    """
    root = Path(run)
    manifest = _manifest(root, "debates")
    if manifest is None:
        raise ConfigError(f"{root} cannot be calibrated on: it has no finished debates (debates/manifest.json). Run it first.")
    config = load_config(root / "config.yaml")
    if config.debate is None:
        raise ConfigError(
            f"{root} cannot be calibrated on: its graphs come from a file, it held no debates. Name a run that did."
        )
    facts = manifest["facts"]
    if facts.get("replies already in the store"):
        raise ConfigError(
            f"{root} cannot be calibrated on: replies were there before its last attempt. Use a run made in one go."
        )
    stored = list(_stored(root, config))
    names = tuple(agent.name for agent in config.debate.agents)
    debates = _debates(root)
    traces = tuple(found for debate in debates if (found := _trace(debate, names)))
    if not traces or not stored:
        raise ConfigError(f"{root} cannot be calibrated on: no debate in it has a reply. Name a run whose debates succeeded.")
    api = [agent.name for agent in config.debate.agents if agent.engine.type == "api"]
    local = [agent for agent in config.debate.agents if agent.engine.type != "api"]
    latency, remarks = _latencies(debates, stored, api)
    speed = {a.name: _speed([r for r in stored if r.agent == a.name], getattr(a.engine, "max_batch_size", 64)) for a in local}
    span = max(r.at for r in stored) - min(r.at for r in stored)
    if api:
        remarks += _held_by_limits(config, latency, calls=len(stored), span=span)
    return Measured(
        run=root.name,
        config=config,
        questions=int(facts["debates"]),
        agents=names,
        traces=traces,
        latency=latency,
        speed=speed,
        agreement=sum(len(trace) == 1 for trace in traces) / len(traces),
        reply_tokens=max(1, round(sum(r.tokens_out for r in stored) / len(stored))),
        span_s=span,
        fixed_s=max(0.0, facts["seconds_debating"] - span),
        deploying_s=facts["seconds_deploying"],
        debating_s=facts["seconds_debating"],
        sizes=_sizes(root, config, stored),
        **_rates(root, config),
        remarks=tuple(remarks),
    )


def _manifest(root: Path, stage: str) -> dict[str, Any] | None:
    file = root / stage / "manifest.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return found


def _stored(root: Path, config: RunConfig) -> Iterator[Stored]:
    assert config.debate is not None
    folder = root / "replies" if config.debate.replies is None else Path(config.debate.replies)
    if not folder.is_dir():
        raise ConfigError(
            f"{root} cannot be calibrated on: its replies are not in a local directory ({folder}). Copy them there."
        )
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.open(encoding="utf-8"):
            try:
                row = json.loads(line)
            except ValueError:  # what was being written when a process ended
                continue
            text = row["text"]
            beside = len(line.encode()) - len(text.encode())
            yield Stored(row["agent"], row["at"], row["tokens_in"], row["tokens_out"], text, beside)


def _debates(root: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for file in sorted((root / "debates").glob("*.parquet")):
        found += pq.read_table(file, columns=["turns", "error"]).to_pylist()
        if len(found) >= TRACES:
            break
    return [debate for debate in found if debate["error"] is None]


def _trace(debate: Mapping[str, Any], names: Sequence[str]) -> Trace:
    rounds: dict[int, list[Call]] = defaultdict(list)
    for turn in debate["turns"]:
        rounds[turn["round"]].append(Call(names.index(turn["agent"]), turn["tokens_in"], turn["tokens_out"]))
    return tuple(tuple(rounds[number]) for number in sorted(rounds))


def _latencies(
    debates: Sequence[Mapping[str, Any]], stored: Iterable[Stored], api: Sequence[str]
) -> tuple[dict[str, Latency], list[str]]:
    """Of each API agent; agents with too few later rounds share the others'."""
    if not api:
        return {}, []
    seen: dict[tuple[str, int, int, str], list[float]] = defaultdict(list)
    for row in stored:
        seen[row.agent, row.tokens_in, row.tokens_out, row.text].append(row.at)
    gaps: dict[str, list[float]] = {name: [] for name in api}
    for debate in debates:
        ended: dict[int, list[tuple[str, float | None]]] = defaultdict(list)
        for turn in debate["turns"]:
            moments = seen.get((turn["agent"], turn["tokens_in"], turn["tokens_out"], turn["text"]), [])
            ended[turn["round"]].append((turn["agent"], moments[0] if len(moments) == 1 else None))
        for number in sorted(ended)[1:]:
            before = [moment for _, moment in ended.get(number - 1, [])]
            if not before or any(moment is None for moment in before):
                continue
            began = max(moment for moment in before if moment is not None)
            for agent, moment in ended[number]:
                if moment is not None and agent in gaps:
                    gaps[agent].append(moment - began)
    every = sorted(gap for found in gaps.values() for gap in found if gap > 0)
    if len(every) < ENOUGH:
        raise ConfigError(
            f"Only {len(every)} replies of later rounds could be timed, {ENOUGH} are needed to know the agents' latency. "
            "Calibrate on a run of more debates, or on one whose debates have more than one round."
        )
    short = [name for name in api if len(gaps[name]) < ENOUGH]
    remarks = [f"Too few later replies of {', '.join(short)} to time them: they are taken for the others."] if short else []
    return {name: _latency(every if name in short else sorted(gaps[name])) for name in api}, remarks


def _latency(gaps: Sequence[float]) -> Latency:
    """Sorted seconds as equally likely quantiles."""
    picked = [gaps[min(len(gaps) - 1, int((k + 0.5) * len(gaps) / QUANTILES))] for k in range(QUANTILES)]
    mean = sum(picked) / len(picked)
    return Latency(mean, factors=tuple(value / mean for value in picked))


def _held_by_limits(config: RunConfig, latency: Mapping[str, Latency], *, calls: int, span: float) -> list[str]:
    """Whether the line in front of a provider is in the latencies, by Little's law."""
    assert config.debate is not None
    under_way = calls / max(span, 1e-9) * sum(found.base_s for found in latency.values()) / len(latency)
    most = max(a.engine.limits.concurrency for a in config.debate.agents if a.engine.type == "api")
    if under_way < 0.8 * most:
        return []
    return [f"About {under_way:.0f} requests waited or were under way at once, of {most} allowed: waiting is in the latencies."]


def _speed(replies: Sequence[Stored], most: int) -> Speed:
    """Least squares over batches, none of the coefficients below zero; large batches count more."""
    import numpy as np
    from scipy.optimize import nnls

    batches = _batches(replies, most)
    if len(batches) < 3:
        seconds = max(r.at for r in replies) - min(r.at for r in replies)
        return Speed(0.0, 0.0, seconds / max(1, sum(r.tokens_out for r in replies)))
    rows = np.array([[longest, rows * longest, read] for _, rows, longest, read in batches], dtype=float)
    times = np.array([seconds for seconds, *_ in batches])
    weight = np.sqrt(np.array([count for _, count, *_ in batches], dtype=float))
    (step, sequence, prefill), _ = nnls(rows * weight[:, None], times * weight)
    return Speed(0.0, float(step), float(sequence), float(prefill))


def _batches(replies: Sequence[Stored], most: int) -> list[tuple[float, int, int, int]]:
    """(seconds, rows, longest reply, tokens read) of each batch but the first, whose beginning nobody knows."""
    clusters: list[list[float]] = []
    for row in sorted(replies, key=lambda r: r.at):
        if clusters and row.at - clusters[-1][0] < TOGETHER_S and clusters[-1][1] < most:
            last = clusters[-1]
            last[:] = [row.at, last[1] + 1, max(last[2], row.tokens_out), last[3] + row.tokens_in]
        else:
            clusters.append([row.at, 1, row.tokens_out, row.tokens_in])
    durations = sorted(b[0] - a[0] for a, b in itertools.pairwise(clusters))
    usual = durations[len(durations) // 2] if durations else 0.0
    merged: list[list[float]] = clusters[:1]
    for cluster in clusters[1:]:
        last = merged[-1]
        if cluster[0] - last[0] < FRAGMENT * usual and last[1] + cluster[1] <= most:
            last[:] = [cluster[0], last[1] + cluster[1], max(last[2], cluster[2]), last[3] + cluster[3]]
        else:
            merged.append(cluster)
    return [(b[0] - a[0], int(b[1]), int(b[2]), int(b[3])) for a, b in itertools.pairwise(merged)]


def _sizes(root: Path, config: RunConfig, stored: Sequence[Stored]) -> Bytes:
    text = sum(len(r.text.encode()) for r in stored) or 1
    known = Bytes()
    recipes = 1 + len(config.distil.ablations)
    tokens = sum(f.stat().st_size for f in (root / "tokens").rglob("*") if f.is_file()) if (root / "tokens").is_dir() else 0
    questions = _manifest(root, "questions")
    rows = sum(v for v in questions["facts"].values() if isinstance(v, int)) if questions else 0
    return Bytes(
        per_token=text / max(1, sum(r.tokens_out for r in stored)),
        question=sum(questions["files"].values()) / rows if questions and rows else known.question,
        reply_line=sum(r.beside for r in stored) / len(stored),
        debates=_held(root, "debates") / text,
        graphs=_held(root, "graphs") / text or known.graphs,
        tokens=tokens / recipes / text or known.tokens,
    )


def _held(root: Path, stage: str) -> int:
    manifest = _manifest(root, stage)
    return sum(manifest["files"].values()) if manifest else 0


def _rates(root: Path, config: RunConfig) -> dict[str, float | None]:
    """Of the later stages, as far as the run has them."""
    graphs, student, exam = (_manifest(root, stage) for stage in ("graphs", "student", "evaluation"))
    flops = student["facts"].get("flops") if student else None
    asked = exam["facts"]["questions"] * exam["facts"]["systems"] if exam else 0
    return {
        "graph_s": graphs["seconds"] / max(1, graphs["facts"]["graphs"]) if graphs else None,
        "flops_per_s": flops / student["facts"]["worker_seconds"] if student and flops else None,
        "asked_per_s": asked / exam["seconds"] if exam and asked else None,
    }

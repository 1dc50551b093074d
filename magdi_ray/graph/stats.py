"""What a set of MAGs holds, in numbers: sizes, who was right when, what discussion fixed and broke. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast, get_args

from rich.table import Table

from magdi_ray.debate.transcript import Role
from magdi_ray.debate.vote import Ballot, Verdict, tally
from magdi_ray.graph.schema import EDGE_TYPES, EdgeType, Mag, Node
from magdi_ray.tasks.base import Task

Kind = Literal["all right", "mixed", "all wrong", "unlabelled"]
KINDS: tuple[Kind, ...] = ("all right", "mixed", "all wrong", "unlabelled")


@dataclass(frozen=True, slots=True)
class GraphStats:
    """Shares are in [0, 1]; None where nothing could be counted (no labels, no such replies)."""

    graphs: int
    nodes: int
    roles: dict[Role, int]
    edges: dict[EdgeType, int]
    mean_rounds: float
    nodes_per_round: tuple[int, ...]
    correct_by_agent: dict[str, tuple[float | None, ...]]
    """Share of right replies of each agent, one entry per round; unparsed replies count as wrong, unlabelled ones not at all."""
    vote_accuracy_first: float | None
    """Share of labelled graphs whose vote over round 0 is right; no answer counts as wrong."""
    vote_accuracy_final: float | None
    """The same for the team's answer."""
    consensus_first: float | None
    """Share of graphs in which all replies of round 0 agree; a graph with only one has none to agree with, and is not counted."""
    consensus_final: float | None
    """The same for the last reply of each agent that debated; of one agent alone, for all its replies of the last round."""
    fixed: int
    """Times an agent went from a wrong reply to a right one in a later round."""
    broken: int
    """Times an agent went from a right reply to a wrong one in a later round."""
    kinds: dict[Kind, int]
    """Graphs by their nodes' labels; only the mixed ones hold pairs to contrast."""
    unparsed: int
    tokens_in: float | None
    """Mean prompt tokens per question, all agents and rounds together; None where no count is known (0 = unknown)."""
    tokens_out: float | None
    """Mean generated tokens per question, likewise."""


class _BySpelling:
    """Answers are the same when their normal forms are."""

    def same(self, answer: str | None, gold: str | None) -> bool:
        return answer is not None and answer == gold


def describe(mags: Iterable[Mag], task: Task | None = None) -> GraphStats:
    """Count. `task` says when two answers are the same; without one, equal normal forms are."""
    mags = list(mags)
    nodes = [node for mag in mags for node in mag.nodes]
    # The vote asks a task for `same` only.
    rule = cast(Task, _BySpelling()) if task is None else task
    first = [_vote(_first(mag), rule) for mag in mags if len(_first(mag)) > 1]
    last = [_vote(_last(mag), rule) for mag in mags if len(_last(mag)) > 1]
    roles = Counter(node.role for node in nodes)
    edges = Counter(edge.type for mag in mags for edge in mag.edges)
    rounds = Counter(node.round for node in nodes)
    changes = Counter(change for mag in mags for change in _changes(mag))
    kinds = Counter(map(_kind, mags))
    return GraphStats(
        graphs=len(mags),
        nodes=len(nodes),
        roles={role: roles[role] for role in get_args(Role)},
        edges={kind: edges[kind] for kind in EDGE_TYPES},
        mean_rounds=_mean([1 + max((n.round for n in mag.nodes), default=-1) for mag in mags]) or 0.0,
        nodes_per_round=tuple(rounds[r] for r in range(max(rounds, default=-1) + 1)),
        correct_by_agent=_correct_by_agent(nodes, max(rounds, default=-1) + 1),
        vote_accuracy_first=_mean([_is_right(mag, _vote(_first(mag), rule).answer, rule) for mag in mags if _labelled(mag)]),
        vote_accuracy_final=_mean([_is_right(mag, mag.answer, rule) for mag in mags if _labelled(mag)]),
        consensus_first=_mean([verdict.consensus for verdict in first]),
        consensus_final=_mean([verdict.consensus for verdict in last]),
        fixed=changes[False, True],
        broken=changes[True, False],
        kinds={kind: kinds[kind] for kind in KINDS},
        unparsed=sum(node.status == "unparsed" for node in nodes),
        tokens_in=_mean([sum(n.tokens_in for n in mag.nodes) for mag in mags]) or None,
        tokens_out=_mean([sum(n.tokens_out for n in mag.nodes) for mag in mags]) or None,
    )


def render_stats(stats: GraphStats) -> Table:
    """The numbers as a two-column table."""
    table = Table("what", "value", title="Interaction graphs", title_justify="left", show_edge=False)
    rows = [
        ("graphs", str(stats.graphs)),
        ("  by labels", ", ".join(f"{count} {kind}" for kind, count in stats.kinds.items())),
        ("nodes (replies)", f"{stats.nodes}, {stats.unparsed} of them unparsed"),
        ("  per round", ", ".join(map(str, stats.nodes_per_round)) or "-"),
        *([("  by role", _counts(stats.roles))] if stats.roles["debater"] < stats.nodes else []),
        ("edges", ", ".join(f"{count} {kind}" for kind, count in stats.edges.items() if count or kind != "critique")),
        ("mean rounds", f"{stats.mean_rounds:.2f}"),
        *((f"right, {agent}, per round", ", ".join(map(_percent, s))) for agent, s in stats.correct_by_agent.items()),
        ("vote right, round 0 / final", f"{_percent(stats.vote_accuracy_first)} / {_percent(stats.vote_accuracy_final)}"),
        ("consensus, round 0 / final", f"{_percent(stats.consensus_first)} / {_percent(stats.consensus_final)}"),
        ("answers fixed / broken", f"{stats.fixed} / {stats.broken}"),
        ("tokens per question, in / out", f"{_count(stats.tokens_in)} / {_count(stats.tokens_out)}"),
    ]
    for what, value in rows:
        table.add_row(what, value)
    return table


def _vote(nodes: Sequence[Node], task: Task) -> Verdict:
    return tally(task, [Ballot(node.answer, node.confidence) for node in nodes])


def _first(mag: Mag) -> list[Node]:
    return [node for node in mag.nodes if node.round == 0 and node.role != "student"]


def _last(mag: Mag) -> list[Node]:
    """The replies of each debater's own last round: critics and those they criticise speak in different ones."""
    spoken = [node for node in mag.nodes if node.role in ("debater", "critic")]
    rounds = {node.agent: node.round for node in spoken}
    return [node for node in spoken if node.round == rounds[node.agent]]


def _labelled(mag: Mag) -> bool:
    return mag.labels != "none" and bool(mag.nodes)


def _is_right(mag: Mag, answer: str | None, task: Task) -> bool:
    return any(bool(node.correct) and task.same(node.answer, answer) for node in mag.nodes)


def _changes(mag: Mag) -> list[tuple[bool, bool]]:
    by_agent: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for node in mag.nodes:
        if node.correct is not None:
            by_agent[node.agent].append((node.round, node.correct))
    # Two samples of one round are no change of mind.
    pairs = (pair for replies in by_agent.values() for pair in pairwise(replies))
    return [(was, became) for (earlier, was), (later, became) in pairs if earlier < later]


def _kind(mag: Mag) -> Kind:
    labels = {node.correct for node in mag.nodes}
    if mag.labels == "none" or not labels:
        return "unlabelled"
    return "mixed" if len(labels) > 1 else "all right" if labels == {True} else "all wrong"


def _correct_by_agent(nodes: Sequence[Node], rounds: int) -> dict[str, tuple[float | None, ...]]:
    held: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for node in nodes:
        if node.correct is not None:
            held[node.agent][node.round].append(node.correct)
    return {agent: tuple(_mean(by_round.get(r, [])) for r in range(rounds)) for agent, by_round in held.items()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _counts(counts: Mapping[Role, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _count(tokens: float | None) -> str:
    return "unknown" if tokens is None else f"{tokens:.0f}"

"""The books of a run: what it came to, held against what a quiet run of the same configuration came to. Pure.

An `Account` is plain data. `unbalanced` reads two of them and returns a line for every entry that does not balance; a run that
lost, doubled, repeated or changed anything has at least one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LOSS_TOLERANCE = 1e-5
"""Between two losses of one step. Both trainings have the same workers and the same graphs, and a checkpoint holds weights and
moments in full: what is left is the order in which threads and processes add floats."""
CONFIDENCE_TOLERANCE = 1e-3
"""Between two confidences of one reply: the mean probability of its tokens, which depends in its last digits on what else was in
the batch."""
SHOWN = 3
"""Examples a line names."""


@dataclass(frozen=True)
class Node:
    """One reply of a graph."""

    agent: str
    round: int
    text: str
    answer: str | None
    correct: bool | None
    status: str
    confidence: float | None


@dataclass(frozen=True)
class Graph:
    """One debate's graph."""

    question: str
    split: str
    gold: str | None
    answer: str | None
    stopped: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Start:
    """A training that began, or went on."""

    step: int
    """Steps that were done before it."""
    safe: int
    """Step of the newest whole checkpoint that there was; 0 where there was none."""


@dataclass(frozen=True)
class Stage:
    """What a finished stage says of itself, and what is there."""

    name: str
    claimed: Mapping[str, int]
    """File -> bytes, as the manifest has them."""
    found: Mapping[str, int]
    content: str
    """Hash of the files, as the manifest has it."""
    hashed: str
    """As they are."""
    inputs: Mapping[str, str]
    """Stage that was read -> hash of its files then."""


@dataclass(frozen=True)
class Account:
    """What a run came to."""

    debated: Mapping[str, int] = field(default_factory=dict)
    """Question -> debates of it that were held to their end."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Question -> why its debate was not."""
    graphs: tuple[Graph, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    """Request -> how often the provider answered it, which is how often it is paid for."""
    steps: Mapping[int, float] = field(default_factory=dict)
    """Step -> loss."""
    starts: tuple[Start, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    """What was asked of whom in the evaluation -> the answer, and whether it is right."""
    served: tuple[str, ...] = ()
    """What the endpoint answered."""
    stages: tuple[Stage, ...] = ()
    claims: tuple[str, ...] = ()
    """Unfinished places that say they are finished."""
    left: tuple[str, ...] = ()
    """Processes, actors and engines that still ran at the end."""


def unbalanced(account: Account, quiet: Account, *, spare_calls: int) -> list[str]:
    """Every entry that does not balance, in words; empty where the books are right.

    `spare_calls`: calls that may have been in flight when something was killed, and were asked again (`spare`).
    """
    lines = (
        *_questions(account, quiet),
        *_graphs(account.graphs, quiet.graphs),
        *_calls(account.calls, quiet.calls, spare_calls),
        *_training(account, quiet),
        *_same("evaluation", account.answers, quiet.answers),
        *_same("served", dict(enumerate(account.served)), dict(enumerate(quiet.served))),
        *_stages(account.stages, quiet.stages),
        *(f"attempts: {place} says that it is finished" for place in account.claims),
        *(f"left running: {what}" for what in account.left),
    )
    return list(lines)


def spare(*, concurrency: int, kills: int, torn: int) -> int:
    """Calls that may be answered twice at most.

    Of an asker that is killed, those in flight are lost: no more than `concurrency`, the provider's limit over the whole cluster.
    Of the reply store, those whose lines were torn afterwards.
    """
    return concurrency * kills + torn


def repeated(calls: Mapping[str, int]) -> int:
    """Answers that had been given before."""
    return sum(count - 1 for count in calls.values() if count > 1)


def _questions(account: Account, quiet: Account) -> Iterator[str]:
    for what, found in (("debates", account.debated), ("graphs", Counter(graph.question for graph in account.graphs))):
        wanted = set(quiet.debated)
        yield from _listed(f"{what}: lost questions", wanted - set(found))
        yield from _listed(f"{what}: questions nobody asked", set(found) - wanted)
        yield from _listed(f"{what}: doubled questions", (name for name, count in found.items() if count > 1))
    yield from _listed("debates: failed questions", (f"{name} ({why})" for name, why in account.failed.items()))


def _graphs(found: Sequence[Graph], quiet: Sequence[Graph]) -> Iterator[str]:
    wanted = {graph.question: graph for graph in quiet}
    different = {g.question: _difference(g, wanted[g.question]) for g in found if g.question in wanted}
    yield from _listed("graphs: changed", (f"{name} ({what})" for name, what in different.items() if what))
    if [g.question for g in found if g.question in wanted] != [g.question for g in quiet if g.question in set(different)]:
        yield "graphs: they stand in another order"


def _difference(one: Graph, other: Graph) -> str:
    """What two graphs of a question differ in; "" where they are equal."""
    for what in ("split", "gold", "answer", "stopped", "edges"):
        if getattr(one, what) != getattr(other, what):
            return what
    if len(one.nodes) != len(other.nodes):
        return f"{len(one.nodes)} nodes, not {len(other.nodes)}"
    for mine, theirs in zip(one.nodes, other.nodes, strict=True):
        for what in ("agent", "round", "text", "answer", "correct", "status"):
            if getattr(mine, what) != getattr(theirs, what):
                return f"{what} of {theirs.agent} in round {theirs.round}"
        if not _close(mine.confidence, theirs.confidence):
            return f"confidence of {theirs.agent} in round {theirs.round}"
    return ""


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= CONFIDENCE_TOLERANCE


def _calls(found: Mapping[str, int], quiet: Mapping[str, int], spare_calls: int) -> Iterator[str]:
    yield from _listed("calls: never made", set(quiet) - set(found))
    yield from _listed("calls: made of nobody's wish", set(found) - set(quiet))
    if (again := repeated(found)) > spare_calls:
        yield f"calls: {again} were repeated, at most {spare_calls} can have been in flight"


def _training(account: Account, quiet: Account) -> Iterator[str]:
    for number, start in enumerate(account.starts):
        if start.step < start.safe:
            yield f"training: start {number + 1} was at step {start.step}, and a whole checkpoint of step {start.safe} was there"
        if start.step > start.safe:
            yield f"training: start {number + 1} was at step {start.step}, beyond the newest whole one of step {start.safe}"
    if account.starts and account.starts[0].step:
        yield f"training: the first start was at step {account.starts[0].step}"
    if quiet.starts and not account.starts:
        yield "training: it never began"
    yield from _listed("loss: no line of step", set(quiet.steps) - set(account.steps))
    yield from _listed("loss: a line too many, of step", set(account.steps) - set(quiet.steps))
    both = sorted(set(quiet.steps) & set(account.steps))
    off = [step for step in both if not abs(account.steps[step] - quiet.steps[step]) <= LOSS_TOLERANCE]
    told = (f"{step} ({account.steps[step]:.8f}, not {quiet.steps[step]:.8f})" for step in off)
    yield from _listed("loss: changed at step", told)


def _same(what: str, found: Mapping[Any, str], quiet: Mapping[Any, str]) -> Iterator[str]:
    yield from _listed(f"{what}: missing", set(quiet) - set(found))
    yield from _listed(f"{what}: too many", set(found) - set(quiet))
    changed = (f"{key}: {found[key]!r}, not {quiet[key]!r}" for key in quiet if key in found and found[key] != quiet[key])
    yield from _listed(f"{what}: changed", changed)


def _stages(found: Sequence[Stage], quiet: Sequence[Stage]) -> Iterator[str]:
    yield from _listed("stages: not finished", {stage.name for stage in quiet} - {stage.name for stage in found})
    contents = {stage.name: stage.content for stage in found}
    for stage in found:
        if stage.claimed != stage.found:
            yield f"stages: the files of {stage.name} are not those that its manifest names"
        if stage.content != stage.hashed:
            yield f"stages: the files of {stage.name} have other contents than its manifest says"
        for name, content in stage.inputs.items():
            if contents.get(name) != content:
                yield f"stages: {stage.name} was made from another {name}"


def _listed(what: str, found: Iterable[object]) -> Iterator[str]:
    """A line that names some of what was found; none where nothing was."""
    named = sorted(map(str, found))
    if named:
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        yield f"{what}: {', '.join(named[:SHOWN])}{more}"

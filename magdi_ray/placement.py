"""Whether what a run's stages want could ever be had on a cluster: arithmetic on plain numbers. Knows no ray.

An error is only said for what can never be: every test here is a necessary condition, and more nodes never make it fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

from magdi_ray.config import RunConfig
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.resources import Place, Strategy
from magdi_ray.config.sections import AgentConfig

TINY = 1e-6
"""Ray counts in ten thousandths."""

ACCELERATOR = "accelerator_type:"
"""Ray's resource of a node that has such an accelerator; a process takes a thousandth of it."""

OWN_LABELS = "ray.io/"
GROUP = f"{OWN_LABELS}node-group"
"""Ray's own labels; the second names the group of an autoscaler's node."""

Growth = Literal["none", "known", "unknown"]


@dataclass(frozen=True, slots=True)
class Nodes:
    """Equal nodes of a cluster."""

    resources: Mapping[str, float]
    """CPU, GPU, `accelerator_type:L4` and custom ones, of one node."""
    labels: Mapping[str, str] = field(default_factory=dict)
    alive: int = 0
    more: int = 0
    """So many more an autoscaler may add."""
    name: str = ""
    """Of the group they belong to."""

    @property
    def count(self) -> int:
        """All there may ever be."""
        return self.alive + self.more


@dataclass(frozen=True, slots=True)
class Fleet:
    """A cluster: what is there and what may come."""

    nodes: tuple[Nodes, ...]
    growth: Growth = "none"
    """Whether `more` is all that may come; unknown: an autoscaler runs, and its bounds cannot be read from here."""
    most_more: int | None = None
    """Nodes an autoscaler may add at most, of all kinds together; None: as many as the kinds allow."""


@dataclass(frozen=True, slots=True)
class Want:
    """Equal processes that have to run at the same time."""

    who: str
    """Where the configuration asks for them, such as `distil`."""
    count: int
    resources: Mapping[str, float]
    """Of one process; what is 0 is left out."""
    labels: Mapping[str, str] = field(default_factory=dict)
    strategy: Strategy = "PACK"
    noun: str = "processes"
    remedy: str = ""
    """The setting that makes it smaller."""


def fleet_of(alive: Iterable[Mapping[str, Any]], described: Mapping[str, Any] | None, *, growth: Growth) -> Fleet:
    """A cluster from its living nodes, as `ray.nodes()` tells them, and its autoscaler's configuration, if that is known."""
    counts: dict[str, int] = {}
    equal: dict[str, Nodes] = {}
    for row in alive:
        labels = {key: value for key, value in row["Labels"].items() if key != f"{OWN_LABELS}node-id"}
        group = labels.get(GROUP, "")
        counts[group] = counts.get(group, 0) + 1
        kind = Nodes(_countable(row["Resources"]), labels, 1, name=group)
        known = equal.setdefault(repr((sorted(kind.resources.items()), sorted(labels.items()))), kind)
        if known is not kind:
            equal[repr((sorted(kind.resources.items()), sorted(labels.items())))] = replace(known, alive=known.alive + 1)
    if described is None:
        return Fleet(tuple(equal.values()), growth)
    coming, head = [], described.get("head_node_type")
    for name, kind in described["available_node_types"].items():
        more = max(0, kind.get("max_workers", 0) - counts.get(name, 0))
        if more and name != head:
            # An autoscaler knows a node it has not started by these labels only, not by those that Ray itself puts on.
            coming.append(Nodes(_countable(kind.get("resources") or {}), kind.get("labels") or {}, more=more, name=name))
    workers = sum(nodes.alive for nodes in equal.values() if nodes.name != head)
    most = described.get("max_workers")
    return Fleet((*equal.values(), *coming), "known", None if most is None else max(0, most - workers))


def _countable(resources: Mapping[str, float]) -> dict[str, float]:
    """What places speak of: no memory, and no names of single nodes."""
    return {name: float(n) for name, n in resources.items() if not name.startswith("node:") and "memory" not in name}


def remote_options(place: Place) -> dict[str, Any]:
    """A place as options of Ray actors, also within Ray Serve and Ray Data; nothing for what it does not say."""
    options = {"label_selector": place.labels, "accelerator_type": place.accelerator, "resources": place.custom}
    return {name: value for name, value in options.items() if value}


def bundle(place: Place, *, num_cpus: float = 0.0, num_gpus: float = 0.0) -> dict[str, float]:
    """The resources one process of a place takes, as in a bundle of a placement group."""
    accelerator = {f"{ACCELERATOR}{place.accelerator}": 0.001} if place.accelerator else {}
    return {name: amount for name, amount in {"CPU": num_cpus, "GPU": num_gpus}.items() if amount} | accelerator | place.custom


def wants(config: RunConfig, stages: Iterable[str]) -> list[list[Want]]:
    """What the named stages of a run want at least; each inner list runs at the same time."""
    names = set(stages)
    together: list[list[Want]] = []
    if "debates" in names and config.debate is not None:
        together.append(list(_debating(config)))
    if names - {"questions", "debates", "graphs", "base", "evaluation"}:
        together.append([_training(config)])
    if "evaluation" in names:
        together += [[*wanted, _files()] for wanted in _evaluated(config)]
    return together


def _debating(config: RunConfig) -> Iterator[Want]:
    assert config.debate is not None
    place = config.resources.debate
    yield Want(
        "debate",
        config.debate.worker_range[0],
        bundle(place, num_cpus=config.debate.num_cpus),
        place.labels,
        noun="workers",
        remedy="debate.workers or debate.num_cpus",
    )
    for agent in config.debate.agents:
        if not isinstance(agent.engine, ApiEngine):
            yield _replicas(f"debate.agents' {agent.name}", agent, config.resources.agents)
    yield _files()


def _replicas(who: str, agent: AgentConfig, place: Place) -> Want:
    resources = bundle(place, num_cpus=agent.num_cpus, num_gpus=agent.num_gpus)
    return Want(who, agent.replicas[0], resources, place.labels, noun="replicas", remedy="its replicas, num_cpus or num_gpus")


def _files() -> Want:
    return Want("what reads and writes the stage's files", 1, {"CPU": 1.0}, noun="task", remedy="what else the stage reserves")


def _training(config: RunConfig) -> Want:
    place, scaling = config.resources.distil, config.distil.scaling
    resources = bundle(place, num_cpus=scaling.num_cpus, num_gpus=float(scaling.use_gpu))
    low, _ = scaling.workers
    remedy = "distil.scaling.num_workers"
    return Want("distil", low, resources, place.labels, place.strategy, noun="workers", remedy=remedy)


def _evaluated(config: RunConfig) -> Iterator[list[Want]]:
    """Systems that do not fit together are asked one after the other, so each is for itself."""
    place, settings = config.resources.evaluate, config.evaluate
    resources = bundle(place, num_cpus=settings.num_cpus, num_gpus=settings.num_gpus)
    yield [Want("evaluate", 1, resources, place.labels, noun="worker", remedy="evaluate.num_cpus or evaluate.num_gpus")]
    asks = Want("what asks it", 1, {"CPU": 0.5}, noun="worker", remedy="what else the stage reserves")
    for agent in settings.agents:
        if not isinstance(agent.engine, ApiEngine):
            yield [_replicas(f"evaluate.agents' {agent.name}", agent, place), asks]


def shortages(fleet: Fleet, together: Iterable[Sequence[Want]]) -> list[str]:
    """What of it can never run, a sentence each."""
    said: dict[str, None] = {}
    for group in together:
        alone = [words for want in group if (words := _alone(fleet, want))]
        said |= dict.fromkeys(alone)
        if not alone and (words := _crowded(fleet, group)):
            said[words] = None
    return list(said)


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with such labels is one that a label selector names. A node without a label is `!VALUE`, too."""
    return all(_is_wanted(labels.get(key), wanted) for key, wanted in selector.items())


def _is_wanted(value: str | None, wanted: str) -> bool:
    negated = wanted.startswith("!")
    text = wanted.removeprefix("!")
    values = text[3:-1].split(",") if text.startswith("in(") else [text]
    return (value in values) != negated


def holds(node: Mapping[str, float], process: Mapping[str, float]) -> int:
    """Equal processes one node holds. Shares of a GPU do not cross from one GPU to the next."""
    counts = [_times(node.get(name, 0.0), amount, whole=name == "GPU") for name, amount in process.items() if amount > 0]
    return min(counts, default=_UNBOUNDED)


_UNBOUNDED = 10**9
"""Processes that reserve nothing fit anywhere."""


def _times(there: float, each: float, *, whole: bool) -> int:
    if whole and each < 1:
        return math.floor(there + TINY) * math.floor(1 / each + TINY)
    return math.floor(there / each + TINY)


def capacity(fleet: Fleet, want: Want) -> int:
    """Most processes of a want that could ever run at once, with its labels and strategy kept."""
    found = [(nodes, holds(nodes.resources, want.resources)) for nodes in fleet.nodes if matches(nodes.labels, want.labels)]
    if want.strategy == "STRICT_PACK":
        there = [held for nodes, held in found if nodes.alive or _may_come(fleet, nodes)]
        return max(there, default=0)
    each = [(nodes, min(held, 1)) for nodes, held in found] if want.strategy == "STRICT_SPREAD" else found
    return int(_most(fleet, each))


def _may_come(fleet: Fleet, nodes: Nodes) -> bool:
    return nodes.more > 0 and fleet.most_more != 0


def _most(fleet: Fleet, each: Iterable[tuple[Nodes, float]]) -> float:
    """The largest sum over all nodes that could be there at once."""
    total, room = 0.0, math.inf if fleet.most_more is None else fleet.most_more
    for nodes, value in sorted(each, key=lambda item: -item[1]):
        coming = min(nodes.more, room)
        room -= coming
        total += value * (nodes.alive + coming)
    return total


def _alone(fleet: Fleet, want: Want) -> str | None:
    fits = capacity(fleet, want)
    if fits >= want.count:
        return None
    told = f"{want.who} wants {_amount(want)}"
    eligible = [nodes for nodes in fleet.nodes if matches(nodes.labels, want.labels) and nodes.count]
    if not eligible:
        return (
            f"{told}; no such node is there{_or_to_come(fleet)}. {_known_labels(fleet, want)}{_change(want, fleet, larger=False)}"
        )
    if fits == 0:
        return f"{told}; such nodes: {_listed(eligible, want)}: not one of them holds a single one. {_change(want, fleet)}"
    return f"{told}; such nodes: {_listed(eligible, want)}: {fits} of {want.count} fit. {_change(want, fleet)}"


def _crowded(fleet: Fleet, group: Sequence[Want]) -> str | None:
    """Wants that fit one by one, but not together.

    Tried are all sets of them: what a set takes in all of a resource, and its number of processes, each taken for as small as its
    smallest, against the nodes that any of them may use.
    """
    wants = [want for want in group if want.resources]
    for size in range(2, len(wants) + 1) if len(wants) <= 12 else (2, len(wants)):
        for chosen in combinations(wants, size):
            if (lacking := _lacking(fleet, chosen)) is not None:
                listed = "; ".join(f"{want.who}: {_amount(want)}" for want in chosen)
                remedies = " or ".join(dict.fromkeys(f"{want.who}: {want.remedy}" for want in chosen if want.remedy))
                return f"These run at the same time: {listed}. {lacking} Lower one of them ({remedies}), or {_grow(fleet)}."
    return None


def _lacking(fleet: Fleet, chosen: Sequence[Want]) -> str | None:
    eligible = [n for n in fleet.nodes if any(matches(n.labels, want.labels) for want in chosen)]
    for name in sorted({name for want in chosen for name in want.resources}):
        wanted = sum(want.count * want.resources.get(name, 0.0) for want in chosen)
        there = _most(fleet, [(nodes, nodes.resources.get(name, 0.0)) for nodes in eligible])
        if wanted > there + TINY:
            have = f"the nodes they may use have {_quantity(name, there)}{_at_most(fleet)}"
            return f"Together they want {_quantity(name, wanted)}; {have}."
    names = set.intersection(*(set(want.resources) for want in chosen))
    smallest = {name: min(want.resources[name] for want in chosen) for name in names}
    number = sum(want.count for want in chosen)
    fits = int(_most(fleet, [(nodes, holds(nodes.resources, smallest)) for nodes in eligible]))
    if number > fits:
        return f"Of these {number}, the nodes they may use hold {fits}{_at_most(fleet)}."
    return None


def _amount(want: Want) -> str:
    on = f" on nodes labelled {_labels(want.labels)}" if want.labels else ""
    how = {"STRICT_PACK": ", all on one node", "STRICT_SPREAD": ", each on a node of its own"}.get(want.strategy, "")
    inner = ", ".join(_quantity(name, amount) for name, amount in _ordered(want.resources)) or "nothing reserved"
    return f"{want.count} {want.noun} x ({inner}){on}{how}"


def _ordered(resources: Mapping[str, float]) -> list[tuple[str, float]]:
    """GPUs first, then CPUs, then the others by name."""
    return sorted(
        resources.items(), key=lambda item: (("GPU", "CPU").index(item[0]) if item[0] in ("GPU", "CPU") else 2, item[0])
    )


def _quantity(name: str, amount: float) -> str:
    if name.startswith(ACCELERATOR):
        return f"accelerator {name.removeprefix(ACCELERATOR)}" if amount else f"no accelerator {name.removeprefix(ACCELERATOR)}"
    return f"{amount:g} {name}{'s' if name in ('CPU', 'GPU') and amount != 1 else ''}"


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _listed(eligible: Sequence[Nodes], want: Want) -> str:
    """How many nodes there are and may come, kind by kind, with what one of them has of what is wanted."""
    words = []
    for nodes in eligible:
        has = ", ".join(_quantity(name, nodes.resources.get(name, 0.0)) for name, _ in _ordered(want.resources)) or "anything"
        counts = [f"{nodes.alive} alive"] * bool(nodes.alive or not nodes.more) + [f"{nodes.more} more to come"] * bool(
            nodes.more
        )
        words.append(f"{f'{nodes.name}: ' if nodes.name else ''}{' and '.join(counts)}, with {has} each")
    return "; ".join(words)


def _known_labels(fleet: Fleet, want: Want) -> str:
    keys: Callable[[Nodes], dict[str, str]] = lambda nodes: {key: nodes.labels[key] for key in want.labels if key in nodes.labels}  # noqa: E731
    found = sorted({_labels(shown) for nodes in fleet.nodes if nodes.count and (shown := keys(nodes))})
    return f"Nodes have {'; '.join(found)}. " if found else f"No node has a label {' or '.join(sorted(want.labels))}. "


def _or_to_come(fleet: Fleet) -> str:
    return {"none": "", "known": " or may come", "unknown": ""}[fleet.growth]


def _at_most(fleet: Fleet) -> str:
    return ", those to come included" if fleet.growth == "known" else ""


def _change(want: Want, fleet: Fleet, *, larger: bool = True) -> str:
    if not larger:
        return f"Correct resources for {want.who}, or {_grow(fleet)}."
    return f"Lower {want.remedy}, or {_grow(fleet)}."


def _grow(fleet: Fleet) -> str:
    if fleet.growth == "known":
        return "raise the bound of that group of nodes (KubeRay: maxReplicas; ray up: max_workers)"
    return "add such nodes to the cluster"

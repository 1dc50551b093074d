"""From a bounded simulation to any number of questions.

Few questions are simulated to the end, preemptions and all. For more, so many are simulated that the stage runs steadily, without
preemptions, and its rate there is taken to last: time = start, ramp and tail as simulated + questions / rate. What machines that
are taken away cost is then worked out: of each, the time until its successor answers.

With a deadline, everything the debates use is multiplied: debates are independent of one another, so that k times the machines,
workers and debates in flight hold k times the debates, as long as no provider's limit and no group's size is in the way.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from magdi_ray.simulate.debate import Outcome, simulate
from magdi_ray.simulate.scenario import Scenario

DIRECT = 10_000
"""Up to so many questions are simulated one by one."""
MOST = 100_000
"""Questions of a simulation at most, however long machines take to start."""
SETTLED = 0.4
"""Share of the debates after which the newest replica must have been there for a while."""
HELD = 1.1
"""Providers that allow less than so many times the pace are what holds it."""
FULL = 0.85
"""A replica that is busy for this share of the time is what the others wait for."""


@dataclass(frozen=True, slots=True)
class Steady:
    """The stage while nothing begins or ends."""

    debates_per_s: float
    """Preemptions not counted."""
    lost_share: float
    """Machine time lost to preemptions, over machine time that works."""
    edges_s: float
    """What start, ramp and tail take beside questions / rate."""
    outcome: Outcome
    settled: bool
    """Whether all replicas that were going to start had started."""


@dataclass(frozen=True, slots=True)
class Projected:
    """The debates of so many questions."""

    questions: int
    seconds: float
    """From the command to the last debate, machines and replicas being started among it."""
    debates_per_s: float
    simulated: int
    """Questions that were."""
    multiple: float
    """How many times the configured machines, workers and debates in flight."""
    machines: int
    """With local replicas, at most at once."""
    machine_s: float
    replicas: dict[str, int] = field(default_factory=dict)
    """Agent -> copies, at most at once."""
    workers: int = 1
    max_in_flight: int = 1
    bound: str = ""
    """What sets the time."""
    preempted: float = 0.0
    """Machines that are taken away meanwhile, expected or simulated."""
    late: bool = False
    """The deadline cannot be met with the machines there are."""


def steady(scenario: Scenario, *, seed: int = 0) -> Steady:
    """Simulate until the stage runs steadily, and what it then does in a second."""
    count = max(2000, 8 * scenario.max_in_flight)
    while True:
        outcome = simulate(scenario, count, seed=seed, preemption=False)
        settled = outcome.scaled_at < outcome.ended[int(SETTLED * count)]
        if settled or count >= MOST:
            break
        count = min(MOST, 2 * count)
    ended = outcome.ended
    last = max(count // 2, count - 2 * scenario.max_in_flight)
    first = min(max(count // 4, bisect_left(ended, outcome.scaled_at)), last - 100)
    rate = (last - first) / (ended[last] - ended[first])
    return Steady(rate, _lost(scenario), outcome.seconds - count / rate, outcome, settled)


def _lost(scenario: Scenario) -> float:
    """Of each preempted machine the time until its successor works, over the time between two of them."""
    share = 0.0
    if scenario.agent_nodes.preemptions_per_hour and any(agent.pool for agent in scenario.agents):
        nodes = scenario.agent_nodes
        load = max(agent.pool.load_s for agent in scenario.agents if agent.pool)
        share += nodes.preemptions_per_hour / 3600 * (nodes.start_s + load)
    nodes = scenario.worker_nodes
    return share + nodes.preemptions_per_hour / 3600 * (nodes.start_s + scenario.worker_start_s)


def deploying_s(scenario: Scenario) -> float:
    """From the command to the first debate: machines, then replicas on them."""
    local = [agent.pool.load_s for agent in scenario.agents if agent.pool]
    agents = scenario.agent_nodes.start_s + max(local) if local else 0.0
    return max(agents, scenario.worker_nodes.start_s) + scenario.overheads.fixed_s


def project(
    scenario: Scenario,
    questions: int,
    *,
    found: Steady,
    seed: int = 0,
    deadline_s: float | None = None,
    worker_share: float = 1.0,
) -> Projected:
    """The debates of so many questions; `found` is `steady(scenario)`, `worker_share` what a worker takes of a machine."""
    before = deploying_s(scenario)
    bound, cap = limit(scenario, found)
    if questions <= DIRECT:
        outcome = simulate(scenario, questions, seed=seed)
        seconds = before + outcome.seconds
        if deadline_s is None or seconds <= deadline_s:
            return Projected(
                questions,
                seconds,
                questions / outcome.seconds,
                questions,
                1.0,
                outcome.machines,
                outcome.machine_s + outcome.machines * before,
                outcome.replicas,
                scenario.workers,
                scenario.max_in_flight,
                bound,
                outcome.preempted,
            )
    rate = found.debates_per_s / (1.0 + found.lost_share)
    edges = before + max(0.0, found.edges_s)
    multiple = 1.0
    if deadline_s is not None and edges + questions / rate > deadline_s:
        needed = questions / rate / max(1.0, deadline_s - edges)
        # Within a tenth of what providers allow, more machines would only wait with the others.
        allowed = cap / rate if cap > HELD * rate else 1.0
        multiple = max(1.0, min(needed, _most_multiple(scenario, found, worker_share), allowed))
    pace = min(rate * multiple, max(cap, rate))
    seconds = edges + questions / pace
    machines = math.ceil(found.outcome.machines * multiple)
    lost = machines * scenario.agent_nodes.preemptions_per_hour + math.ceil(scenario.workers * multiple) * (
        scenario.worker_nodes.preemptions_per_hour
    )
    return Projected(
        questions=questions,
        seconds=seconds,
        debates_per_s=pace,
        simulated=found.outcome.questions,
        multiple=multiple,
        machines=machines,
        machine_s=machines * seconds,
        replicas={name: math.ceil(most * multiple) for name, most in found.outcome.replicas.items()},
        workers=math.ceil(scenario.workers * multiple),
        max_in_flight=math.ceil(scenario.max_in_flight * multiple),
        bound=bound,
        preempted=lost * seconds / 3600,
        late=deadline_s is not None and seconds > 1.001 * deadline_s,
    )


def _most_multiple(scenario: Scenario, found: Steady, worker_share: float) -> float:
    """How many times the groups may grow."""
    workers = math.ceil(scenario.workers * worker_share)
    most = scenario.worker_nodes.most / workers
    return min(most, scenario.agent_nodes.most / found.outcome.machines) if found.outcome.machines else most


def limit(scenario: Scenario, found: Steady) -> tuple[str, float]:
    """What sets the pace, in words, and the debates a second that the providers' limits allow (infinity without any)."""
    calls, tokens = scenario.calls(), scenario.tokens()
    caps: dict[str, float] = {}
    for place, provider in enumerate(scenario.providers):
        users = [number for number, agent in enumerate(scenario.agents) if agent.provider == place]
        asked, counted = sum(calls[u] for u in users), sum(sum(tokens[u]) for u in users)
        if not asked:
            continue
        worked = 0.0
        for user in users:
            latency = scenario.agents[user].latency
            assert latency is not None
            worked += (latency.base_s * calls[user] + latency.per_token_s * tokens[user][1]) * latency.mean_factor
        limits = provider.limits
        caps[f"{limits.concurrency} concurrent requests to {provider.name}"] = limits.concurrency / max(1e-9, worked)
        if limits.rpm is not None:
            caps[f"{limits.rpm} requests/min of {provider.name}"] = limits.rpm / 60 / asked
        if limits.tpm is not None:
            caps[f"{limits.tpm} tokens/min of {provider.name}"] = limits.tpm / 60 / max(1e-9, counted)
    cap = min(caps.values(), default=math.inf)
    local = {a.name: found.outcome.busy[a.name] for a in scenario.agents if a.pool and a.name in found.outcome.busy}
    busiest = max(local, key=lambda name: local[name], default=None)
    if cap < HELD * found.debates_per_s:
        return min(caps, key=lambda name: caps[name]), cap
    if busiest is not None and local[busiest] >= FULL:
        return f"replicas of {busiest}, {local[busiest]:.0%} busy", cap
    return f"{scenario.max_in_flight} debates in flight (debate.max_in_flight)", cap

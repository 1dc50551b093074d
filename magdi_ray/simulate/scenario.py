"""A scenario: everything a simulated debate stage depends on, as plain data. It says nothing of how it is simulated.

A trace is one debate as calls: rounds of calls asked at once, each (agent, tokens read, tokens written). Debates of a scenario
are drawn from its traces, which come from a measured run or from a rehearsal of the protocol; early stopping is in their lengths.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from magdi_ray.config.engines import Limits


class Call(NamedTuple):
    """One reply of one agent."""

    agent: int
    """Place in `Scenario.agents`."""
    tokens_in: int
    tokens_out: int


Trace = tuple[tuple[Call, ...], ...]
"""A debate's rounds."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds a provider takes for one request it works on, waiting in any line not counted."""

    base_s: float
    per_token_s: float = 0.0
    """For each token written."""
    factors: tuple[float, ...] = (1.0,)
    """Equally likely factors on all of it: how much requests differ."""

    def draw(self, rng: random.Random, tokens_out: int) -> float:
        """Of one request."""
        factors = self.factors
        return (self.base_s + self.per_token_s * tokens_out) * factors[int(rng.random() * len(factors))]

    @property
    def mean_factor(self) -> float:
        """On average."""
        return sum(self.factors) / len(self.factors)


@dataclass(frozen=True, slots=True)
class Provider:
    """Who is asked over HTTP: what we keep to, and what is really so."""

    name: str
    limits: Limits
    """What the run's limiter keeps to."""
    capacity: int | None = None
    """Requests worked on at once; None: as many as come."""
    beyond: Literal["wait", "refuse"] = "wait"
    """What becomes of requests beyond the capacity; `refuse` is a 429."""
    rpm: int | None = None
    """Requests a minute it really takes, 429 beyond them; None: it takes all that the limiter lets through."""
    retry_after_s: float = 1.0
    """Named in a refusal for lack of capacity."""
    overloaded_share: float = 0.0
    """Share of the requests that come to nothing (529), whatever the load."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a batch: `start + prefill x tokens read + (step + sequence x rows) x tokens of the longest reply`."""

    start_s: float
    """Of a batch, whatever is in it."""
    step_s: float
    """Of decoding one token, the weights being read once for all rows."""
    sequence_s: float
    """More for each row of the batch."""
    prefill_s: float = 0.0
    """For each token read."""

    def seconds(self, rows: int, tokens_in: int, longest: int) -> float:
        """Of one batch."""
        return self.start_s + self.prefill_s * tokens_in + (self.step_s + self.sequence_s * rows) * longest


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines of a group, as far as time depends on them."""

    start_s: float = 0.0
    """From asking for one to its being there."""
    most: int = 1_000_000
    preemptions_per_hour: float = 0.0
    """Of one machine, on average; they come at random."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Local replicas of one agent's engine."""

    replicas: tuple[int, int]
    batch: int
    speed: Speed
    batching: Literal["dynamic", "continuous"] = "dynamic"
    node_share: float = 1.0
    """Of a machine that one replica takes; replicas of several agents share machines."""
    load_s: float = 0.0
    """From a machine being there to the replica answering."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One seat: exactly one of `provider` (its place in `Scenario.providers`, with the model's latency) and `pool`."""

    name: str
    provider: int | None = None
    latency: Latency | None = None
    pool: Pool | None = None
    max_tokens: int = 0
    """Of a reply; so many are reserved at the limiter until the real number is known."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """What the stage adds to its calls. The defaults were measured on two cores of 2.x GHz (benchmarks/README.md)."""

    call_s: float = 0.0007
    """CPU time of a worker for one call."""
    exchange_s: float = 0.008
    """Between two talks of a worker with the limiter (`agents.limiter.SPACING_S`)."""
    fixed_s: float = 8.0
    """Of starting and ending the stage, replicas being deployed aside."""
    retry_s: float = 0.5
    """Until a request whose replica died asks again."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A debate stage on a cluster."""

    agents: tuple[Agent, ...]
    traces: Sequence[Trace]
    providers: tuple[Provider, ...] = ()
    workers: int = 1
    max_in_flight: int = 512
    overheads: Overheads = Overheads()
    agent_nodes: Nodes = Nodes()
    """Where local replicas run."""
    worker_nodes: Nodes = Nodes()
    """Where the workers run; each is taken for a machine of its own when it comes to preemption."""
    worker_start_s: float = 10.0
    """From a machine being there to the worker holding debates."""

    def calls(self) -> list[float]:
        """Calls of each agent a debate, on average."""
        counts = [0] * len(self.agents)
        for trace in self.traces:
            for asked in trace:
                for call in asked:
                    counts[call.agent] += 1
        return [count / len(self.traces) for count in counts]

    def tokens(self) -> list[tuple[float, float]]:
        """Tokens (read, written) of each agent a debate, on average."""
        sums = [[0, 0] for _ in self.agents]
        for call in (call for trace in self.traces for asked in trace for call in asked):
            sums[call.agent][0] += call.tokens_in
            sums[call.agent][1] += call.tokens_out
        return [(read / len(self.traces), written / len(self.traces)) for read, written in sums]

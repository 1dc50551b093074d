"""A simulated debate stage: questions to debates, debates to rounds, rounds to calls.

As in the real stage (`debate.run`, `debate.operator`): workers take in blocks of questions and debate so many of them at once;
the calls of a round are under way together, and the next round begins when the last of them has its reply.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace

from magdi_ray.simulate.events import Loop
from magdi_ray.simulate.hosting import Hosting, Machines
from magdi_ray.simulate.providing import MARGIN, CpuLine, Request, Serving
from magdi_ray.simulate.scenario import Call, Scenario, Trace

BLOCK = 64
"""Questions a worker takes in at once (`debate.run.BLOCK`)."""
SLACK = 2
"""A worker takes in so many times what it debates at once (`debate.run.SLACK`)."""


@dataclass(slots=True)
class Outcome:
    """What a simulated stage came to. Seconds count from the moment the workers hold debates."""

    questions: int
    seconds: float = 0.0
    """Until the last debate ended."""
    first_s: float = 0.0
    """The first reply."""
    calls: int = 0
    """Replies that counted."""
    wasted: int = 0
    """Replies that came when whoever asked was gone."""
    refused: int = 0
    """429 and 529."""
    failed: int = 0
    """Debates with a call that was refused too often."""
    preempted: int = 0
    """Machines and workers."""
    machine_s: float = 0.0
    """Machine-seconds of local replicas."""
    machines: int = 0
    """At most at once."""
    replicas: dict[str, int] = field(default_factory=dict)
    """Agent -> most copies ready at once."""
    busy: dict[str, float] = field(default_factory=dict)
    """Agent or provider -> share of the time that its copies, or the requests it may have under way, were busy."""
    ended: list[float] = field(default_factory=list)
    """When each debate ended, in order."""
    scaled_at: float = 0.0
    """When the newest replica became ready."""


class Held:
    """A debate under way."""

    __slots__ = ("epoch", "failed", "open", "round", "trace", "worker")

    def __init__(self, trace: Trace, worker: Worker) -> None:
        self.trace, self.worker = trace, worker
        self.round = -1
        self.open = 0
        """Bits of the calls of the round that lack a reply."""
        self.epoch = 0
        """Counts the times its worker was lost."""
        self.failed = False


class Worker:
    """A process that holds debates."""

    __slots__ = ("cpu", "held", "intake", "up")

    def __init__(self) -> None:
        self.cpu = CpuLine()
        self.intake: deque[Trace] = deque()
        self.held: dict[Held, None] = {}
        """In the order in which they began."""
        self.up = True


class Stage:
    """One simulation."""

    def __init__(self, scenario: Scenario, questions: int, *, seed: int, preemption: bool = True) -> None:
        self.scenario, self.loop = scenario, Loop()
        rng = self.rng = random.Random(seed)
        self.left = questions
        self.outcome = Outcome(questions)
        self.servings = [Serving(self.loop, provider, scenario.overheads, rng) for provider in scenario.providers]
        self.machines = Machines(self.loop, scenario.agent_nodes, rng)
        self.hostings = {
            place: Hosting(self.loop, agent.pool, self.machines, scenario.overheads, rng)
            for place, agent in enumerate(scenario.agents)
            if agent.pool is not None
        }
        self.workers = [Worker() for _ in range(scenario.workers)]
        self.places = max(1, scenario.max_in_flight // scenario.workers)
        self.room = max(1, SLACK * scenario.max_in_flight // scenario.workers // BLOCK) * BLOCK
        self.serial = 0
        self.preemption = preemption

    def run(self) -> Outcome:
        """From the first question to the last answer."""
        for worker in self.workers:
            self._await_loss(worker)
        self._feed()
        outcome = self.outcome
        self.loop.run(lambda: len(outcome.ended) >= outcome.questions)
        self._sum_up()
        return outcome

    def _feed(self) -> None:
        """Hand out blocks in turns, and start as many debates as there are places."""
        while self.left:
            worker = min((w for w in self.workers if w.up), key=lambda w: len(w.intake) + len(w.held), default=None)
            if worker is None or len(worker.intake) + len(worker.held) + min(BLOCK, self.left) > max(self.room, BLOCK):
                break
            block = min(BLOCK, self.left)
            self.left -= block
            traces = self.scenario.traces
            worker.intake.extend(traces[int(self.rng.random() * len(traces))] for _ in range(block))
        for worker in self.workers:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        while worker.up and worker.intake and len(worker.held) < self.places:
            held = Held(worker.intake.popleft(), worker)
            worker.held[held] = None
            self._next_round(held)

    def _next_round(self, held: Held) -> None:
        held.round += 1
        if held.round >= len(held.trace) or held.failed:
            self._end(held)
            return
        calls = held.trace[held.round]
        held.open = (1 << len(calls)) - 1
        for place, call in enumerate(calls):
            self._ask(held, place, call)

    def _ask(self, held: Held, place: int, call: Call) -> None:
        self.serial += 1
        agent, epoch, bit = self.scenario.agents[call.agent], held.epoch, 1 << place
        request = Request(self.serial, (call.tokens_in, call.tokens_out), agent.latency, held.worker.cpu)

        def done(well: bool) -> None:
            self._replied(held, epoch, bit, well=well)

        request.done = done
        if agent.provider is not None:
            request.reserved = int(MARGIN * call.tokens_in) + max(call.tokens_out, agent.max_tokens)
            request.stale = lambda: held.epoch != epoch
            self.servings[agent.provider].ask(request)
        else:
            sent = held.worker.cpu.take(self.loop.now, self.scenario.overheads.call_s)
            self.loop.at(sent, self.hostings[call.agent].ask, request)

    def _replied(self, held: Held, epoch: int, bit: int, *, well: bool) -> None:
        outcome = self.outcome
        if held.epoch != epoch:
            outcome.wasted += 1
            return
        if not outcome.calls:
            outcome.first_s = self.loop.now
        outcome.calls += 1
        held.failed = held.failed or not well
        held.open &= ~bit
        if not held.open:
            self._next_round(held)

    def _end(self, held: Held) -> None:
        worker, outcome = held.worker, self.outcome
        outcome.failed += held.failed
        outcome.ended.append(self.loop.now)
        worker.held.pop(held, None)
        if self.left and len(worker.intake) + len(worker.held) + BLOCK <= self.room:
            self._feed()
        else:
            self._begin(worker)

    def _await_loss(self, worker: Worker) -> None:
        rate = self.scenario.worker_nodes.preemptions_per_hour
        if self.preemption and rate:
            self.loop.after(self.rng.expovariate(rate / 3600), self._lose, worker)

    def _lose(self, worker: Worker) -> None:
        """A worker is gone. Replies in the store stay; what it was waiting for is asked again by its successor."""
        self.outcome.preempted += 1
        worker.up = False
        for held in worker.held:
            held.epoch += 1
        self.loop.after(self.scenario.worker_nodes.start_s + self.scenario.worker_start_s, self._return, worker)

    def _return(self, worker: Worker) -> None:
        worker.up = True
        for held in sorted(worker.held, key=lambda h: -h.round):
            for place, call in enumerate(held.trace[held.round]):
                if held.open >> place & 1:
                    self._ask(held, place, call)
        self._await_loss(worker)
        self._feed()

    def _sum_up(self) -> None:
        outcome, scenario = self.outcome, self.scenario
        seconds = outcome.seconds = self.loop.now
        outcome.preempted += self.machines.preempted
        outcome.machine_s, outcome.machines = self.machines.total_seconds(), self.machines.most
        outcome.refused = sum(serving.refused for serving in self.servings)
        for place, hosting in self.hostings.items():
            name = scenario.agents[place].name
            outcome.replicas[name] = hosting.most
            outcome.busy[name] = hosting.busy_s / max(1e-9, seconds * hosting.most)
        outcome.scaled_at = max((h.scaled_at for h in self.hostings.values()), default=0.0)
        for serving in self.servings:
            most = min(serving.provider.limits.concurrency, serving.capacity or 1_000_000_000)
            outcome.busy[serving.provider.name] = serving.busy_s / max(1e-9, seconds * most)


def simulate(scenario: Scenario, questions: int, *, seed: int = 0, preemption: bool = True) -> Outcome:
    """Hold `questions` simulated debates. Equal arguments give equal outcomes. `preemption`: False leaves machines alone."""
    if not preemption:
        scenario = replace(scenario, agent_nodes=replace(scenario.agent_nodes, preemptions_per_hour=0.0))
    return Stage(scenario, questions, seed=seed, preemption=preemption).run()

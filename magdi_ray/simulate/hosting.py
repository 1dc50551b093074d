"""Simulated machines and the local replicas on them: batching, autoscaling, preemption.

A replica takes requests as Ray Serve hands them out (the less laden of two) and keeps them; one that comes later relieves only
what comes later. Copies are added as Serve adds them; none are taken away before the stage ends, as its load does not fall.
"""

from __future__ import annotations

import math
import random
from collections import deque

from magdi_ray.simulate.events import Loop
from magdi_ray.simulate.providing import Request
from magdi_ray.simulate.scenario import Nodes, Overheads, Pool

UPSCALE_SECONDS = 5.0
"""`agents.pool.UPSCALE_SECONDS`: so long must the load stay for another copy to start."""


class Machine:
    """One machine of the group."""

    __slots__ = ("gone", "ready_at", "replicas", "room", "since")

    def __init__(self, since: float, ready_at: float) -> None:
        self.since, self.ready_at, self.room = since, ready_at, 1.0
        self.replicas: list[tuple[Hosting, Replica]] = []
        self.gone = False


class Machines:
    """All machines with local replicas; those asked for and not there yet among them."""

    def __init__(self, loop: Loop, nodes: Nodes, rng: random.Random) -> None:
        self.loop, self.nodes, self.rng = loop, nodes, rng
        self.machines: list[Machine] = []
        self.seconds = 0.0
        """Of machines that are gone."""
        self.most = self.preempted = 0

    def place(self, share: float, *, now_there: bool = False) -> Machine | None:
        """A machine with room for a replica, started where there is none; None where the group is full."""
        for machine in self.machines:
            if machine.room >= share - 1e-9:
                machine.room -= share
                return machine
        if len(self.machines) >= self.nodes.most:
            return None
        now = self.loop.now
        machine = Machine(now, now if now_there else now + self.nodes.start_s)
        machine.room -= share
        self.machines.append(machine)
        self.most = max(self.most, len(self.machines))
        if self.nodes.preemptions_per_hour:
            lasts = self.rng.expovariate(self.nodes.preemptions_per_hour / 3600)
            self.loop.at(machine.ready_at + lasts, self._preempt, machine)
        return machine

    def _preempt(self, machine: Machine) -> None:
        self.preempted += 1
        machine.gone = True
        self.machines.remove(machine)
        self.seconds += self.loop.now - machine.since
        for hosting, replica in machine.replicas:
            hosting.lose(replica)

    def total_seconds(self) -> float:
        """Machine-seconds until now."""
        return self.seconds + sum(self.loop.now - machine.since for machine in self.machines)


class Replica:
    """One copy of an engine."""

    __slots__ = ("busy", "dead", "machine", "ready", "waiting", "working")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.waiting: deque[Request] = deque()
        self.working: dict[int, Request] = {}
        self.ready = self.dead = self.busy = False

    @property
    def load(self) -> int:
        """Requests it holds."""
        return len(self.waiting) + len(self.working)


class Hosting:
    """The replicas of one engine."""

    def __init__(self, loop: Loop, pool: Pool, machines: Machines, overheads: Overheads, rng: random.Random) -> None:
        self.loop, self.pool, self.machines, self.overheads, self.rng = loop, pool, machines, overheads, rng
        self.replicas: list[Replica] = []
        """Ready ones."""
        self.starting = 0
        self.backlog: deque[Request] = deque()
        self.held = 0
        self.busy_s = 0.0
        self.most = 0
        self.scaled_at = 0.0
        """When the newest replica became ready."""
        self._checking = False
        for _ in range(pool.replicas[0]):
            self._start(first=True)

    def ask(self, request: Request) -> None:
        """Give a request to a replica."""
        self.held += 1
        self._route(request)
        self._consider()

    def _route(self, request: Request) -> None:
        if not self.replicas:
            self.backlog.append(request)
            return
        replicas = self.replicas
        if len(replicas) == 1:
            replica = replicas[0]
        else:
            one, other = self.rng.sample(replicas, 2)
            replica = one if one.load <= other.load else other
        replica.waiting.append(request)
        self._go(replica)

    def _go(self, replica: Replica) -> None:
        (self._dynamic if self.pool.batching == "dynamic" else self._continuous)(replica)

    def _dynamic(self, replica: Replica) -> None:
        if replica.busy or not replica.waiting:
            return
        taken = [replica.waiting.popleft() for _ in range(min(self.pool.batch, len(replica.waiting)))]
        read, longest = sum(r.tokens_in for r in taken), max(r.tokens_out for r in taken)
        seconds = self.pool.speed.seconds(len(taken), read, longest)
        replica.busy = True
        replica.working = {r.serial: r for r in taken}
        self.busy_s += seconds
        self.loop.after(seconds, self._batch_done, replica, taken)

    def _batch_done(self, replica: Replica, taken: list[Request]) -> None:
        if replica.dead:
            return
        replica.busy = False
        replica.working.clear()
        self.held -= len(taken)
        for request in taken:
            request.done(True)
        self._go(replica)

    def _continuous(self, replica: Replica) -> None:
        """Rows decode at the pace of the batch they joined: the batch is taken to stay as large as it is then."""
        speed = self.pool.speed
        while replica.waiting and len(replica.working) < self.pool.batch:
            request = replica.waiting.popleft()
            replica.working[request.serial] = request
            rows = len(replica.working)
            seconds = speed.seconds(rows, request.tokens_in, request.tokens_out)
            self.busy_s += seconds / self.pool.batch
            self.loop.after(seconds, self._row_done, replica, request)

    def _row_done(self, replica: Replica, request: Request) -> None:
        if replica.dead:
            return
        del replica.working[request.serial]
        self.held -= 1
        request.done(True)
        self._go(replica)

    def _wanted(self) -> int:
        low, high = self.pool.replicas
        return max(low, min(high, math.ceil(self.held / self.pool.batch)))

    def _consider(self) -> None:
        if not self._checking and self._wanted() > len(self.replicas) + self.starting:
            self._checking = True
            self.loop.after(UPSCALE_SECONDS, self._check)

    def _check(self) -> None:
        self._checking = False
        for _ in range(self._wanted() - len(self.replicas) - self.starting):
            self._start()

    def _start(self, *, first: bool = False) -> None:
        machine = self.machines.place(self.pool.node_share, now_there=first)
        if machine is None:
            return
        replica = Replica(machine)
        machine.replicas.append((self, replica))
        self.starting += 1
        if first:  # the stage begins when the fewest copies are deployed
            self._ready(replica)
        else:
            self.loop.at(machine.ready_at + self.pool.load_s, self._ready, replica)

    def _ready(self, replica: Replica) -> None:
        if replica.dead:
            return
        self.starting -= 1
        replica.ready = True
        self.replicas.append(replica)
        self.most = max(self.most, len(self.replicas))
        self.scaled_at = self.loop.now
        while self.backlog:
            self._route(self.backlog.popleft())

    def lose(self, replica: Replica) -> None:
        """Its machine is gone: what it held asks again elsewhere, and another copy starts."""
        replica.dead = True
        if replica.ready:
            self.replicas.remove(replica)
        else:
            self.starting -= 1
        for request in (*replica.working.values(), *replica.waiting):
            self.loop.after(self.overheads.retry_s, self._route, request)
        self.loop.after(0.0, self._check)

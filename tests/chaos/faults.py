"""What can befall a run, and how it is made to happen here. One signature: `strike(scene, draw) -> what ends it, or None`.

A fault that finds nothing to strike raises `NotYet` and is tried again a moment later.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.chaos.plan import Card
from tests.chaos.tails import tear

if TYPE_CHECKING:
    from tests.chaos.scene import Scene

BRIEF_S = 6.0
"""So long storage or the provider fails, and is slow."""
SLOW_MS = 150
"""Of every call to slow storage."""
GRACE_S = 20.0
"""Between SIGTERM and SIGKILL; clouds give 30 to 120 s."""
CLOCK_S = 3600.0
NODE_S = 2.0
"""Until another node takes the place of one that is gone."""


class NotYet(Exception):
    """There is nothing to strike so far."""


@dataclass(frozen=True)
class Cure:
    """What ends a fault."""

    after_s: float
    act: Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """A kind of accident."""

    name: str
    stages: tuple[str, ...]
    """That it can strike."""
    done: str
    """What is done here."""
    strike: Callable[[Scene, random.Random], Cure | None]
    loses_calls: bool = True
    """Whether calls in flight may be lost with who asked."""
    patient: bool = False
    """Whether it needs something that has begun to work."""


def _kill(scene: Scene, *titles: str, draw: random.Random) -> None:
    found = [one for one in scene.processes() if any(title in _title(one) for title in titles)]
    if not found:
        raise NotYet
    draw.choice(sorted(found, key=lambda one: one.pid)).send_signal(signal.SIGKILL)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:2])
    return ""


def _worker(scene: Scene, draw: random.Random) -> None:
    _kill(scene, "DebateOperator", "AnswerOperator", draw=draw)


def _replica(scene: Scene, draw: random.Random) -> None:
    _kill(scene, "ServeReplica:", draw=draw)


def _trainer(scene: Scene, draw: random.Random) -> None:
    _kill(scene, "RayTrainWorker", draw=draw)


def _driver_killed(scene: Scene, draw: random.Random) -> None:
    os.killpg(scene.driver.pid, signal.SIGKILL)


def _reclaimed(scene: Scene, draw: random.Random) -> Cure:
    scene.driver.send_signal(signal.SIGTERM)

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(scene.driver.pid, signal.SIGKILL)

    return Cure(GRACE_S, kill)


def _node(scene: Scene, draw: random.Random) -> Cure:
    cluster = scene.grounds.cluster
    node = draw.choice([node for node in cluster.nodes[1:] if not node.killed])
    raylet = next((one for one in node.processes() if Path(one.name()).name == "raylet"), None)
    if raylet is None:
        raise NotYet
    node.killed = True
    raylet.send_signal(signal.SIGKILL)
    return Cure(NODE_S, lambda: (cluster.add_node(wait=False), None)[1])


def _head(scene: Scene, draw: random.Random) -> None:
    with suppress(ProcessLookupError):
        os.killpg(scene.driver.pid, signal.SIGKILL)  # jobs run on the head
    scene.grounds.renew()


def _full(scene: Scene, draw: random.Random) -> Cure:
    ballast = scene.grounds.fill()
    return Cure(BRIEF_S, lambda: ballast.unlink(missing_ok=True))


def _failing(scene: Scene, draw: random.Random) -> Cure:
    _behind_the_shim(scene)
    scene.grounds.shim.storage(error=errno.EIO)
    return Cure(BRIEF_S, scene.grounds.shim.storage)


def _behind_the_shim(scene: Scene) -> None:
    with suppress(OSError, psutil.Error):
        if scene.grounds.shimmed():
            return
    raise NotYet


def _slow(scene: Scene, draw: random.Random) -> Cure:
    _behind_the_shim(scene)
    scene.grounds.shim.storage(delay_ms=SLOW_MS)
    return Cure(BRIEF_S, scene.grounds.shim.storage)


def _torn(scene: Scene, draw: random.Random) -> None:
    """The driver is killed; the tail is torn when it has ended and before it is started again."""
    os.killpg(scene.driver.pid, signal.SIGKILL)
    scene.between.append(lambda: tear(scene.run, scene.stage, draw))


def _clock(scene: Scene, draw: random.Random) -> None:
    _behind_the_shim(scene)
    scene.grounds.shim.clock(shift_s=draw.choice((-CLOCK_S, CLOCK_S)))


def _refusing(scene: Scene, draw: random.Random) -> Cure:
    scene.grounds.teacher.mood = "refusing"
    return Cure(BRIEF_S, scene.grounds.cheer)


def _breaking(scene: Scene, draw: random.Random) -> Cure:
    scene.grounds.teacher.mood = "breaking"
    return Cure(BRIEF_S, scene.grounds.cheer)


ASKING = ("debates", "evaluation")
LEARNING = ("debates", "student")
LONG = (*LEARNING, "evaluation")
ALL = (*LONG, "report")
FAULTS = (
    Fault("worker-killed", ASKING, "SIGKILL to a process that asks (Ray Data actor)", _worker, patient=True),
    Fault("replica-killed", ("debates",), "SIGKILL to an engine's replica", _replica, loses_calls=False, patient=True),
    Fault("trainer-killed", ("student",), "SIGKILL to one of two training workers", _trainer, loses_calls=False, patient=True),
    Fault("driver-killed", ALL, "SIGKILL to the driver", _driver_killed),
    Fault("reclaimed", LONG, "SIGTERM to the driver, SIGKILL after 20 s", _reclaimed),
    Fault("node-lost", LONG, "SIGKILL to a node's raylet; another node after 2 s", _node),
    Fault("head-lost", LONG, "SIGKILL to everything, the driver too; a new cluster", _head),
    Fault("disk-full", LONG, "the run's file system is full for 6 s", _full),
    Fault("storage-failing", LONG, "calls to the run's storage fail with EIO for 6 s", _failing),
    Fault("storage-slow", LEARNING, "calls to the run's storage take 150 ms more for 6 s", _slow, loses_calls=False),
    Fault("tail-torn", LONG, "SIGKILL to the driver; a file's end is torn before the next attempt", _torn),
    Fault("clock-moved", LEARNING, "Python's wall clock jumps by an hour, back or ahead", _clock, loses_calls=False),
    Fault("provider-refusing", ("debates",), "every call gets 503 for 6 s", _refusing, loses_calls=False),
    Fault("provider-breaking", ("debates",), "every connection breaks for 6 s", _breaking, loses_calls=False),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
PATIENT = frozenset(fault.name for fault in FAULTS if fault.patient)


def cards(names: Sequence[str] | None = None) -> list[Card]:
    """Every pair of fault and stage, or those of some faults."""
    return [(fault.name, stage) for fault in FAULTS if names is None or fault.name in names for stage in fault.stages]

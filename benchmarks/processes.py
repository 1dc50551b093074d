"""What processes hold while something goes on: memory, open files, threads, looked at again and again; and whether it grows.

RSS counts pages that are shared with other processes, such as Ray's object store; USS counts only what would be given back if the
process ended, and is what a leak is seen in.
"""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from scipy import stats

BLOCKS = 12
"""A slope is fitted to the means of so many equal stretches: single looks follow one another too closely to count as evidence."""

Groups = Mapping[str, Sequence[psutil.Process]]


def end_with_family(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """Ask a process to end, and after `grace_s` seconds end it and whatever it had started."""
    family = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace_s)
    for one in family:
        with suppress(psutil.Error):
            one.kill()
    process.kill()
    process.wait()


@dataclass(slots=True)
class Held:
    """What the processes of one group held at one moment, together."""

    processes: int = 0
    rss: float = 0.0
    """MB."""
    uss: float = 0.0
    """MB."""
    files: int = 0
    """Open files, sockets and pipes."""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """All groups at one moment, and whatever else was asked then."""

    at: float
    """Seconds since the watch began."""
    held: Mapping[str, Held]
    figures: Mapping[str, float]


def held_by(processes: Sequence[psutil.Process]) -> Held:
    """What these processes hold; those that have just ended hold nothing."""
    total = Held()
    for process in processes:
        with suppress(psutil.Error, OSError):
            memory = process.memory_full_info()
            files, threads = process.num_fds(), process.num_threads()
            total.processes += 1
            total.rss += memory.rss / 1e6
            total.uss += memory.uss / 1e6
            total.files += files
            total.threads += threads
    return total


def title(process: psutil.Process) -> str:
    """A process's command line, which Ray's workers set to what they do; empty for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@dataclass
class Watch:
    """What was seen so far. Times of `events` are seconds since it began."""

    looks: list[Look] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def mark(self, what: str) -> None:
        """Something happened just now."""
        self.events.append((self.now(), what))

    def series(self, group: str, name: str, *, since: float = 0.0, until: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
        """Times, and what a group held then: `rss`, `uss`, `files` or `threads`; where no process of it was there, nothing."""
        found = [
            (look.at, getattr(held, name))
            for look in self.looks
            if since <= look.at <= until and (held := look.held.get(group)) is not None and held.processes
        ]
        return np.array([at for at, _ in found]), np.array([value for _, value in found])

    def save(self, path: Path) -> None:
        """All that was seen, a line of JSON a look."""
        with path.open("w", encoding="utf-8") as stream:
            for look in self.looks:
                row = {
                    "at": look.at,
                    "held": {name: asdict(held) for name, held in look.held.items()},
                    "figures": dict(look.figures),
                }
                stream.write(json.dumps(row) + "\n")


@contextmanager
def watching(find: Callable[[], Groups], figures: Callable[[], Mapping[str, float]], *, every: float) -> Iterator[Watch]:
    """Look at processes and figures from a thread of its own, as long as the body runs; what cannot be read is left out."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            due = max(due + every, time.monotonic())
            held, read = {}, {}
            with suppress(psutil.Error, OSError):
                held = {name: held_by(processes) for name, processes in find().items()}
            with suppress(Exception):  # whatever is asked may just be starting or ending
                read = dict(figures())
            watch.looks.append(Look(watch.now(), held, read))

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Slope:
    """How much a figure grows with something, and how sure that is."""

    slope: float
    low: float
    high: float
    """95% interval, by Student's t over the stretches' means."""
    mean: float
    """Of the figure."""
    points: int
    """Stretches it rests on."""

    def __str__(self) -> str:
        return f"{self.slope:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def slope_of(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, *, blocks: int = BLOCKS) -> Slope | None:
    """The least-squares slope of `y` over `x`, fitted to the means of equal stretches of the looks; None of fewer than three."""
    found = [part for part in np.array_split(np.column_stack([x, y]), blocks) if len(part)]
    means = np.array([part.mean(axis=0) for part in found])
    if len(means) < 3 or np.ptp(means[:, 0]) == 0:
        return None
    fit = stats.linregress(means[:, 0], means[:, 1])
    reach = stats.t.ppf(0.975, len(means) - 2) * fit.stderr
    return Slope(fit.slope, fit.slope - reach, fit.slope + reach, float(np.mean(y)), len(means))

"""Whose work a piece of code is doing: the run and the stage that metrics and log lines are labelled with. Pure.

A thread or coroutine may say it for itself (`at`: a driver carries out several stages at once), a process once for all (`settle`:
a worker belongs to one stage).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

VARIABLE = "MAGDI_RUN"
"""Environment variable by which workers learn their run before anything else is said to them."""


@dataclass(frozen=True, slots=True)
class Where:
    """A run and one of its stages; "" for what is not known."""

    run: str = ""
    """The configuration's `name`."""
    run_id: str = ""
    """Drawn when the run directory is made: two runs of one name differ in it, two attempts at one run do not."""
    stage: str = ""
    """As its directory is called: "debates", "student", "ablations/level1", "evaluation"."""

    @property
    def labels(self) -> dict[str, str]:
        """As a metric and a line of JSON have it."""
        return asdict(self)

    @property
    def full_name(self) -> str:
        """What the run is called in its records: "name-id", see `named`."""
        return "-".join(part for part in (self.run, self.run_id) if part)

    def __str__(self) -> str:
        return f"{self.full_name or '-'} {self.stage or '-'}"


_here: ContextVar[Where | None] = ContextVar("magdi_where", default=None)


class _Process:
    """What was settled for this process."""

    where: Where | None = None


def named(run: str, stage: str = "") -> Where:
    """From what a run is called in its records: "mine-3f9c01ab22e7" is the run `mine` with the id after the last dash."""
    name, _, identity = run.rpartition("-")
    return Where(name, identity, stage) if name else Where(run, "", stage)


def here() -> Where:
    """What was said for this thread or coroutine, else for this process, else what the environment says of the run."""
    return _here.get() or _Process.where or named(os.environ.get(VARIABLE, ""))


@contextmanager
def at(where: Where) -> Iterator[Where]:
    """For the time of the body. A new thread knows nothing of it: start it inside `contextvars.copy_context().run`."""
    token = _here.set(where)
    try:
        yield where
    finally:
        _here.reset(token)


def settle(where: Where) -> None:
    """From now on, for the whole process: what a worker is told when it begins."""
    _Process.where = where


def handed_on() -> Mapping[str, str]:
    """Environment variables that tell workers which run they work for; none where this process does not know."""
    run = here().full_name
    return {VARIABLE: run} if run else {}

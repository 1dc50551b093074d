"""What an example may cost: computing time, by the processor's clock so that a busy machine fails nobody, and memory."""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MEMORY = 1 << 29
"""Bytes that one example may add to the most this process ever held."""

STUCK_S = 600.0
"""Seconds on the clock after which a stuck example ends the process, with its traceback: it waits, or never leaves C."""


class TooSlow(BaseException):
    """An example took more than its computing time. No `Exception`, so that nothing under test takes it for its own."""


class TooLarge(AssertionError):
    """An example took more memory than `MEMORY`."""


@contextmanager
def bounded(seconds: float, *, ends_process: bool = False) -> Iterator[None]:
    """Stop the body after so many seconds of computing, also within the standard library's regular expressions.

    With `ends_process`, a body that waits for longer than `STUCK_S` ends the process: no timer of Python's reaches it.

    Raises:
        TooSlow: it was stopped.
        TooLarge: it took too much memory.
    """
    armed = True

    def stop(*_: Any) -> None:
        if armed:
            raise TooSlow(f"more than {seconds:g} s of computing")

    before = _peak()
    earlier = signal.signal(signal.SIGVTALRM, stop)
    if ends_process:
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
    # Again and again, as one signal may come where its exception is lost: in a callback, or while an object is deleted.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.1)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier)
        if ends_process:
            faulthandler.cancel_dump_traceback_later()
    if (grown := _peak() - before) > MEMORY:
        raise TooLarge(f"{grown >> 20} MiB more than before")


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

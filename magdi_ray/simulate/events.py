"""An event loop over simulated time: what is to happen next is the earliest thing that was planned. Knows nothing of debates.

Events planned for one moment happen in the order in which they were planned, so that equal seeds give equal runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Loop:
    """Simulated time, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def clock(self) -> float:
        """The time now; what is written for a real clock takes this one."""
        return self.now

    def at(self, when: float, act: Callable[..., None], *args: Any) -> None:
        """Plan `act(*args)`; a moment that has passed already is taken for now."""
        self._serial += 1
        heapq.heappush(self._heap, (max(when, self.now), self._serial, act, args))

    def after(self, delay: float, act: Callable[..., None], *args: Any) -> None:
        """Plan `act(*args)` in `delay` seconds."""
        self.at(self.now + delay, act, *args)

    def run(self, over: Callable[[], bool]) -> None:
        """Let everything happen until `over()`, asked after every event, or until nothing is planned."""
        heap, pop = self._heap, heapq.heappop
        while heap and not over():
            self.now, _, act, args = pop(heap)
            act(*args)

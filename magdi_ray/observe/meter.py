"""Sets the figures of a run in Ray's metrics, from which every node's agent serves them to Prometheus.

Ray forgets a gauge that was not set for twenty seconds, so each is repeated as long as the process lives. Outside Ray nothing
is sent; once the process is part of a Ray, everything is. So stages without Ray are seen too, and code that measures need not ask
where it runs.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from magdi_ray.observe.figures import COMMON, FIGURES, PREFIX
from magdi_ray.observe.where import Where, here

logger = logging.getLogger(__name__)

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A figure and its labels."""

REPEATED_S = 5.0
"""Half of the time between two reports of a process to its node's agent."""


class Meter:
    """The figures of this process. A failure of Ray's metrics is said once and ends them, not the work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[str, Any] = {}
        self._gauges: dict[Key, float] = {}
        self._totals: dict[Key, float] = {}
        """What each counter has been told."""
        self._failed = False
        self._repeating = False

    def set(self, name: str, value: float, *, where: Where | None = None, **labels: str) -> None:
        """A gauge is this much from now on. `where`: whose it is; None: `here()`."""
        key = _key(name, where, labels)
        with self._lock:
            self._gauges[key] = float(value)
            if not self._connected():
                return
            self._send(key, float(value))
            if not self._repeating:
                self._repeating = True
                threading.Thread(target=self._repeat, name="metrics", daemon=True).start()

    def total(self, name: str, value: float, *, where: Where | None = None, **labels: str) -> None:
        """A counter has come to `value` since what it counts began; less than before means that it began again."""
        key = _key(name, where, labels)
        with self._lock:
            if not self._connected():
                return
            before = self._totals.get(key, 0.0)
            self._totals[key] = float(value)
            self._send(key, value - before if value >= before else value)

    def _repeat(self) -> None:
        while not self._failed:
            with self._lock:
                if self._connected():
                    for key, value in self._gauges.items():
                        self._send(key, value)
            time.sleep(REPEATED_S)

    def _connected(self) -> bool:
        ray = sys.modules.get("ray")
        ready = getattr(ray, "is_initialized", None)  # another thread may be in the middle of importing it
        return ready is not None and not self._failed and bool(ready())

    def _send(self, key: Key, value: float) -> None:
        name, labels = key
        try:
            metric = self._metric(name)
            if FIGURES[name].kind == "gauge":
                metric.set(value, tags=dict(labels))
            elif value > 0:  # Ray refuses to add nothing
                metric.inc(value, tags=dict(labels))
        except Exception as error:  # whatever a version of Ray raises: nobody looking on is no reason to stop
            self._failed = True
            logger.warning("Ray's metrics failed, so that no more figures are shown: %s: %s", type(error).__name__, error)

    def _metric(self, name: str) -> Any:
        if name not in self._metrics:
            from ray.util import metrics

            figure = FIGURES[name]
            kind = metrics.Gauge if figure.kind == "gauge" else metrics.Counter
            keys = (*COMMON, *figure.labels)
            self._metrics[name] = kind(f"{PREFIX}{name}", description=figure.text, tag_keys=keys)
        return self._metrics[name]


def _key(name: str, where: Where | None, labels: dict[str, str]) -> Key:
    known = FIGURES[name].labels
    if set(labels) != set(known):
        raise ValueError(f"The figure {name} has the labels {', '.join(known) or 'of every figure'}, found {sorted(labels)}.")
    return name, tuple(((where or here()).labels | labels).items())


meter = Meter()
"""The one of this process: Ray knows each of its metrics once a process."""

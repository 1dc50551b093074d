"""What is counted while serving: `Recorder` counts nothing, `RayRecorder` counts through `ray.util.metrics` for Prometheus.

Every tag has few values: a route is its template, a model one that is served.
"""

from __future__ import annotations

import sys
from typing import Any

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999)
"""The last bucket is for those where all agree."""
RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "requests": ("Requests that ended.", ("route", "status", "model")),
    "tokens_in": ("Prompt tokens read.", ("model",)),
    "tokens_out": ("Tokens generated.", ("model",)),
    "escalations": ("Questions that were sent to the teachers.", ("model",)),
    "tokens_saved": ("Tokens the teachers' debate would have taken beyond those of the student's reply.", ("model",)),
}
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...], tuple[str, ...]]] = {
    "time_to_first_token_s": ("Seconds to the first piece of a stream.", SECONDS, ("model",)),
    "request_s": ("Seconds from a request's arrival to its end.", SECONDS, ("route",)),
    "queue_s": ("Seconds a prompt waited before the model read it.", SECONDS, ("model",)),
    "agreement": ("Share of a question's replies that gave the most frequent answer.", SHARES, ("model",)),
    "tokens_per_s": ("Tokens a second of one request's replies, waiting included.", RATES, ("model",)),
}


class Recorder:
    """Counts nothing: for use outside Ray, and the interface of what counts."""

    def began(self) -> None:
        """A request came in."""

    def ended(self, *, route: str, status: int, model: str, seconds: float) -> None:
        """A request that came in is done with."""

    def first_piece(self, *, model: str, seconds: float) -> None:
        """The first piece of a stream was there."""

    def replied(self, *, model: str, tokens_in: int, tokens_out: int, seconds: float) -> None:
        """A request got its replies, or as much of them as was wanted."""

    def queued(self, *, model: str, seconds: float) -> None:
        """A prompt waited."""

    def agreed(self, *, model: str, share: float, escalated: bool) -> None:
        """A question was voted over."""

    def saved(self, *, model: str, tokens: float) -> None:
        """The student answered instead of the teachers."""


class RayRecorder(Recorder):
    """Counts under `magdi_serve_*`. Has to be made in a process of a Ray cluster."""

    def __init__(self) -> None:
        from ray.util import metrics

        self._counters: dict[str, Any] = {
            name: metrics.Counter(f"magdi_serve_{name}", description=text, tag_keys=tags)
            for name, (text, tags) in COUNTERS.items()
        }
        self._histograms: dict[str, Any] = {
            name: metrics.Histogram(f"magdi_serve_{name}", description=text, boundaries=list(bounds), tag_keys=tags)
            for name, (text, bounds, tags) in HISTOGRAMS.items()
        }
        self._in_flight: Any = metrics.Gauge("magdi_serve_in_flight", description="Requests that are being answered.")
        self._open = 0

    def began(self) -> None:
        """See `Recorder`."""
        self._open += 1
        self._in_flight.set(self._open)

    def ended(self, *, route: str, status: int, model: str, seconds: float) -> None:
        """See `Recorder`."""
        self._open -= 1
        self._in_flight.set(self._open)
        self._count("requests", 1, route=route, status=str(status), model=model)
        self._observe("request_s", seconds, route=route)

    def first_piece(self, *, model: str, seconds: float) -> None:
        """See `Recorder`."""
        self._observe("time_to_first_token_s", seconds, model=model)

    def replied(self, *, model: str, tokens_in: int, tokens_out: int, seconds: float) -> None:
        """See `Recorder`."""
        self._count("tokens_in", tokens_in, model=model)
        self._count("tokens_out", tokens_out, model=model)
        if tokens_out and seconds > 0:
            self._observe("tokens_per_s", tokens_out / seconds, model=model)

    def queued(self, *, model: str, seconds: float) -> None:
        """See `Recorder`."""
        self._observe("queue_s", seconds, model=model)

    def agreed(self, *, model: str, share: float, escalated: bool) -> None:
        """See `Recorder`."""
        self._observe("agreement", share, model=model)
        if escalated:
            self._count("escalations", 1, model=model)

    def saved(self, *, model: str, tokens: float) -> None:
        """See `Recorder`."""
        self._count("tokens_saved", tokens, model=model)

    def _count(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            self._counters[name].inc(value, tags=tags)

    def _observe(self, name: str, value: float, **tags: str) -> None:
        self._histograms[name].observe(value, tags=tags)


def open_recorder() -> Recorder:
    """The recorder that fits where this runs."""
    ray = sys.modules.get("ray")
    return RayRecorder() if ray is not None and ray.is_initialized() else Recorder()

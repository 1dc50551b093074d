"""The pace of one provider: who of those in line may send a request now. Knows no network, no process and no price.

Four things hold a request back: requests and tokens a minute, requests under way at once (found by additive increase and
multiplicative decrease), and a provider that asked for quiet. A grant has three moments: it is decided, it is handed out (maybe
in another process a little later, which is when it starts to count in the windows), and it is returned with what became of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from magdi_ray.config.engines import Limits

SLACK_S = 0.25
"""A grant takes a moment to reach the provider, and not each the same: windows are this much longer here than there."""
TOKEN_WINDOW_S = 60.0 + SLACK_S
UNKNOWN_WAIT_S = 0.02
"""Hint where a grant waits for another request to end, which nobody can foretell."""
LONGEST_PAUSE_S = 3600.0
"""A `Retry-After` beyond this is taken for this."""
HISTORY = 1000
"""Changes of the concurrency that are remembered."""
PRESSURE = frozenset({"RateLimited", "Overloaded"})
"""Outcomes by which a provider says that there are too many requests."""


@dataclass(slots=True)
class Grant:
    """One request that may be sent."""

    tokens: int
    """Reserved; once reported, the real number."""
    serial: int
    """Later grants have larger ones."""
    handed_at: float | None = None


@dataclass(slots=True)
class Tally:
    """What happened at one provider so far."""

    granted: int = 0
    rate_limited: int = 0
    overloaded: int = 0
    lowest: int = 0
    """Fewest requests at once that were allowed at any time."""
    highest: int = 0


class Pace:
    """The line in front of one provider. First come, first served."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits = limits
        # Providers spread a minute's requests: a sixth of them in any ten seconds is what they really allow.
        small = limits.rpm is not None and limits.rpm < 60
        self._window_s = (60.0 if small else 10.0) + SLACK_S
        self._per_window = None if limits.rpm is None else limits.rpm if small else limits.rpm // 6
        self._line: dict[Hashable, int] = {}
        self._out: dict[Hashable, Grant] = {}
        self._undelivered = 0
        self._requests: deque[float] = deque()
        self._tokens: deque[Grant] = deque()
        self._token_sum = 0
        self._limit = float(limits.concurrency)
        self._serial = 0
        self._fell_at = 0
        self._quiet_until = 0.0
        self._began = clock()
        self.tally = Tally(lowest=limits.concurrency, highest=limits.concurrency)
        self.history: deque[tuple[float, int]] = deque([(0.0, limits.concurrency)], maxlen=HISTORY)
        """(seconds since the start, requests allowed at once) at every change."""

    @property
    def concurrency(self) -> int:
        """Requests allowed at once, now."""
        return int(self._limit)

    @property
    def out(self) -> int:
        """Requests granted and not returned."""
        return len(self._out)

    def ask(self, key: Hashable, tokens: int) -> None:
        """Join the line."""
        self._line[key] = tokens

    def head(self) -> Hashable | None:
        """Who is first in line."""
        return next(iter(self._line), None)

    def delay(self) -> float:
        """Seconds until the head of the line may be granted, as far as one can tell; 0.0 is now."""
        now = self._clock()
        self._forget(now)
        waits = [self._quiet_until - now, 0.0]
        if len(self._out) >= self.concurrency:
            waits.append(UNKNOWN_WAIT_S)
        if self._per_window is not None and len(self._requests) + self._undelivered >= self._per_window:
            waits.append(self._requests[0] + self._window_s - now if self._requests else UNKNOWN_WAIT_S)
        head = next(iter(self._line.values()), 0)
        if self._limits.tpm is not None and self._token_sum and self._token_sum + head > self._limits.tpm:
            waits.append(self._until_fits(head, now))
        return max(waits)

    def grant(self) -> Hashable:
        """Let the head of the line through; only when `delay()` is 0.0."""
        key = next(iter(self._line))
        self._serial += 1
        # Without a bound on tokens none are counted: nothing would ever take them out of the sum again.
        tokens = self._line.pop(key)
        grant = Grant(tokens if self._limits.tpm is not None else 0, self._serial)
        self._out[key] = grant
        self._undelivered += 1
        self._token_sum += grant.tokens
        self.tally.granted += 1
        return key

    def hand_out(self, key: Hashable) -> None:
        """The grant is on its way to whoever asked; from now on it counts in the windows."""
        grant = self._out[key]
        grant.handed_at = self._clock()
        self._undelivered -= 1
        if self._limits.tpm is not None:
            self._tokens.append(grant)
        if self._per_window is not None:
            self._requests.append(grant.handed_at)

    def give_back(self, key: Hashable, kind: str, *, tokens: int | None = None, retry_after_s: float | None = None) -> None:
        """The request ended with `kind`; `tokens` is what the provider counted, None where it did not say.

        Of a key that is unknown (its lease had expired) only the pressure and the pause count.
        """
        grant = self._out.pop(key, None)
        if grant is not None:
            self._correct(grant, tokens)
        if retry_after_s is not None:
            self._quiet_until = max(self._quiet_until, self._clock() + min(retry_after_s, LONGEST_PAUSE_S))
        self.tally.rate_limited += kind == "RateLimited"
        self.tally.overloaded += kind == "Overloaded"
        if kind in PRESSURE:
            self._fall(grant)
        elif kind == "ok":
            self._set_limit(min(float(self._limits.concurrency), self._limit + 1.0 / self._limit))

    def withdraw(self, key: Hashable) -> None:
        """Leave the line, or return a grant of which nothing is known."""
        if self._line.pop(key, None) is None:
            self.give_back(key, "lost")

    def _correct(self, grant: Grant, tokens: int | None) -> None:
        if grant.handed_at is None:
            self._undelivered -= 1
            self._token_sum -= grant.tokens
        elif tokens is not None and self._limits.tpm is not None and grant.handed_at > self._clock() - TOKEN_WINDOW_S:
            self._token_sum += tokens - grant.tokens
            grant.tokens = tokens

    def _fall(self, grant: Grant | None) -> None:
        """Halve, once for all requests that were sent before anyone knew."""
        if grant is None or grant.serial > self._fell_at:
            self._fell_at = self._serial
            self._set_limit(max(1.0, self._limit * 0.5))

    def _set_limit(self, value: float) -> None:
        before, self._limit = self.concurrency, value
        if self.concurrency != before:
            self.tally.lowest = min(self.tally.lowest, self.concurrency)
            self.tally.highest = max(self.tally.highest, self.concurrency)
            self.history.append((round(self._clock() - self._began, 3), self.concurrency))

    def _forget(self, now: float) -> None:
        while self._requests and self._requests[0] <= now - self._window_s:
            self._requests.popleft()
        while self._tokens and (self._tokens[0].handed_at or 0.0) <= now - TOKEN_WINDOW_S:
            self._token_sum -= self._tokens.popleft().tokens

    def _until_fits(self, tokens: int, now: float) -> float:
        left = self._token_sum
        for grant in self._tokens:
            left -= grant.tokens
            if left <= 0 or left + tokens <= (self._limits.tpm or 0):
                return (grant.handed_at or now) + TOKEN_WINDOW_S - now
        return UNKNOWN_WAIT_S

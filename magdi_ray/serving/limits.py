"""How much each key may use: requests and tokens a minute, as two buckets that fill up again steadily.

A request's tokens are reserved when it comes in, by an estimate, and settled when it is known what it used. Limits are kept in
this process: where several front doors run, each has its share. Knows no HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from magdi_ray.config.serving import KeyLimits

MINUTE = 60.0

Unit = Literal["requests", "tokens"]


class Bucket:
    """Holds at most a minute's worth; a full one may be spent at once."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.size = per_minute
        self._clock = clock
        self._level = per_minute
        self._at = clock()

    def level(self) -> float:
        """What can be taken now; below 0 where more was used than was reserved."""
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._at) * self.size / MINUTE)
        self._at = now
        return self._level

    def take(self, amount: float) -> float:
        """Take an amount, or nothing: returns 0, or the seconds until there is enough."""
        level = self.level()
        # A millionth is what adding up fractions may lose: who waited as long as told must not be sent away again.
        if level + 1e-6 >= amount:
            self._level = level - amount
            return 0.0
        return (amount - level) * MINUTE / self.size

    def put(self, amount: float) -> None:
        """Give back what was not used, or take (a negative amount) what was used beyond."""
        self._level = min(self.size, self.level() + amount)

    def full_in(self) -> float:
        """Seconds until nothing is used any more."""
        return max(0.0, (self.size - self.level()) * MINUTE / self.size)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit that does not let a request in."""

    unit: Unit
    limit: int
    """A minute."""
    wanted: float
    wait_s: float | None
    """When it will fit; None is never."""

    @property
    def retry_after(self) -> int:
        """Whole seconds to wait, at least 1."""
        return max(1, math.ceil(self.wait_s or 0.0))


class Account:
    """What one key has used."""

    def __init__(self, limits: KeyLimits, *, share: int, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._buckets: dict[Unit, Bucket] = {}
        for unit, limit in (("requests", limits.rpm), ("tokens", limits.tpm)):
            if limit is not None:
                self._buckets[unit] = Bucket(max(1.0, limit / share), clock)  # type: ignore[index]  # both are units

    def request(self) -> Refusal | None:
        """Count one request."""
        return self._take("requests", 1.0)

    def reserve(self, tokens: float, *, at_least: float) -> tuple[float, Refusal | None]:
        """Reserve the tokens a request may use; returns what was reserved, and why it was not.

        `at_least` are those it is sure to ask for: where not even a full minute holds these, waiting is of no use. What is only
        allowed, not asked for (a default's length), is reserved as far as a minute goes.
        """
        bucket = self._buckets.get("tokens")
        if bucket is None:
            return 0.0, None
        if at_least > bucket.size:
            return 0.0, Refusal("tokens", int(bucket.size), at_least, None)
        reserved = min(tokens, bucket.size)
        refusal = self._take("tokens", reserved)
        return (0.0, refusal) if refusal else (reserved, None)

    def settle(self, reserved: float, used: float) -> None:
        """Put in order what was reserved and what was used."""
        bucket = self._buckets.get("tokens")
        if bucket is not None:
            bucket.put(reserved - used)

    def _take(self, unit: Unit, amount: float) -> Refusal | None:
        bucket = self._buckets.get(unit)
        wait = bucket.take(amount) if bucket is not None else 0.0
        return Refusal(unit, int(bucket.size), amount, wait) if bucket is not None and wait > 0 else None

    def headers(self) -> dict[str, str]:
        """The limits and what is left of them, under OpenAI's names."""
        told = {}
        for unit, bucket in self._buckets.items():
            told[f"x-ratelimit-limit-{unit}"] = str(int(bucket.size))
            told[f"x-ratelimit-remaining-{unit}"] = str(max(0, int(bucket.level())))
            told[f"x-ratelimit-reset-{unit}"] = f"{math.ceil(bucket.full_in())}s"
        return told


class Limits:
    """The accounts of all keys."""

    def __init__(self, *, doors: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._doors = doors
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def account(self, name: str, limits: KeyLimits) -> Account:
        """A key's account; a new one where its limits were changed."""
        found = self._accounts.get(name)
        if found is None or found.limits != limits:
            found = self._accounts[name] = Account(limits, share=self._doors, clock=self._clock)
        return found

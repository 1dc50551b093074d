"""A check looks at one thing and says what it found. Knows nothing of what is checked.

A check is a function that yields findings; a finding is one line for a person:

    ok       Python               3.11.9
    warning  Ray's disk           91% of / is used (22 GiB free)           -> Free some: above 95% Ray stores nothing more.
    failed   key of gpt           OPENAI_API_KEY is not set                -> export OPENAI_API_KEY=...

All checks run side by side, each with a time limit. One that crashes or hangs is itself a finding.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

State = Literal["ok", "warning", "failed"]

SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)")
"""Environment variables whose values are never shown."""
SHORTEST_SECRET = 6
"""Shorter values are no secrets, and hiding them would blacken harmless words."""
HIDDEN = "***"
IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
"""Name and password in a URL."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    """What was looked at."""
    state: State
    found: str
    """With numbers, where there are any."""
    todo: str = ""
    """What a person can do about it; "" where nothing is amiss, or `found` says it."""
    topic: str = ""
    """The check's own; set by `run_checks`."""


def ok(name: str, found: str) -> Finding:
    """Nothing is amiss."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, todo: str) -> Finding:
    """A run may work, or work badly."""
    return Finding(name, "warning", found, todo)


def failed(name: str, found: str, todo: str) -> Finding:
    """A run that needs it cannot work."""
    return Finding(name, "failed", found, todo)


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at, not yet looked at."""

    topic: str
    name: str
    look: Callable[[], Iterable[Finding]]
    limit_s: float = 10.0
    """Seconds after which it counts as hanging."""


def run_checks(checks: Sequence[Check], *, secrets: Iterable[str] = ()) -> list[Finding]:
    """The findings of all checks, in the checks' order, with every secret blotted out.

    Each check has a thread of its own; one beyond its time limit is left behind, for nothing can end it.
    """
    results: list[list[Finding] | None] = [None] * len(checks)
    hidden = sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)

    def look(place: int) -> None:
        results[place] = _outcome(checks[place])

    threads = [threading.Thread(target=look, args=(place,), daemon=True) for place in range(len(checks))]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread, check in zip(threads, checks, strict=True):
        thread.join(max(0.0, begun + check.limit_s - time.monotonic()))
    done = [found if found is not None else [_hung(check)] for found, check in zip(results, checks, strict=True)]
    return [_clean(finding, check.topic, hidden) for check, found in zip(checks, done, strict=True) for finding in found]


def _outcome(check: Check) -> list[Finding]:
    try:
        return list(check.look())
    except Exception as error:
        what = " ".join(str(error).split()) or "no message"
        return [failed(check.name, f"could not be checked: {type(error).__name__}: {what}", "See what the error names.")]


def _hung(check: Check) -> Finding:
    return failed(
        check.name,
        f"could not be checked: no answer within {check.limit_s:g} s",
        "What it looks at hangs or is very slow: a run would wait for it too.",
    )


def _clean(finding: Finding, topic: str, hidden: Sequence[str]) -> Finding:
    return replace(finding, topic=topic, found=_blot(finding.found, hidden), todo=_blot(finding.todo, hidden))


def _blot(text: str, hidden: Sequence[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, HIDDEN)
    return IN_URL.sub(f"{HIDDEN}@", text)


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """Values of the environment's variables that are named like secrets; paths among them are none."""
    return {
        value.strip()
        for name, value in environment.items()
        if SECRET_NAME.search(name.upper()) and not value.startswith(("/", "~", "."))
    }


def size(number: float) -> str:
    """Bytes, in words: "37 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"

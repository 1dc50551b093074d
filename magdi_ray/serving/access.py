"""The access log: one line of JSON a request, without any text of prompts or replies unless that is asked for.

{"time": "2026-01-02T03:04:05.678+00:00", "request": "req-5f0c…", "key": "alice", "method": "POST",
 "path": "/v1/chat/completions", "status": 200, "ms": 41.2, "model": "student", "stream": true, "tokens_in": 12,
 "tokens_out": 9, "ttft_ms": 20.3, "error": null}
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from typing import Any, TextIO

logger = logging.getLogger("magdi_ray.access")

LONGEST_PATH = 200


@dataclass(slots=True)
class Visit:
    """One request, from its arrival to its end."""

    id: str
    method: str
    path: str
    deadline: float
    """Time of the event loop at which it is ended."""
    key: str | None = None
    """Name of the API key, where one was asked for and given."""
    model: str | None = None
    """One that is served; None before that is known."""
    stream: bool = False
    status: int | None = None
    """None where the client left before there was an answer."""
    error: str | None = None
    """Code of the error, also of one in the midst of a stream."""
    tokens_in: int = 0
    tokens_out: int = 0
    first_s: float | None = None
    """Seconds to the first piece of a stream."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with the answer, whatever it is."""
    texts: dict[str, Any] = field(default_factory=dict)
    """Prompt and replies, where they are to be logged."""
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Called when it is over, however it ends."""
    began: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Seconds since it arrived."""
        return time.perf_counter() - self.began

    def line(self) -> str:
        """The log line: ASCII, so that nothing a client sends can end it or colour a terminal."""
        return json.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request": self.id,
                "key": self.key,
                "method": self.method[:16],
                "path": self.path[:LONGEST_PATH],
                "status": self.status,
                "ms": round(self.elapsed() * 1e3, 1),
                "model": self.model,
                "stream": self.stream,
                "tokens_in": self.tokens_in,
                "tokens_out": self.tokens_out,
                "ttft_ms": None if self.first_s is None else round(self.first_s * 1e3, 1),
                "error": self.error,
                **self.texts,
            }
        )

    def log(self) -> None:
        """Write the line."""
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", self.line())


class LogFile(WatchedFileHandler):
    """Appends to a file that, where it is new, only owner and group may read: with `log_prompts` it holds what people asked."""

    def _open(self) -> TextIOWrapper:
        with suppress(OSError):  # what is wrong is told by the opening itself
            os.close(os.open(self.baseFilename, os.O_CREAT | os.O_WRONLY, 0o640))
        return super()._open()


def open_log(target: TextIO | str | None = None) -> None:
    """Have the lines written to a stream or appended to a file, by default to standard error, and nowhere else.

    Once a process; again does nothing. A file may be moved away at any time: the next line begins a new one.
    """
    if logger.handlers:
        return
    handler = LogFile(target) if isinstance(target, str) else logging.StreamHandler(target)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

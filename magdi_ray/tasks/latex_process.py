"""The parent's side of the comparison child: one child per process, started when it is first needed, ended when it is late.

Safe in threads (one pair at a time), in asyncio (it blocks, see `TIMEOUT`) and in Ray workers: it takes no signal handler
and forks nothing of this process. A process forked off this one starts a child of its own. See `magdi_ray.tasks.latex_child`.

Pairs are numbered, and a reply counts only for the pair of its number. A child that is interrupted over a pair is ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from magdi_ray.errors import ConfigError

TIMEOUT = 5.0
"""Seconds of computing time that one comparison may take; beyond, a pair is not equivalent, on a busy machine or not."""

PATIENCE = 6
"""Times its computing time that a comparison may take on the clock before it is given up."""

START_TIMEOUT = 120.0
"""Seconds that a child may take to load its libraries; a second or two on an idle machine."""


class LatexProcess:
    """A child that compares, restarted after a timeout or a crash: either costs the pair at hand and nothing else."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self.starts = 0
        """How often a child was started."""
        self._asked = 0
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def equivalent(self, left: str, right: str) -> bool | None:
        """Whether two LaTeX expressions are equivalent; None where the child is late or dies of them.

        Raises:
            ConfigError: the package math-verify is missing, or no child can be started.
        """
        with self._lock:
            self._asked += 1
            pair = {"number": self._asked, "left": left, "right": right, "seconds": self.timeout}
            try:
                child = self._running()
                _write(child, json.dumps(pair).encode() + b"\n")
                verdict = _verdict(_line(child, PATIENCE * self.timeout), self._asked)
            except OSError:
                verdict = None
            except BaseException:
                self._end()  # its reply would come later, and be taken for another pair's
                raise
            if verdict is None:
                self._end()
            return verdict

    def close(self) -> None:
        """End the child, if one runs; the next comparison starts another."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        require_math_verify()
        self._child = child = _start()
        self.starts += 1
        if b"true" not in _line(child, START_TIMEOUT):
            self._end()
            raise ConfigError(
                "a child process that compares with math-verify is required for LaTeX answers; found that it "
                f"cannot, ended or was not ready within {START_TIMEOUT:.0f} s. "
                f'Try: {sys.executable} -c "import math_verify".'
            )
        return child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was left in the buffer of a dead child's pipe
                    pipe.close()


_processes: dict[int, LatexProcess] = {}


def this_process() -> LatexProcess:
    """The comparison child of the process that asks. Forked processes inherit the table, but not its entries' use."""
    return _processes.setdefault(os.getpid(), LatexProcess())


def require_math_verify() -> None:
    """Say what to install where LaTeX answers cannot be compared.

    Raises:
        ConfigError: the package math-verify is missing.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError('LaTeX answers are compared with the package math-verify: pip install "magdi-ray[math]".')


def _start() -> subprocess.Popen[bytes]:
    # -P: the working directory and this package's own `math.py` stay off the child's path, which is otherwise the parent's.
    command = [sys.executable, "-P", "-m", "magdi_ray.tasks.latex_child"]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(  # noqa: S603 - this package's own module under this interpreter
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        bufsize=0,
        start_new_session=True,  # an interrupt at the terminal is the parent's to handle
    )


def _write(child: subprocess.Popen[bytes], line: bytes) -> None:
    pipe: Any = child.stdin
    while line:
        line = line[pipe.write(line) :]


def _verdict(line: bytes, number: int) -> bool | None:
    """What a reply says of the pair of that number; None for any other line, or none."""
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply["same"] if isinstance(reply, dict) and reply.get("number") == number else None


def _line(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    """A line of the child's, b"" where it ends or says nothing in time."""
    pipe: Any = child.stdout
    poll, line, until = select.poll(), b"", time.monotonic() + seconds
    poll.register(pipe, select.POLLIN)
    while not line.endswith(b"\n"):
        rest = until - time.monotonic()
        if rest <= 0 or not poll.poll(1000 * rest) or not (read := os.read(pipe.fileno(), 4096)):
            return b""
        line += read
    return line

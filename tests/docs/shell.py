"""One bash that is given commands one after the other, as a reader types them: what is exported or activated stays so.

Its surroundings are clean: an empty HOME, no variable but those named here, and a PATH without virtual environments.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PASSED = (
    "LANG",
    "MAGDI_DATA",
    "MAGDI_CHROMIUM",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CONFIG_FILE",
    "PIP_CACHE_DIR",
    "SSL_CERT_FILE",
)
"""Variables a reader's machine may have: where packages and recorded data come from."""

PREAMBLE = """
magdi() {{ if [ "$1" = serve ]; then {served} magdi "$@"; else command magdi "$@"; fi; }}
tensorboard() {{ {served} tensorboard "$@"; }}
xdg-open() {{ test -s "$1" && head -c 15 "$1" | grep -qi '<!doctype html'; }}
"""
"""Servers are used once and interrupted; what would open a window is looked at instead."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    command: str
    code: int
    output: str
    seconds: float


def environment(home: Path, **more: str) -> dict[str, str]:
    """The variables of a reader's shell."""
    home.mkdir(parents=True, exist_ok=True)
    path = [str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    passed = {name: os.environ[name] for name in PASSED if os.environ.get(name)}
    config = Path.home() / ".config" / "pip" / "pip.conf"
    if config.is_file() and "PIP_CONFIG_FILE" not in passed:
        passed["PIP_CONFIG_FILE"] = str(config)
    short = home.parent / "t"
    short.mkdir(exist_ok=True)
    return {
        "HOME": str(home),
        "PATH": ":".join(path),
        "TERM": "dumb",
        "TMPDIR": str(short),
        "RAY_TMPDIR": str(short),
        **passed,
        **more,
    }


class Shell:
    """A bash in a directory. `run` a command; `close` it."""

    def __init__(self, where: Path, variables: Mapping[str, str], scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch, self._count = scratch, 0
        bash = shutil.which("bash") or "/bin/bash"
        self._process = subprocess.Popen(
            [bash, "--norc", "--noprofile"],
            cwd=where,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        served = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('until_ready.py')))}"
        self._tell(PREAMBLE.format(served=served))

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def run(self, command: str, timeout_s: float) -> Done:
        """Run one command; past its time everything the shell began is ended, and so is the shell."""
        self._count += 1
        file, out, code = (self._scratch / f"{self._count:03d}.{end}" for end in ("sh", "out", "code"))
        file.write_text(command + "\n", encoding="utf-8")
        quoted = [shlex.quote(str(one)) for one in (file, out, code)]
        started = time.monotonic()
        self._tell(f". {quoted[0]} > {quoted[1]} 2>&1 < /dev/null; echo $? > {quoted[2]}.part; mv {quoted[2]}.part {quoted[2]}")
        while not code.exists():
            if time.monotonic() - started > timeout_s or self._process.poll() is not None:
                self.close()
                return Done(command, 124, out.read_text(errors="replace") if out.exists() else "", time.monotonic() - started)
            time.sleep(0.1)
        return Done(command, int(code.read_text()), out.read_text(encoding="utf-8", errors="replace"), time.monotonic() - started)

    def close(self) -> None:
        """End the shell and what it began."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(timeout=30)

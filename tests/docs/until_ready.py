"""Run a command that serves until it is interrupted: wait until it can be used, use it once as it says, interrupt it.

    python until_ready.py magdi serve runs/first         # the curl command that it prints is run
    python until_ready.py tensorboard --logdir DIR       # the page is fetched

Exit code 0: it came up, answered, and ended of itself when interrupted. Needs nothing but Python.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import IO

START_S = 240
STOP_S = 90
INTERRUPTED = (0, 130, -signal.SIGINT)
"""Exit codes with which a server that was interrupted may end."""


def main(command: list[str]) -> int:
    """Run it."""
    # What a shell runs in its background ignores interruptions, and so would all that is started by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    assert process.stdout is not None
    used = False
    try:
        for line in _lines(process.stdout, time.monotonic() + START_S):
            print(line, end="")
            if use := _use(line):
                used = use()
                break
    finally:
        process.send_signal(signal.SIGINT)
        try:
            rest, _ = process.communicate(timeout=STOP_S)
            print(rest, end="")
        except subprocess.TimeoutExpired:
            process.kill()
            print(f"did not end within {STOP_S} s")
    print(f"exit code {process.returncode}")
    return 0 if used and process.returncode in INTERRUPTED else 1


def _lines(stream: IO[str], until: float) -> Iterator[str]:
    for line in stream:
        yield line
        if time.monotonic() > until:
            return


def _use(line: str):
    """What to do once with a server that printed a line; None where the line says nothing of it."""
    if line.startswith("curl "):
        return lambda: _ask(line)
    if found := re.search(r"TensorBoard .* at (http://[^ ]+)", line):
        return lambda: _fetch(found[1].rstrip("/") + "/data/runs")
    return None


def _ask(line: str) -> bool:
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout)
    return done.returncode == 0 and bool(json.loads(done.stdout)["choices"][0]["message"]["content"])


def _fetch(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=60) as response:
        found = json.loads(response.read())
    print(url, found)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

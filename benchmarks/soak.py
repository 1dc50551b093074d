"""A served student under steady load for a quarter of an hour: does every process keep its memory, and every answer its shape?

    python -m benchmarks.soak --minutes 15 --out docs/soak

`magdi serve` with a bundled model, HAProxy, one front door, one copy with continuous batching, API keys, an access log. Sixteen
clients ask `--rate` times a second, in a mix: chats and texts, streamed and not, several choices, log-probabilities, votes,
scores; clients that leave, wrong requests of fourteen kinds, wrong keys, a key that is over its limit.

- growth: MB (RSS) that each process gains with every 10,000 requests after `--warm` minutes, with a 95% interval; flat is: the
  upper end is below `FLAT`, and files and threads do not grow. The two processes that hold our code are made to collect garbage
  once a minute and judged by what is resident then: between collections they go up and down by more than a leak would show.
- books: every request was answered as it had to be or refused in the API's own error shape, none was lost; the access log has
  each exactly once, with the status that the client saw.
- same: the likeliest replies to sixteen questions, text and log-probabilities, are those of the beginning.
- left: replies under way, waiting, pages of the cache in the copy, and draws and bodies in the door, when nobody asks any more.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks import soak_load
from benchmarks.processes import Groups, Watch, end_with_family, title, watching
from benchmarks.soak_probe import Probe, probing
from benchmarks.soak_report import draw, growths, markdown
from magdi_ray.agents.weights import resolve_model
from magdi_ray.cluster import free_ports
from magdi_ray.serving.keys import digest, new_key

MODEL, TASK = "pkg://magdi_ray/tiny/models/ada", "tiny"
CLIENTS, BATCH, LIMIT = 16, 16, 10
SECONDS = 5.0
"""Between two looks."""
COLLECTIONS = 12
"""Every so many looks the replicas are looked at after they collected garbage."""

GROUPS = {
    "ServeReplica:student:student": "copy",
    "ServeReplica:student:door": "door",
    "ServeController": "Serve's controller",
    "HAProxy": "Serve's proxy manager",
    "ProxyActor": "Serve's proxy manager",
    "haproxy": "HAProxy",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
"""What a process's title holds -> its group; what is first here counts."""


@dataclass
class Live:
    """An endpoint that runs."""

    url: str
    process: subprocess.Popen[bytes]
    access_log: Path
    keys: soak_load.Keys

    def groups(self) -> Groups:
        """Its processes."""
        found: dict[str, list[psutil.Process]] = {"magdi serve": [psutil.Process(self.process.pid)]}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            said = title(child)
            group = next((group for part, group in GROUPS.items() if part in said), "rest of Ray")
            found.setdefault(group, []).append(child)
        return found

    def address(self) -> str:
        """Of its Ray."""
        lines = [title(child) for child in psutil.Process(self.process.pid).children(recursive=True)]
        [found] = {match[1] for line in lines if (match := re.search(r"--gcs-address=(\S+)", line))}
        return found


@contextmanager
def serving(folder: Path) -> Iterator[Live]:
    """`magdi serve` as a person starts it, ended with its family when the body ends.

    Raises:
        SystemExit: it does not come up.
    """
    good, limited = (new_key(), new_key()), new_key()
    rows = [{"name": f"key{number}", "sha256": digest(key)} for number, key in enumerate(good)]
    keys = folder / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": [*rows, {"name": "limited", "sha256": digest(limited), "rpm": LIMIT}]}))
    [port] = free_ports(1)
    access = folder / "access.log"
    sets = {"api_keys_file": keys, "access_log": access, "max_batch_size": BATCH, "request_timeout_s": 30}
    command = [sys.executable, "-m", "magdi_ray.cli", "serve", resolve_model(MODEL), "--task", TASK, "--port", str(port)]
    command += [part for name, value in sets.items() for part in ("--set", f"serve.{name}={value}")]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"RAY_TMPDIR": str(folder / "r")})
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process, folder / "serve.log")
        yield Live(url, process, access, soak_load.Keys(good, limited))
    finally:
        end_with_family(process, grace_s=60)


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers.

    Raises:
        SystemExit: it ended, or said nothing for ten minutes.
    """
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200 and "Ctrl-C" in log.read_text():
                return
        time.sleep(0.5)
    raise SystemExit(f"magdi serve did not come up:\n{log.read_text()[-3000:]}")


def soak(live: Live, probe: Probe, options: argparse.Namespace) -> tuple[Watch, soak_load.Tally, dict[str, Any]]:
    """Ask, look and ask again: what was seen, what came of the requests, and the rest of the verdict."""
    model, tally = Path(resolve_model(MODEL)).name, soak_load.Tally()
    mix = soak_load.Mix(model, live.keys, seed=0)
    questions = [mix.question() for _ in range(16)]

    looks = itertools.count()

    def figures() -> Mapping[str, float]:
        seen = {"done": float(tally.done), "lost": float(tally.outcomes["lost"]), "answered": float(tally.outcomes["answered"])}
        with suppress(Exception):  # a copy that was just replaced tells nothing
            seen |= probe.ask(collected=next(looks) % COLLECTIONS == 0)
        return seen

    asyncio.run(soak_load.greedy(live.url, model, live.keys.good[0], questions[:4]))  # what is made on first use
    before = asyncio.run(soak_load.greedy(live.url, model, live.keys.good[0], questions))
    idle = settled(probe)
    with watching(live.groups, figures, every=SECONDS) as watch:
        watch.mark("load begins")
        load = {"clients": CLIENTS, "rate": options.rate, "seconds": 60 * options.minutes}
        thread = threading.Thread(target=lambda: asyncio.run(soak_load.run(live.url, mix, tally, **load)), daemon=True)
        thread.start()
        thread.join()
        watch.mark("ends")
        left = settled(probe)
        time.sleep(2 * SECONDS)
    after = asyncio.run(soak_load.greedy(live.url, model, live.keys.good[0], questions))
    apart = max(
        abs(x - y) for (_, ones), (_, others) in zip(before, after, strict=True) for x, y in zip(ones, others, strict=False)
    )
    same = sum(one[0] == other[0] for one, other in zip(before, after, strict=True))
    return watch, tally, {"idle": idle, "left": left, "same": same, "of": len(questions), "logprobs_apart": apart}


def settled(probe: Probe) -> dict[str, float]:
    """What is left when nothing goes on any more: the first counts in half a minute with nothing under way."""
    for _ in range(30):
        seen: dict[str, float] = probe.ask()
        if not seen.get("student under_way") and not seen.get("door draws"):
            break
        time.sleep(1.0)
    return seen


def books(log: Path, tally: soak_load.Tally) -> dict[str, Any]:
    """The access log against what the clients saw."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    logged = {line["request"]: line["status"] for line in lines if line["request"].startswith("soak-")}
    # Who leaves may do so before the request has reached the door, or in the moment in which it is answered.
    seen = {name: status for name, status in tally.statuses.items() if status is not None and name not in tally.left}
    return {
        "requests": len(tally.statuses),
        "in_the_log": len(logged),
        "in_the_log_twice": sum(count > 1 for count in Counter(line["request"] for line in lines).values()),
        "seen_but_not_in_the_log": sum(name not in logged for name in seen),
        "with_another_status": sum(logged.get(name, status) != status for name, status in seen.items()),
        "left": len(tally.left),
        "left_in_the_log_as": dict(Counter(str(logged.get(name, "not there")) for name in tally.left)),
        "statuses": {str(status): count for status, count in sorted(Counter(logged.values()).items())},
        "errors_of_ours": sum(status in (500, 504) for status in logged.values()),
    }


def main() -> None:
    """Soak, write what was asked for, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--warm", type=float, default=4.0, help="minutes that do not count for growth")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--out", type=Path, default=None, help="write OUT.md, OUT.svg and OUT.jsonl (all that was seen)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, as by Ctrl-C
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="mr-") as name, serving(Path(name)) as live, probing(live.address()) as probe:
        watch, tally, verdict = soak(live, probe, options)
        found = growths(watch, warm=60 * options.warm)
        kept = books(live.access_log, tally)
    report = {
        "minutes": options.minutes,
        "requests": tally.done,
        "requests_per_s": round(tally.done / (60 * options.minutes), 1),
        "p50_ms": round(1e3 * sorted(tally.seconds)[len(tally.seconds) // 2], 1),
        "late_s": round(tally.late, 1),
        "kinds": dict(sorted(tally.sent.items())),
        "outcomes": dict(tally.outcomes),
        "lost": tally.lost[:20],
        "books": kept,
        **verdict,
        "growth": [asdict(growth) for growth in found],
        "flat": all(growth.flat for growth in found),
        "cores": psutil.cpu_count(),
        "load": round(psutil.getloadavg()[1], 1),
    }
    text = markdown(report, found)
    if options.out:
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
        options.out.with_suffix(".svg").write_text(draw(watch), encoding="utf-8")
        watch.save(options.out.with_suffix(".jsonl"))
    print(text)
    wrong = kept["in_the_log_twice"] + kept["seen_but_not_in_the_log"] + kept["with_another_status"] + kept["errors_of_ours"]
    if tally.outcomes["lost"] or wrong or not report["flat"] or verdict["same"] != verdict["of"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

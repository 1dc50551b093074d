"""A hundred thousand questions through debates to graphs, against a provider that counts: do the books balance, does memory stay?

    python -m benchmarks.volume --questions 100000 --out docs/volume

Two agents, `reconcile` with two rounds of discussion, through the real pipeline on a local Ray. When half of the questions have
been begun, the driver and its whole Ray are killed (SIGKILL), and the same command is run again. Every two seconds it is looked
at what the processes hold.

- books: every question exactly once in debates and graphs; every reply in them word for word what the provider's own ledger says;
  as many records in the reply store as different requests in that ledger; nothing asked twice but what was in flight at the kill.
- growth: MB that a driver gains with every 10,000 questions, with a 95% interval, after its first tenth. Flat is: the upper end
  is below `volume_report.FLAT`, an eighth of what a driver would gain that kept the replies.
- replies_per_s: over the whole debate stage, on the provider's clock, the time without a driver left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks import volume_books
from benchmarks.debate_throughput import write_questions
from benchmarks.openai_server import RunningServer, running_server
from benchmarks.processes import Groups, Watch, title, watching
from benchmarks.volume_report import STAGES, Growth, draw, growths, markdown, peaks, speed
from tests.debates_at_scale import kill_family

AGENTS, LATENCY, REQUESTS, DEBATES, WORKERS = 2, 0.02, 96, 128, 2
SECONDS = 2.0
"""Between two looks."""

GROUPS = {"DebateOperator": "workers", "ray::Ledger": "ledger and limiter", "ray::Limiter": "ledger and limiter"}
"""What a process's title holds -> its group."""


def configuration(questions: Path, *, url: str) -> dict[str, Any]:
    """Agents of one provider."""
    engine = {"type": "api", "base_url": url, "limits": {"concurrency": REQUESTS}, "structured": "never", "api_key_env": None}
    agents = [
        {"name": f"agent{seat}", "engine": engine | {"model": f"agent-{seat}"}, "sampling": {"max_tokens": 300}}
        for seat in range(AGENTS)
    ]
    protocol = {"name": "reconcile", "rounds": 2}
    return {
        "name": "volume",
        "task": {"name": "gsm8k", "path": str(questions)},
        "debate": {"protocol": protocol, "agents": agents, "workers": WORKERS, "max_in_flight": DEBATES},
        "graph": {"labels": "vote"},
        "distil": {"student": {"model": "pkg://magdi_ray/tiny/models/student"}, "recipe": "level2", "train": {"epochs": 1}},
        "evaluate": {"splits": ["train"]},
    }


@dataclass
class Scene:
    """What is looked at: files, processes, and who of them is which."""

    folder: Path
    server: RunningServer
    driver: subprocess.Popen[bytes] | None = None
    number: int = 0
    """Of the driver, from 1."""
    logged: int = 0
    """Bytes of the run's log that drivers before it have written."""
    known: dict[psutil.Process, str] = field(default_factory=dict)
    """Groups of processes whose title will not change any more."""

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    def stage(self) -> int:
        """Which of `STAGES` is being made; their number when all are complete."""
        return sum((self.run / stage / "manifest.json").is_file() for stage in STAGES)

    def groups(self) -> Groups:
        """The processes there are."""
        found: dict[str, list[psutil.Process]] = {"provider": [psutil.Process(self.server.process.pid)]}
        if self.driver is None or self.driver.poll() is not None:
            return found
        driver = psutil.Process(self.driver.pid)
        found[f"driver {self.number}"] = [driver]
        for child in driver.children(recursive=True):
            found.setdefault(self.group(child), []).append(child)
        return found

    def group(self, process: psutil.Process) -> str:
        """What a process of the driver's family is."""
        if process in self.known:
            return self.known[process]
        said = title(process)
        for part, group in GROUPS.items():
            if part in said:
                self.known[process] = group
                return group
        if any(name in said.split(" ")[0] for name in ("raylet", "gcs_server")):
            self.known[process] = "raylet and gcs"
            return "raylet and gcs"
        return "rest of Ray"

    def figures(self) -> Mapping[str, float]:
        """What files and the provider say."""
        received = self.server.stats()
        stored = [path.stat().st_size for path in self.run.glob("replies/*.jsonl")]
        figures = {"stage": self.stage(), "received": received["received"], "store": sum(stored) / 1e6, "ended": self.ended()}
        with suppress(OSError, ValueError):
            figures["plasma"] = float((self.folder / "plasma").read_text(encoding="ascii"))
        return figures

    @property
    def log(self) -> Path:
        """The run's log, to which the driver adds a line every ten seconds."""
        return self.run / "metrics.jsonl"

    def ended(self) -> int:
        """Debates that this driver has brought to an end, as the run's log says."""
        if not self.log.is_file():
            return 0
        rows = [json.loads(line) for line in self.log.read_bytes()[self.logged :].splitlines()]
        return max((int(row["debates"]) for row in rows if row.get("stage") == "debates"), default=0)


@contextmanager
def driving(scene: Scene) -> Iterator[subprocess.Popen[bytes]]:
    """The pipeline in a process of its own, ended with its family when the body ends."""
    command = [sys.executable, "-m", "benchmarks.pipeline_driver", str(scene.folder / "config.yaml"), str(scene.run), STAGES[-1]]
    environment = os.environ | {"RAY_TMPDIR": str(scene.folder / "ray"), "RAY_USAGE_STATS_ENABLED": "0"}
    with (scene.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen([*command, str(scene.folder / "plasma")], stdout=log, stderr=log, env=environment)
    scene.driver, scene.number = process, scene.number + 1
    scene.logged = scene.log.stat().st_size if scene.log.is_file() else 0
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_family(process)


def hold(scene: Scene, watch: Watch, *, questions: int, kill: bool) -> None:
    """Run the pipeline to its end, with a kill in the middle.

    Raises:
        SystemExit: it failed.
    """
    if kill:
        with driving(scene) as process:
            watch.mark("begins")
            while (done := scene.ended()) < questions / 2:
                if process.poll() is not None:
                    raise SystemExit(f"The pipeline ended after {done} debates:\n{said(scene)}")
                time.sleep(1.0)
            kill_family(process)
        watch.mark("killed, and begun again")
        time.sleep(5 * SECONDS)  # the provider ends what it has; the picture shows that nobody is left
    with driving(scene) as process:
        if not kill:
            watch.mark("begins")
        while process.poll() is None:
            time.sleep(0.5)
    watch.mark("complete")
    if process.returncode:
        raise SystemExit(f"The pipeline failed:\n{said(scene)}")


def said(scene: Scene) -> str:
    """The end of what the pipeline printed."""
    return (scene.folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]


def measure(folder: Path, options: argparse.Namespace) -> tuple[Watch, dict[str, Any], list[volume_books.Line], list[Growth]]:
    """One run: what was seen, the figures, the books, the growth."""
    write_questions(folder / "questions.jsonl", options.questions)
    ledger = folder / "ledger.txt"
    with running_server("benchmarks.counting_server", ledger=ledger, latency=LATENCY, agents=AGENTS) as server:
        scene = Scene(folder, server)
        config = configuration(folder / "questions.jsonl", url=server.url)
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with watching(scene.groups, scene.figures, every=SECONDS) as watch:
            hold(scene, watch, questions=options.questions, kill=not options.no_kill)
        stats = server.stats()
    began = time.monotonic()
    lines = volume_books.audit(
        scene.run, ledger, stats, questions=options.questions, in_flight=0 if options.no_kill else REQUESTS
    )
    found = growths(watch.looks, questions=options.questions)
    facts = {stage: json.loads((scene.run / stage / "manifest.json").read_text(encoding="utf-8")) for stage in STAGES}
    report = {
        "questions": options.questions,
        "replies": facts["debates"]["facts"]["replies"],
        "replies_from_the_store": facts["debates"]["facts"]["replies already in the store"],
        "graphs": facts["graphs"]["facts"],
        **speed(watch.looks),
        "seconds_of_stages": {stage: facts[stage]["seconds"] for stage in STAGES},
        "seconds_in_all": round(watch.events[-1][0] - watch.events[0][0], 1),
        "seconds_of_the_audit": round(time.monotonic() - began, 1),
        "debates_mb": round(sum(facts["debates"]["files"].values()) / 1e6, 1),
        "graphs_mb": round(sum(facts["graphs"]["files"].values()) / 1e6, 1),
        "replies_mb": round(sum(path.stat().st_size for path in scene.run.glob("replies/*.jsonl")) / 1e6, 1),
        "most": peaks(watch.looks),
        "growth": [asdict(growth) for growth in found],
        "balanced": all(line.balanced for line in lines),
        "flat": all(growth.flat for growth in found) if found else None,
        "cores": psutil.cpu_count(),
        "load": round(psutil.getloadavg()[1], 1),
    }
    return watch, report, lines, found


def main() -> None:
    """Measure, write what was asked for, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--no-kill", action="store_true", help="leave the driver alone")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work and leave everything; by default nothing is left"
    )
    parser.add_argument("--out", type=Path, default=None, help="write OUT.md, OUT.svg and OUT.jsonl (all that was seen)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, as by Ctrl-C
    with tempfile.TemporaryDirectory(prefix="mr-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        watch, report, lines, found = measure(folder, options)
    text = markdown(report, lines, found)
    if options.out:
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
        options.out.with_suffix(".svg").write_text(draw(watch), encoding="utf-8")
        watch.save(options.out.with_suffix(".jsonl"))
    print(text)
    if not report["balanced"] or report["flat"] is False:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

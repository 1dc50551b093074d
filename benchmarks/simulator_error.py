"""How far the simulator's wall time is from real debate stages it was not calibrated on.

    python -m benchmarks.simulator_error --json

A local OpenAI-compatible server answers after 100 to 300 ms and stands for the provider. One run, never held by a limit, is the
calibration: latencies, fixed overheads, agreement and reply lengths are read from its files. Every other setting is predicted
from its configuration and from what is known of its provider (how many requests it serves at once, how many it takes a minute,
what it does with more), and measured by running `magdi debate`.

- error: predicted over measured wall time of the stage (`seconds_debating` of its manifest), less 1; its start and end are in
  both.
- error_debating: the same from the first request to the last answer, on the server's clock; no fixed overhead is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.debate_throughput import configuration, debate, write_questions
from benchmarks.openai_server import running_server
from magdi_ray.config.load import load_config
from magdi_ray.simulate.build import build, fit_error
from magdi_ray.simulate.calibrate import Measured, calibrate
from magdi_ray.simulate.debate import simulate

LATENCY, JITTER = 0.2, 0.5


@dataclass(frozen=True)
class Setting:
    """One run of the stage."""

    name: str
    capacity: int
    """Requests the server works on at once."""
    in_flight: int
    """Debates at once."""
    concurrency: int
    """Of the run's limits."""
    share: float = 1.0
    """Of the usual number of questions."""
    agents: int = 3
    rounds: int = 1
    workers: int = 2
    rpm: int | None = None
    """Of the run's limits and of the server."""
    refuse: bool = False
    """The server answers 429 beyond its capacity."""

    def questions(self, seconds: float) -> int:
        """As many as take about `seconds`."""
        served = min(self.capacity, self.concurrency, self.in_flight * self.agents) / LATENCY
        rate = min(served, self.rpm / 60) if self.rpm else served
        rounds = sum(0.4**number for number in range(self.rounds + 1))
        return max(64, round(self.share * seconds * rate / (self.agents * rounds)))


CALIBRATION = Setting("calibration", capacity=64, in_flight=12, concurrency=128, share=0.7)
SETTINGS = (
    Setting("capacity 8", capacity=8, in_flight=24, concurrency=16),
    Setting("capacity 32", capacity=32, in_flight=96, concurrency=64),
    Setting("3 rounds, capacity 16", capacity=16, in_flight=48, concurrency=32, rounds=3),
    Setting("5 agents, capacity 24", capacity=24, in_flight=72, concurrency=48, agents=5),
    Setting("1500 requests a minute", capacity=64, in_flight=96, concurrency=64, rpm=1500),
    Setting("held by our own limit of 10", capacity=64, in_flight=48, concurrency=10),
    Setting("429 beyond capacity 12", capacity=12, in_flight=48, concurrency=48, refuse=True, share=0.8),
    Setting("1 worker, 20 debates at once", capacity=64, in_flight=20, concurrency=64, workers=1, share=0.6),
)


def measure(setting: Setting, folder: Path, *, seconds: float) -> dict[str, float]:
    """Run the stage in `folder`; a folder that holds a measurement already is taken as it is."""
    kept = folder / "measured.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    count = setting.questions(seconds)
    write_questions(folder / "questions.jsonl", count)
    options = {"latency": LATENCY, "jitter": JITTER, "capacity": setting.capacity, "agents": setting.agents, "rpm": setting.rpm}
    with running_server(**options, reject_over_capacity=setting.refuse) as server:
        config = configuration(
            folder / "questions.jsonl",
            url=server.url,
            agents=setting.agents,
            capacity=1,
            workers=setting.workers,
            rounds=setting.rounds,
        )
        config["debate"]["max_in_flight"] = setting.in_flight
        for agent in config["debate"]["agents"]:
            agent["engine"]["limits"] = {"concurrency": setting.concurrency} | ({"rpm": setting.rpm} if setting.rpm else {})
        debate(folder, config)
        stats = server.stats()
    facts = json.loads((folder / "run" / "debates" / "manifest.json").read_text())["facts"]
    found = {
        "questions": count,
        "calls": stats["answered"],
        "refused": stats["received"] - stats["answered"],
        "seconds": facts["seconds_debating"],
        "span": stats["last_answered"] - stats["first_received"],
        "load": os.getloadavg()[0],
    }
    kept.write_text(json.dumps(found))
    return found


def predict(setting: Setting, folder: Path, measured: Measured, *, seed: int) -> dict[str, float]:
    """What the simulator says of the run in `folder`, of which it reads nothing but the configuration."""
    config = load_config(folder / "config.yaml")
    scenario, _ = build(config, measured=measured)
    beyond = "refuse" if setting.refuse else "wait"
    providers = tuple(replace(p, capacity=setting.capacity, rpm=setting.rpm, beyond=beyond) for p in scenario.providers)
    scenario = replace(scenario, providers=providers)
    count = sum(1 for _ in (folder / "questions.jsonl").open())
    outcome = simulate(scenario, count, seed=seed)
    seconds = scenario.overheads.fixed_s + outcome.seconds - outcome.first_s
    return {"seconds": seconds, "span": outcome.seconds, "calls": outcome.calls, "refused": outcome.refused}


def main() -> None:
    """Calibrate, measure, compare; end with one JSON object where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="of debating, about, in each setting")
    parser.add_argument("--only", nargs="*", default=None, help="names of settings; default: all")
    parser.add_argument("--keep", type=Path, default=None, help="keep the runs here, and measure none again that is here")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = chosen.keep or Path(temporary)
        first = root / "calibration"
        measure(CALIBRATION, first, seconds=chosen.seconds)
        measured = calibrate(first / "run")
        fit = fit_error(measured, seed=chosen.seed)
        mean = sum(latency.base_s for latency in measured.latency.values()) / len(measured.latency)
        print(f"calibration: latency {mean:.3f} s, fixed {measured.fixed_s:.1f} s, error on itself {fit:+.1%}", flush=True)
        rows = []
        for setting in SETTINGS:
            if chosen.only is not None and setting.name not in chosen.only:
                continue
            folder = root / setting.name.replace(" ", "-").replace(",", "")
            real = measure(setting, folder, seconds=chosen.seconds)
            said = predict(setting, folder, measured, seed=chosen.seed)
            row: dict[str, Any] = {"setting": asdict(setting), "measured": real, "predicted": said}
            row["error"] = round(said["seconds"] / real["seconds"] - 1, 4)
            row["error_debating"] = round(said["span"] / real["span"] - 1, 4)
            rows.append(row)
            print(
                f"{setting.name}: {real['seconds']:.1f} s measured, {said['seconds']:.1f} s predicted, {row['error']:+.1%}; "
                f"debating {real['span']:.1f} and {said['span']:.1f} s, {row['error_debating']:+.1%}; calls {real['calls']} and "
                f"{said['calls']}; load {real['load']:.1f}",
                flush=True,
            )
    if chosen.json:
        worst = {name: max((abs(row[name]) for row in rows), default=0.0) for name in ("error", "error_debating")}
        report = {
            "calibration_error": round(fit, 4),
            "worst_error": worst["error"],
            "worst_error_debating": worst["error_debating"],
        }
        print(json.dumps(report | {"cores": psutil.cpu_count(), "settings": rows}))


if __name__ == "__main__":
    main()

"""What `volume` makes of what it saw: how much a driver gains with the questions, how fast it went, tables and the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import volume_books
from benchmarks.panels import Line, Panel, picture
from benchmarks.processes import Look, Slope, Watch, slope_of

FLAT = 5.0
"""MB for every 10,000 questions: 500 bytes a question, an eighth of what the reply store keeps of it in this run."""

STAGES = ("questions", "debates", "graphs")
KEPT = ("processes", "rss", "uss", "files", "threads")


def stretch(looks: list[Look], driver: str, stage: int) -> list[Look]:
    """The looks at one driver in one stage."""
    return [
        look for look in looks if look.held.get(driver) and look.held[driver].processes and look.figures.get("stage") == stage
    ]


@dataclass(frozen=True, slots=True)
class Growth:
    """What one driver gained in one stage."""

    driver: str
    stage: str
    questions: int
    most: float
    """MB of USS, the largest look."""
    uss: Slope | None
    """MB for every 10,000 questions."""
    rss: Slope | None
    files: tuple[int, int]
    """Open files early and late: the medians of the first and the last quarter."""
    threads: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Whether it stays below the bound for sure."""
        return self.uss is not None and self.uss.high < FLAT


def growths(looks: list[Look], *, questions: int) -> list[Growth]:
    """Every driver in the stages that work through all questions."""
    found = []
    drivers = sorted({name for look in looks for name in look.held if name.startswith("driver")})
    for driver in drivers:
        for stage in (1, 2):
            whole = stretch(looks, driver, stage)
            done = progress(whole, stage, questions)
            # The first tenth of all questions is the warming up: caches and pools that every run fills.
            settled = [
                (at, look.held[driver]) for at, look in zip(done, whole, strict=True) if at >= questions / 10 or stage == 2
            ]
            if len(settled) < 12:
                continue
            x = [at / 1e4 for at, _ in settled]
            quarter = max(1, len(settled) // 4)
            ends = (settled[:quarter], settled[-quarter:])
            found.append(
                Growth(
                    driver=driver,
                    stage=STAGES[stage],
                    questions=round(max(done) - min(done)),
                    most=max(held.uss for _, held in settled),
                    uss=slope_of(x, [held.uss for _, held in settled]),
                    rss=slope_of(x, [held.rss for _, held in settled]),
                    files=tuple(round(np.median([held.files for _, held in part])) for part in ends),
                    threads=tuple(round(np.median([held.threads for _, held in part])) for part in ends),
                )
            )
    return found


def progress(looks: list[Look], stage: int, questions: int) -> list[float]:
    """Questions done at each look. Debates are counted every ten seconds, and steadily in between; graphs steadily all along."""
    times = [look.at for look in looks]
    if not times:
        return []
    if stage == 2:
        return list(np.interp(times, [times[0], times[-1]], [0, questions]))
    ended = [look.figures.get("ended", 0) for look in looks]
    new = [0, *(place for place in range(1, len(ended)) if ended[place] > ended[place - 1])]
    return list(np.interp(times, [times[place] for place in new], [ended[place] for place in new]))


def speed(looks: list[Look]) -> dict[str, float]:
    """Replies a second while the provider was asked, and debates taken from the store a second while it was not."""
    asked = [
        (after.at - before.at, after.figures["received"] - before.figures["received"])
        for before, after in pairwise(looks)
        if "received" in before.figures and after.figures.get("received", 0) > before.figures["received"]
    ]
    seconds = sum(spent for spent, _ in asked)
    return {"seconds_asking": round(seconds, 1), "replies_per_s": round(sum(count for _, count in asked) / seconds, 1)}


def peaks(looks: list[Look]) -> dict[str, dict[str, float]]:
    """The most that each group ever held."""
    names = sorted({name for look in looks for name in look.held})
    most = {
        name: {key: max(getattr(look.held[name], key) for look in looks if name in look.held) for key in KEPT} for name in names
    }
    return {name: {key: round(value, 1) for key, value in row.items()} for name, row in most.items()}


def draw(watch: Watch) -> str:
    """The picture, as SVG."""
    looks = watch.looks
    drivers = sorted({name for look in looks for name in look.held if name.startswith("driver")})

    def held(*names: str) -> list[float]:
        return [sum(look.held[name].uss for name in names if name in look.held) for look in looks]

    def figure(name: str) -> list[float]:
        return [look.figures.get(name, 0.0) for look in looks]

    panels = [
        Panel("Driver, MB of its own", [Line(held(*drivers), 0, steps=False, filled=True)], 124),
        Panel(
            "Others, MB of their own",
            [
                Line(held("workers"), 1, name="debate workers", steps=False),
                Line(held("rest of Ray"), 2, name="rest of Ray", steps=False, dashed=True),
                Line(held("provider"), 3, name="provider", steps=False, dashed=True),
            ],
            124,
        ),
        Panel(
            "On disk and in shared memory, MB",
            [
                Line(figure("store"), 0, name="reply store", steps=False),
                Line(figure("plasma"), 2, name="Ray's object store", steps=False),
            ],
            104,
        ),
        Panel(
            "Requests the provider had, thousands",
            [Line([x / 1e3 for x in figure("received")], 3, steps=False, filled=True)],
            104,
        ),
    ]
    said = "Memory of the driver, its workers and the rest of Ray, size of the stores, and requests, over time."
    return picture([look.at for look in looks], panels, events=watch.events, said=said)


def markdown(report: Mapping[str, Any], lines: list[volume_books.Line], found: list[Growth]) -> str:
    """The report for people."""
    rows = [
        (
            *(growth.driver, growth.stage, growth.questions, growth.uss, growth.rss, round(growth.most)),
            *(ends(growth.files), ends(growth.threads), "yes" if growth.flat else "**no**"),
        )
        for growth in found
    ]
    head = ["driver", "stage", "questions", "USS, MB per 10,000 questions", "RSS", "most USS, MB", "files", "threads", "flat"]
    listed = ["", *(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)), ""]
    return "\n".join([volume_books.table(lines), *listed, "```json", json.dumps(report, indent=1), "```", ""])


def ends(pair: tuple[int, int]) -> str:
    """Early and late."""
    return f"{pair[0]} → {pair[1]}"

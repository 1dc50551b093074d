"""What `soak` makes of what it saw: how much each process gains with the requests, tables and the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.panels import Line, Panel, picture
from benchmarks.processes import Slope, Watch, slope_of

FLAT = 5.0
"""MB for every 10,000 requests: 500 bytes a request."""
MORE = 5
"""Files and threads that a group may have more at the end than after the warming up: connections come and go."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What one group of processes gained."""

    group: str
    processes: int
    uss: Slope
    """MB for every 10,000 requests."""
    rss: Slope
    collected: Slope | None
    """As `rss`, right after a collection of garbage; None where nobody could ask for one."""
    blocks: Slope | None
    """Thousands of Python's own memory blocks for every 10,000 requests; None where nobody could ask."""
    files: tuple[int, int]
    """Early and late: the medians of the first and the last quarter."""
    threads: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Whether it stays below the bounds for sure. Not by USS: it also rises when others let go of a library that both had."""
        return (self.collected or self.rss).high < FLAT and all(
            late <= early + MORE for early, late in (self.files, self.threads)
        )


def growths(watch: Watch, *, warm: float) -> list[Growth]:
    """Every group, from `warm` seconds of load on."""
    begin, end = (at for at, _ in watch.events)
    looks = [look for look in watch.looks if begin + warm <= look.at <= end and "done" in look.figures]
    found = []
    for group in sorted({name for look in looks for name in look.held}):
        seen = [(look.figures["done"] / 1e4, look.held[group], look.figures) for look in looks if group in look.held]
        x = [done for done, _, _ in seen]
        uss, rss = slope_of(x, [held.uss for _, held, _ in seen]), slope_of(x, [held.rss for _, held, _ in seen])
        if uss is None or rss is None:
            continue
        name = {"copy": "student", "door": "door"}.get(group, "")
        quarter = max(1, len(seen) // 4)
        ends = (seen[:quarter], seen[-quarter:])
        found.append(
            Growth(
                group=group,
                processes=max(held.processes for _, held, _ in seen),
                uss=uss,
                rss=rss,
                collected=_counted(seen, f"{name} resident"),
                blocks=_counted(seen, f"{name} blocks", 1e-3),
                files=tuple(round(np.median([held.files for _, held, _ in part])) for part in ends),
                threads=tuple(round(np.median([held.threads for _, held, _ in part])) for part in ends),
            )
        )
    return found


def _counted(seen: list[tuple[float, Any, Mapping[str, float]]], name: str, unit: float = 1.0) -> Slope | None:
    """Of a figure that a process told of itself."""
    told = [(done, figures[name] * unit) for done, _, figures in seen if name in figures]
    return slope_of([done for done, _ in told], [value for _, value in told]) if told else None


def draw(watch: Watch) -> str:
    """The picture, as SVG."""
    looks = watch.looks

    def held(name: str) -> list[float]:
        return [look.held[name].rss if name in look.held else 0.0 for look in looks]

    def figure(name: str) -> list[float]:
        return [look.figures.get(name, 0.0) for look in looks]

    panels = [
        Panel("Copy of the student, MB resident", [Line(held("copy"), 0, steps=False, filled=True)], 110),
        Panel(
            "Others, MB resident",
            [
                Line(held("door"), 1, name="front door", steps=False),
                Line(held("Serve's controller"), 2, name="Serve's controller", steps=False, dashed=True),
                Line(held("HAProxy"), 3, name="HAProxy", steps=False),
            ],
            124,
        ),
        Panel(
            "In the copy",
            [
                Line(figure("student under_way"), 1, name="replies under way", steps=False),
                Line(figure("student pages"), 2, name="pages of the cache held", steps=False),
                Line(figure("student waiting"), 3, name="waiting", steps=False, dashed=True),
            ],
            104,
        ),
        Panel("Requests that ended, thousands", [Line([x / 1e3 for x in figure("done")], 3, steps=False, filled=True)], 104),
    ]
    said = "Memory of the processes of a served student, replies and pages of the cache, and requests, over time."
    return picture([look.at for look in looks], panels, events=watch.events, said=said)


def markdown(report: Mapping[str, Any], found: list[Growth]) -> str:
    """The report for people."""
    head = ["processes", "RSS, MB", "RSS, MB per 10,000 requests", "after a collection", "USS", "Python blocks, thousands"]
    head += ["files", "threads", "flat"]
    rows = [
        (
            *(f"{growth.group} ({growth.processes})", round(growth.rss.mean), growth.rss, growth.collected or "–"),
            *(growth.uss, growth.blocks or "–", ends(growth.files), ends(growth.threads), "yes" if growth.flat else "**no**"),
        )
        for growth in found
    ]
    listed = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*listed, "", "```json", json.dumps(report, indent=1), "```", ""])


def ends(pair: tuple[int, int]) -> str:
    """Early and late."""
    return f"{pair[0]} → {pair[1]}"

"""What happened, as a table: a line for every fault and stage. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

HEAD = ("fault", "stage", "struck", "further attempts", "seconds to be well again", "calls answered twice", "books")


def table(results: Sequence[Mapping[str, Any]], *, order: Sequence[tuple[str, str]]) -> str:
    """Markdown. `results`: `trial.Result` as plain data; `order`: faults and stages as they are to stand."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for fault, stage in order:
        met = [
            (blow, result["wrong"])
            for result in results
            for blow in result["blows"]
            if (blow["fault"], blow["stage"]) == (fault, stage) and blow["at"] >= 0
        ]
        if met:
            wrong = sum(bool(said) for _, said in met)
            row = (fault, stage, str(len(met)), span(blow["attempts"] for blow, _ in met))
            times, extra = span(blow["well_s"] for blow, _ in met), span(blow["extra_calls"] for blow, _ in met)
            rows.append((*row, times, extra, "balanced" if not wrong else f"{wrong} not balanced"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def span(values: Iterable[float | None]) -> str:
    """One value, or the least, the middle and the greatest of several."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    if known[0] == known[-1]:
        return f"{known[0]:g}"
    return f"{known[0]:g} to {known[-1]:g}" if len(known) == 2 else f"{known[0]:g}, {median(known):g}, {known[-1]:g}"


def line(result: Mapping[str, Any]) -> str:
    """One trial in a line."""
    blows = "; ".join(told(blow) for blow in result["blows"]) or "nothing"
    starts = ", ".join(str(start["step"]) for start in result["starts"])
    books = "books balanced" if not result["wrong"] else f"WRONG: {' | '.join(result['wrong'])}"
    return (
        f"seed {result['seed']}: {blows} -> {len(result['codes'])} attempts {result['codes']}, trained from step {starts}, "
        f"{result['repeated_calls']} of at most {result['spare_calls']} calls repeated, {result['seconds']:g} s: {books}"
    )


def told(blow: Mapping[str, Any]) -> str:
    """One blow in a few words."""
    if blow["at"] < 0:
        return f"{blow['fault']} in {blow['stage']} came too late"
    after = f"ended {blow['ended']}" if blow["ended"] is not None else "went on"
    torn = f" ({blow['torn']})" if blow["torn"] else ""
    well = f"well after {blow['well_s']:g} s" if blow["well_s"] is not None else "never seen to be well"
    return f"{blow['fault']} in {blow['stage']} at {blow['at']}{torn}: {after}, {well}"

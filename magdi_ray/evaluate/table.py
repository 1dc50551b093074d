"""The tables a run ends with. Rich renderables; no figure is computed here but the share of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


def percent(share: float | None) -> str:
    """0.6234 -> "62.3"; "-" where it is unknown."""
    return "-" if share is None else f"{100 * share:.1f}"


def asked_as(name: str, method: str, samples: int | None = None) -> str:
    """A system, and how it was asked where that is not with one reply: "level2, majority of 5 replies"."""
    if method in ("single", "revised"):
        return name if method == "single" else f"{name}, revised"
    return f"{name}, {method}" + (f" of {samples} replies" if samples else "")


def _title(row: Row, titles: Mapping[str, str]) -> str:
    """The system's title, or, where several replies were asked for, its short name and how."""
    name = row["system"]
    return asked_as(titles.get(name, name) if row["method"] == "single" else name, row["method"], row["samples"])


def score_table(rows: Sequence[Row], titles: Mapping[str, str], title: str) -> Table:
    """Accuracy, interval, tokens, time and cost of every system on one set of questions. `titles`: system -> what it is."""
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("system", min_width=24)
    debate = next((row["tokens_out"] for row in rows if row["system"] == "vote" and row["tokens_out"]), None)
    shown: dict[str, Callable[[Row], str]] = {
        "right\n%": lambda row: percent(row["accuracy"]),
        "95%\ninterval": lambda row: f"{percent(row['low'])} to {percent(row['high'])}",
        "seeds\n(sd)": lambda row: "" if row["sd"] is None else f"{row['seeds']} ({percent(row['sd'])})",
        "tokens a\nquestion": lambda row: f"{row['tokens_out']:.1f}" if row["tokens_out"] else "unknown",
        "of the\ndebate's": lambda row: f"1/{debate / row['tokens_out']:.1f}" if debate and row["tokens_out"] else "",
        "seconds\na reply": lambda row: "" if row["seconds"] is None else f"{row['seconds']:.3f}",
        "USD for\n1000": lambda row: "" if row["usd"] is None else f"{1000 * row['usd']:.3g}",
        "no\nanswer": lambda row: f"{missing:g}" if (missing := row["unanswered"] + row["errors"]) else "",
    }
    kept = {name: [cell(row) for row in rows] for name, cell in shown.items()}
    kept = {name: cells for name, cells in kept.items() if any(cells)}
    for name in kept:
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(_title(row, titles), *(cells[number] for cells in kept.values()))
    return table


def difference_table(rows: Sequence[Row], title: str) -> Table:
    """Paired differences on one set of questions, in points."""
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("comparison", min_width=24)
    seeds = any(row["seeds"] > 1 for row in rows)
    columns = ["difference", "95% interval", *(["seeds"] if seeds else ["gained", "lost"]), "p"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counted = [str(row["seeds"])] if seeds else [str(row["gained"]), str(row["lost"])]
        table.add_row(
            f"{asked_as(row['system'], row['method'])} - {asked_as(row['reference'], row['reference_method'])}",
            f"{100 * row['difference']:+.1f}",
            f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
            *counted,
            f"{row['p_value']:.2g}",
        )
    return table


def result_tables(data: Mapping[str, Any]) -> RenderableType:
    """Both tables for every set of questions of an evaluation (`metrics.json`)."""
    titles = {system["name"]: system["title"] for system in data["systems"]}
    several = len({row["task"] for row in data["sets"]}) > 1
    parts: list[RenderableType] = []
    for asked in data["sets"]:
        name = f"{asked['task']} {asked['split']}" if several else asked["split"]
        where = ", out of domain" if asked["domain"] == "out" else ""

        def here(rows: Sequence[Row], place: Row = asked) -> list[Row]:
            return [row for row in rows if (row["task"], row["split"]) == (place["task"], place["split"])]

        parts.append(score_table(here(data["scores"]), titles, f"{name}{where}: {asked['questions']} questions"))
        if compared := here(data["differences"]):
            parts.append(difference_table(compared, f"{name}: paired differences, in points"))
    if any(row["seconds"] is not None for row in data["scores"]):
        parts.append(Text("seconds a reply: asked one question at a time.", style="dim"))
    return Group(*parts)

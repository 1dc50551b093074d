"""A report's tables as GitHub markdown. Pure; no figure is computed here.

Every sentence either explains how a table is read or is made from the data, so that none of them can contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SCORES = """\
Accuracy is the share of questions answered rightly; no answer, and no reply, is wrong. Intervals are at 95%: Wilson's for \
one training, over several trainings one that holds for other trainings and other questions alike. Tokens are those of a \
question: of the debate by all agents in all rounds, of a vote over several replies by all of them."""
DIFFERENCES = """\
Accuracy of the first minus that of the second on the same questions, in points, with its interval at 95%. Gained: questions \
that only the first has right; lost: that only the second has right. p: exact McNemar test, over several trainings a t-test."""
ORDERINGS = """\
A claim holds where the interval of the difference lies above its bound (0, but for a claim that names another), is reversed \
where it lies below, and is not seen where the interval holds the bound. One of fewer tokens is also reversed where there \
are not fewer."""
COMPARED = "The same questions, matched by their texts; what only one run asked is not used."
ROUNDS = """\
Agreement is the mean share of agents that give the commonest answer, consensus the share of debates in which all agree. A \
debate that stopped early counts with its last state in later rounds."""
COST = "Wall-clock time of each stage. Tokens in of a training are those it forwarded. A dash is unknown."


def study_page(data: Mapping[str, Any]) -> str:
    """The report's tables, one section each; what there is no data of is left out."""
    parts = [f"# {_cell(data['title'])}", f"Made {data['made']} by magdi_ray {data['version']}."]
    several = len(data["runs"]) > 1
    for run in data["runs"]:
        parts += [f"# Run {_cell(run['label'])}"] if several else []
        parts += _run(run)
    if data["comparisons"]:
        parts += ["# Between the runs", COMPARED, *_compared(data)]
    return "\n\n".join(parts) + "\n"


def _run(run: Row) -> Iterator[str]:
    titles = {system["id"]: system["title"] for system in run["systems"]}
    for asked in run["sets"]:
        where = ", out of domain" if asked["domain"] == "out" else ""
        yield f"## {_cell(asked['id'])}{where}: {asked['questions']} questions"
        yield _scores([row for row in run["scores"] if row["set"] == asked["id"]], titles)
        if rows := [row for row in run["differences"] if row["set"] == asked["id"]]:
            yield _differences(rows)
    yield SCORES
    if run["differences"]:
        yield DIFFERENCES
    if run["orderings"]:
        yield from ("## Claims", _orderings(run["orderings"]), ORDERINGS)
    if run["rounds"]:
        yield from ("## Debates, round by round", _rounds(run["rounds"]), ROUNDS)
    if run["cost"]:
        yield from ("## Cost", _cost(run["cost"]), COST)
    if run["facts"]:
        yield from ("## Settings", table(("setting", "value"), run["facts"]))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, figures: int = 0) -> str:
    """A markdown table; the last `figures` columns are set to the right."""
    marks = ["---"] * (len(columns) - figures) + ["---:"] * figures
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [columns, marks, *rows])


def _scores(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    columns = (
        "system",
        "accuracy %",
        "95% interval",
        "sd between trainings",
        "trainings",
        "tokens out",
        "tokens in",
        "no answer",
    )
    lines = [
        (
            asked_as(titles.get(row["system"], row["system"]), row["method"], row["samples"]),
            percent(row["accuracy"]),
            f"{percent(row['low'])} to {percent(row['high'])}",
            percent(row["sd"]),
            str(row["seeds"]),
            _figure(row["tokens_out"] or None),
            _figure(row["tokens_in"] or None),
            f"{row['unanswered'] + row['errors']:g}",
        )
        for row in rows
    ]
    return table(columns, lines, figures=7)


def _differences(rows: Iterable[Row]) -> str:
    columns = ("comparison", "difference", "95% interval", "gained", "lost", "questions", "p")
    return table(columns, ((_pair(row), *_difference(row)) for row in rows), figures=6)


def _compared(data: Row) -> Iterator[str]:
    columns = ("set", "comparison", "difference", "95% interval", "gained", "lost", "questions", "p")
    rows = ((row["set"], _pair(row, row["run"], row["reference_run"]), *_difference(row)) for row in data["comparisons"])
    yield table(columns, rows, figures=6)
    counted = ("set", "runs", "asked by both", "only by the first", "only by the second")
    matched = (
        (row["set"], f"{row['run']}, {row['reference_run']}", *map(str, (row["common"], row["only_run"], row["only_reference"])))
        for row in data.get("matched", ())
    )
    yield table(counted, matched, figures=3)


def _orderings(rows: Iterable[Row]) -> str:
    columns = ("claim", "whose", "set", "verdict", "difference", "95% interval")
    lines = ((row["claim"], row["source"], row["set"], row["verdict"], points(row["difference"]), _interval(row)) for row in rows)
    return table(columns, lines, figures=2)


def _rounds(rows: Iterable[Row]) -> str:
    columns = ("split", "round", "debates", "agreement %", "consensus %", "vote right %", "replies right %")
    names = ("agreement", "consensus", "vote_accuracy", "reply_accuracy")
    lines = ((row["split"], str(row["round"]), str(row["debates"]), *(percent(row[name]) for name in names)) for row in rows)
    return table(columns, lines, figures=6)


def _cost(rows: Iterable[Row]) -> str:
    columns = ("stage", "what", "seconds", "tokens in", "tokens out", "USD")
    names = ("seconds", "tokens_in", "tokens_out")
    lines = (
        (row["stage"], row["what"], *(_figure(row[name]) for name in names), "-" if row["usd"] is None else f"{row['usd']:.2f}")
        for row in rows
    )
    return table(columns, lines, figures=4)


def asked_as(name: str, method: str, samples: int | None = None) -> str:
    """A system, and how it was asked where that is not with one reply."""
    if method == "single":
        return name
    return f"{name}, {method}" + (f" of {samples} replies" if samples else "")


def percent(share: float | None) -> str:
    """0.6234 -> "62.3"."""
    return "-" if share is None else f"{100 * share:.1f}"


def points(difference: float) -> str:
    """0.0512 -> "+5.1"."""
    return f"{100 * difference:+.1f}"


def _pair(row: Row, run: str = "", reference_run: str = "") -> str:
    one, other = asked_as(row["system"], row["method"]), asked_as(row["reference"], row["reference_method"])
    return f"{one} of {run} - {other} of {reference_run}" if run else f"{one} - {other}"


def _difference(row: Row) -> tuple[str, ...]:
    counts = ("-" if row[name] is None else str(row[name]) for name in ("gained", "lost", "questions"))
    return (points(row["difference"]), _interval(row), *counts, f"{row['p_value']:.2g}")


def _interval(row: Row) -> str:
    return f"{points(row['low'])} to {points(row['high'])}"


def _figure(value: float | None) -> str:
    return (
        "-"
        if value is None
        else f"{value:,.1f}".replace(",", " ")
        if isinstance(value, float)
        else f"{value:,}".replace(",", " ")
    )


def _cell(text: Any) -> str:
    """A text that can neither end its cell nor begin a tag or a link."""
    flat = " ".join(str(text).split())
    for mark in ("\\", "|", "<", "[", "`", "*", "_"):
        flat = flat.replace(mark, "\\" + mark)
    return flat

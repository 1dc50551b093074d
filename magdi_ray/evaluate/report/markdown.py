"""A report's tables as GitHub markdown. Pure; no figure is computed here.

Every sentence either explains how a table is read or is made from the data, so that none of them can contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from magdi_ray.evaluate.table import asked_as, percent

Row = Mapping[str, Any]

SCORES = """\
Accuracy is the share of questions answered rightly; no answer, and no reply, is wrong. Intervals are at 95%: Wilson's for \
one training, over several trainings one that holds for other trainings and other questions alike. Tokens are those of a \
question: of the debate by all agents in all rounds, of a vote over several replies by all of them. No answer: replies in \
which none could be read; no reply: questions without one; over several trainings both are means."""
DIFFERENCES = """\
Accuracy of the first minus that of the second on the same questions, in points, with its interval at 95%. p: exact McNemar \
test, over several trainings a t-test."""
GAINED = "Gained: questions that only the first has right; lost: that only the second has right; unknown over several trainings."
ORDERINGS = """\
A claim holds where the interval of the difference lies above its bound (0, but for a claim that names another), is reversed \
where it lies below, and is not seen where the interval holds the bound. One of fewer tokens is also reversed where there \
are not fewer."""
COMPARED = "The same questions, matched by their texts; what only one run asked is not used."
ROUNDS = """\
Agreement is the mean share of agents that give the commonest answer, consensus the share of debates in which all agree. A \
debate that stopped early counts with its last state in later rounds."""
LABELLING = """\
Where gold answers are known: debates labelled by their own vote instead, all of them and those whose agents agree at least so \
much. Replies taught are those that give the vote's answer; a run that labels by vote learns from exactly them."""
COST = """\
Seconds are wall-clock time, from a stage's start to its end; worker seconds are those of a training's steps and measurements, \
summed over its workers. Tokens in of a training are those it forwarded. A dash is unknown."""


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
    names = _short_names(run)
    sets = sorted(run["sets"], key=_outside)
    for asked in sets:
        where = ", out of domain" if asked["domain"] == "out" else ""
        yield f"## {_cell(asked['id'])}{where}: {asked['questions']} questions"
        yield _scores([row for row in run["scores"] if row["set"] == asked["id"]], titles)
        if rows := [row for row in run["differences"] if row["set"] == asked["id"]]:
            yield _differences(rows, names)
    yield SCORES
    if run["differences"]:
        yield DIFFERENCES + (f" {GAINED}" if _any(run["differences"], "gained") else "")
    if run["orderings"]:
        yield from ("## Claims", *_orderings(run["orderings"], [asked["id"] for asked in sets]), ORDERINGS)
    if run["rounds"]:
        splits = [asked["split"] for asked in sets]
        yield from ("## Debates, round by round", _rounds(_ordered(run["rounds"], "split", splits)), ROUNDS)
    if run.get("labelling"):
        splits = [asked["split"] for asked in sets]
        yield from ("## Labels without gold answers", labelling_table(_ordered(run["labelling"], "split", splits)), LABELLING)
    if run["cost"]:
        yield from ("## Cost", _cost(run["cost"]), COST)
    if run["facts"]:
        yield from ("## Settings", table(("setting", "value"), run["facts"]))


def _outside(asked: Row) -> bool:
    return bool(asked["domain"] == "out")


def _short_names(run: Row) -> dict[str, str]:
    """What a comparison calls a system by where that is not its id: the debate as everywhere else."""
    return {system["id"]: system["title"] for system in run["systems"] if system["kind"] == "debate"}


def _any(rows: Iterable[Row], name: str) -> bool:
    return any(row[name] is not None for row in rows)


def _ordered(rows: Iterable[Row], name: str, values: Sequence[str]) -> list[Row]:
    """Rows in the order of these values; rows of others after them, as they come."""
    place = {value: number for number, value in reversed(list(enumerate(values)))}
    return sorted(rows, key=lambda row: place.get(row[name], len(values)))


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
        "no reply",
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
            f"{row['unanswered']:g}",
            f"{row['errors']:g}",
        )
        for row in rows
    ]
    return table(columns, lines, figures=8)


def _differences(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    figures = _difference_columns(rows)
    lines = ((_pair(row, names, names), *_difference(row, figures)) for row in rows)
    return table(("comparison", *figures), lines, figures=len(figures))


def _compared(data: Row) -> Iterator[str]:
    runs = {run["label"]: run for run in data["runs"]}
    names = {label: _short_names(run) for label, run in runs.items()}
    sets = [asked["id"] for run in runs.values() for asked in sorted(run["sets"], key=_outside)]
    rows, figures = _ordered(data["comparisons"], "set", sets), _difference_columns(data["comparisons"])
    lines = ((row["set"], _pair_of_runs(row, names), *_difference(row, figures)) for row in rows)
    yield table(("set", "comparison", *figures), lines, figures=len(figures))
    counted = ("set", "runs", "asked by both", "only by the first", "only by the second")
    matched = (
        (row["set"], f"{row['run']}, {row['reference_run']}", *map(str, (row["common"], row["only_run"], row["only_reference"])))
        for row in _ordered(data.get("matched", ()), "set", sets)
    )
    yield table(counted, matched, figures=3)


def _orderings(rows: Sequence[Row], sets: Sequence[str]) -> Iterator[str]:
    """A table a set, under its name where there are several."""
    found = dict.fromkeys(row["set"] for row in _ordered(rows, "set", sets))
    columns = ("claim", "whose", "verdict", "difference", "bound", "95% interval")
    for name in found:
        if len(found) > 1:
            yield f"### {_cell(name)}"
        lines = (
            (row["claim"], row["source"], row["verdict"], points(row["difference"]), points(row["bound"]), _interval(row))
            for row in rows
            if row["set"] == name
        )
        yield table(columns, lines, figures=3)


def _rounds(rows: Iterable[Row]) -> str:
    columns = ("split", "round", "debates", "agreement %", "consensus %", "vote right %", "replies right %")
    names = ("agreement", "consensus", "vote_accuracy", "reply_accuracy")
    lines = ((row["split"], str(row["round"]), str(row["debates"]), *(percent(row[name]) for name in names)) for row in rows)
    return table(columns, lines, figures=6)


def labelling_table(rows: Iterable[Row]) -> str:
    """What labels by vote are worth (`report.labelling`)."""
    columns = (
        "split",
        "agreement at least %",
        "debates",
        "kept %",
        "vote right %",
        "replies taught",
        "of them right %",
        "of right ones taught %",
    )
    lines = (
        (
            row["split"],
            percent(row["least"]),
            _figure(row["debates"]),
            percent(row["kept"]),
            percent(row["vote_accuracy"]),
            _figure(row["taught"]),
            percent(row["taught_right"]),
            percent(row["right_taught"]),
        )
        for row in rows
    )
    return table(columns, lines, figures=7)


def _cost(rows: Iterable[Row]) -> str:
    columns = ("stage", "what", "seconds", "tokens in", "tokens out", "USD")
    names = ("seconds", "tokens_in", "tokens_out")
    lines = (
        (row["stage"], row["what"], *(_figure(row[name]) for name in names), "-" if row["usd"] is None else f"{row['usd']:.2f}")
        for row in rows
    )
    return table(columns, lines, figures=4)


def points(difference: float) -> str:
    """0.0512 -> "+5.1"."""
    return f"{100 * difference:+.1f}"


def _pair(row: Row, names: Mapping[str, str], reference_names: Mapping[str, str], end: str = "", reference_end: str = "") -> str:
    one = asked_as(names.get(row["system"], row["system"]), row["method"])
    other = asked_as(reference_names.get(row["reference"], row["reference"]), row["reference_method"])
    return f"{one}{end} - {other}{reference_end}"


def _pair_of_runs(row: Row, names: Mapping[str, Mapping[str, str]]) -> str:
    run, other = row["run"], row["reference_run"]
    return _pair(row, names.get(run, {}), names.get(other, {}), f" of {run}", f" of {other}")


def _difference_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is told of differences: nothing that is the same, or unknown, of all of them."""
    gained = ("gained", "lost") if _any(rows, "gained") else ()
    seeds = ("trainings",) if any(row["seeds"] > 1 for row in rows) else ()
    return ("difference", "95% interval", *seeds, *gained, "questions", "p")


def _difference(row: Row, columns: Sequence[str]) -> Iterator[str]:
    counts = {"gained": row["gained"], "lost": row["lost"], "questions": row["questions"], "trainings": row["seeds"]}
    written = {"difference": points(row["difference"]), "95% interval": _interval(row), "p": f"{row['p_value']:.2g}"}
    for name in columns:
        yield written[name] if name in written else "-" if counts[name] is None else str(counts[name])


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

"""The page of a study: every setting that was tried, the table, the picture, and the sentences. Markdown and SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from magdi_ray.evaluate.report.markdown import LABELLING, labelling_table

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, LINE = 760, 420, 64, 190, 48, 13
COLOURS = ("#2a6fbb", "#c25b1e", "#8a8f98")
"""Recipes, the baseline after other numbers of steps, controls."""
TUNING = (
    "On the dev questions, before anything was compared. Of each recipe's settings within one standard error of its best, which "
    "so many questions do not tell apart, the one with the lowest learning rate was taken, then with the fewest steps."
)


def write_page(result: Mapping[str, Any], path: Path) -> Path:
    """Write the page, and its picture beside it. Returns the page's path."""
    picture = path.with_suffix(".svg")
    picture.write_text(draw(result), encoding="utf-8")
    path.write_text(text_of(result, picture.name), encoding="utf-8")
    return path


def text_of(result: Mapping[str, Any], picture: str) -> str:
    """The page as markdown."""
    *others, baseline = result["rows"]
    name = baseline["recipe"]
    lines = [
        f"# {result['name']}",
        f"{len(others)} recipes against {name}: {result['seeds']} trainings of each, {result['questions']} questions "
        f"({result['split']}), intervals at 95%, p-values corrected for the number of recipes (Holm).",
        *[f"- {sentence}" for sentence in result["said"]],
        f"![accuracy against tokens]({picture})",
        _table(
            (
                "recipe",
                "accuracy %",
                "sd",
                "tokens",
                f"minus {name}, equal updates",
                f"minus {name}, equal tokens",
                "corrected p",
            ),
            (_row(row) for row in sorted(others, key=lambda row: -row["score"]["accuracy"])),
        ),
        _table(("baseline", "accuracy %", "sd", "tokens"), (_short(row) for row in (baseline, *result["beside"]))),
        _table(("beside them", "accuracy %"), ((row["what"], _accuracy(row["score"])) for row in result["others"])),
        "## Recipes",
        "What each says; all else is as the run's configuration has it, "
        + f"`{result['world']['run']}`"
        + (f" with {', '.join(f'`{change}`' for change in result['world']['set'])}." if result["world"]["set"] else "."),
        _table(("recipe", "settings"), ((name, f"`{said}`") for name, said in result["settings"].items())),
    ]
    if result["labelling"]:
        lines += [
            "## Labels without gold answers",
            LABELLING,
            labelling_table(result["labelling"]),
        ]
    if result["tuning"]:
        tried = sorted(result["tuning"], key=lambda trial: (trial["recipe"], -trial["accuracy"]))
        lines += ["## Tuning", TUNING]
        cells = ((t["recipe"], f"{t['learning_rate']:g}", str(t["max_steps"]), f"{100 * t['accuracy']:.1f}") for t in tried)
        lines.append(_table(("recipe", "learning rate", "steps", "dev accuracy %"), cells))
    return "\n\n".join(_joined(lines)) + "\n"


def _joined(lines: Sequence[str]) -> Iterable[str]:
    """Bullets that follow each other belong together."""
    bullets: list[str] = []
    for line in lines:
        if line.startswith("- "):
            bullets.append(line)
            continue
        if bullets:
            yield "\n".join(bullets)
            bullets = []
        yield line
    if bullets:
        yield "\n".join(bullets)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    p_value = row["p_corrected"]
    return (*_short(row), _difference(row["updates"]), _difference(row["equal"]), "" if p_value is None else f"{p_value:.2g}")


def _short(row: Mapping[str, Any]) -> tuple[str, ...]:
    sd = row["score"]["sd"]
    return row["recipe"], _accuracy(row["score"]), "" if sd is None else f"{100 * sd:.1f}", f"{row['tokens'] / 1e3:.0f}k"


def _accuracy(score: Mapping[str, Any]) -> str:
    return f"{100 * score['accuracy']:.1f} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _difference(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return ""
    return f"{100 * item['difference']:+.1f} ({100 * item['low']:+.1f} to {100 * item['high']:+.1f})"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def draw(result: Mapping[str, Any]) -> str:
    """Accuracy against tokens: a point a recipe with its interval, and the baseline as a line through its own points."""
    *others, baseline = result["rows"]
    controls = {recipe["name"] for recipe in result["recipes"] if recipe["control"] != "none"}
    line = sorted((baseline, *result["beside"]), key=lambda row: row["tokens"])
    everyone = [*others, *line]
    across = _span([row["tokens"] for row in everyone], least=1e3)
    up = _span([row["score"][name] for row in everyone for name in ("low", "high")], least=0.01)

    def at(tokens: float, accuracy: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (tokens - across[0]) / (across[1] - across[0])
        return x, (HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - 20) * (accuracy - up[0]) / (up[1] - up[0])

    parts = [_axes(across, up, at)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(row["tokens"], row["score"]["accuracy"]) for row in line))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[1]}" stroke-width="2"/>')
    colours = {row["recipe"]: COLOURS[2 if row["recipe"] in controls else 0] for row in others} | {baseline["recipe"]: COLOURS[1]}
    parts += [_point(row, at, colours.get(row["recipe"], COLOURS[1])) for row in everyone]
    parts += _labels_of([row for row in everyone if row["recipe"] in colours], at, colours)
    said = "Accuracy against the tokens each student read in training; the line is the baseline after other numbers of steps."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        f'font-size="12" role="img"><title>{said}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _span(values: Sequence[float], *, least: float) -> tuple[float, float]:
    """A little more than the values take."""
    margin = max(least, 0.06 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), max(values) + margin


def _point(row: Mapping[str, Any], at: Any, colour: str) -> str:
    score = row["score"]
    (x, y), (_, top), (_, foot) = (at(row["tokens"], score[name]) for name in ("accuracy", "high", "low"))
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{foot:.1f}" stroke="{colour}" stroke-opacity="0.4"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    )


def _labels_of(rows: Sequence[Mapping[str, Any]], at: Any, colours: Mapping[str, str]) -> list[str]:
    """A name beside each point; names that would lie on one another are moved down."""
    placed: list[tuple[float, float]] = []
    parts = []
    for row in sorted(rows, key=lambda row: -row["score"]["accuracy"]):
        x, y = at(row["tokens"], row["score"]["accuracy"])
        while any(abs(x - left) < 7 * len(row["recipe"]) and abs(y - line) < LINE for left, line in placed):
            y += 1
        placed.append((x, y))
        name, colour = escape(row["recipe"]), colours[row["recipe"]]
        parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}" fill="{colour}">{name}</text>')
    return parts


def _axes(across: tuple[float, float], up: tuple[float, float], at: Any) -> str:
    parts = []
    for accuracy in _ticks(*up):
        (x0, y), (x1, _) = at(across[0], accuracy), at(across[1], accuracy)
        parts.append(f'<line x1="{x0:.1f}" x2="{x1:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e5e8"/>')
        parts.append(f'<text x="{x0 - 8:.1f}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{100 * accuracy:g}%</text>')
    for tokens in _ticks(*across):
        x, y = at(tokens, up[0])
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle" fill="#555">{tokens / 1e3:g}k</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}" fill="#555">tokens read by the student in training</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers between two."""
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next(size * part for part in (0.1, 0.2, 0.5, 1.0) if (high - low) / (size * part) <= 9)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]

"""The table a run ends with. Rich renderables; no figure is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from magdi_ray.evaluate.metrics import Difference, Score


def percent(value: float) -> str:
    """0.6234 -> "62.3"."""
    return f"{100 * value:.1f}"


def score_table(scores: Sequence[Score], titles: Mapping[str, str], split: str) -> Table:
    """Accuracy, interval and tokens of every system on one split. `titles`: system -> what it is."""
    chosen = [score for score in scores if score.split == split]
    table = Table(title=f"{split}: {chosen[0].questions} questions", title_justify="left", header_style="bold")
    table.add_column("system")
    for name in ("accuracy %", "95% interval", "tokens / question"):
        table.add_column(name, justify="right", no_wrap=True)
    noted = any(score.unanswered or score.errors for score in chosen)
    if noted:
        table.add_column("no answer", justify="right")
    for score in chosen:
        row = [
            titles.get(score.system, score.system),
            percent(score.accuracy),
            f"{percent(score.low)} to {percent(score.high)}",
            f"{score.tokens_out:.1f}" if score.tokens_out else "unknown",
        ]
        table.add_row(*row, *([str(score.unanswered + score.errors)] if noted else []))
    return table


def difference_table(differences: Sequence[Difference], split: str) -> Table:
    """Paired differences on one split, in points."""
    table = Table(title=f"{split}: paired differences, in points", title_justify="left", header_style="bold")
    table.add_column("comparison")
    for name in ("difference", "95% interval", "gained", "lost", "p (McNemar)"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in (item for item in differences if item.split == split):
        table.add_row(
            f"{item.system} - {item.reference}",
            f"{100 * item.difference:+.1f}",
            f"{100 * item.low:+.1f} to {100 * item.high:+.1f}",
            str(item.gained),
            str(item.lost),
            f"{item.p_value:.2g}",
        )
    return table


def result_tables(scores: Sequence[Score], differences: Sequence[Difference], titles: Mapping[str, str]) -> RenderableType:
    """Both tables for every split."""
    splits = list(dict.fromkeys(score.split for score in scores))
    parts: list[RenderableType] = []
    for split in splits:
        parts.append(score_table(scores, titles, split))
        if any(item.split == split for item in differences):
            parts.append(difference_table(differences, split))
    return Group(*parts)

"""What the figures of a study support, in rows and sentences. Pure.

Every recipe is held against the baseline twice: after as many updates, and after as many tokens read by the student. The second
is the claim: whoever reads more tokens learns more. p-values are corrected for the number of recipes tried (Holm 1979),
intervals are not; a sentence says a recipe wins or loses only where both the corrected p-value and the interval do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from magdi_ray.config.recipes import RecipeConfig
from magdi_ray.evaluate.metrics import Difference, Score
from magdi_ray.study.grid import is_control_of

LEVEL = 0.05
Verdict = Literal["wins", "loses", "not told apart"]


@dataclass(frozen=True, slots=True)
class Row:
    """One recipe of a study."""

    recipe: str
    score: Score
    tokens: float
    """Read by the student in training, mean over seeds."""
    updates: Difference | None = None
    """Minus the baseline after as many updates; None for the baseline itself."""
    equal: Difference | None = None
    """Minus the baseline after as many tokens."""
    p_corrected: float | None = None
    """Of `equal`, Holm's over all recipes."""
    verdict: Verdict | None = None
    """Of `equal`."""


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def rows(
    recipes: Sequence[RecipeConfig],
    scores: Iterable[Score],
    differences: Iterable[Difference],
    tokens: Mapping[str, float],
    rivals: Mapping[str, str],
) -> list[Row]:
    """A row a recipe, the baseline (the last of `recipes`) included; tokens by name. `rivals`: as `study.grid`'s."""
    single = {score.system: score for score in scores if score.method == "single"}
    found = {
        (item.system, item.reference): item
        for item in differences
        if item.method == "single" and item.reference_method == "single"
    }
    *others, baseline = [recipe.name for recipe in recipes]
    plain = [
        Row(
            name,
            single[name],
            tokens[name],
            found.get((name, baseline)),
            found.get((name, rivals[name])) if name in rivals else None,
        )
        for name in others
    ]
    held = [row for row in plain if row.equal is not None]
    corrected = dict(zip((row.recipe for row in held), holm([row.equal.p_value for row in held if row.equal]), strict=True))
    judged = [_judged(row, corrected.get(row.recipe)) for row in plain]
    return [*judged, Row(baseline, single[baseline], tokens[baseline])]


def _judged(row: Row, p_corrected: float | None) -> Row:
    if row.equal is None or p_corrected is None:
        return row
    verdict: Verdict = "not told apart"
    if p_corrected < LEVEL and row.equal.low > 0:
        verdict = "wins"
    elif p_corrected < LEVEL and row.equal.high < 0:
        verdict = "loses"
    return Row(row.recipe, row.score, row.tokens, row.updates, row.equal, p_corrected, verdict)


def sentences(
    found: Sequence[Row],
    recipes: Sequence[RecipeConfig],
    differences: Iterable[Difference],
    comparisons: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """One sentence a conclusion that the numbers support, and no other. `comparisons`: further pairs that were asked for."""
    baseline = found[-1].recipe
    said = [_sentence(row, baseline) for row in found[:-1] if row.equal is not None]
    winners = [row.recipe for row in found if row.verdict == "wins"]
    if not winners:
        said.append(f"Nothing that was tried beats {baseline} at equal tokens.")
    pairs = {(item.system, item.reference): item for item in differences if item.method == item.reference_method == "single"}
    for control in recipes:
        for original in (recipe for recipe in recipes if is_control_of(control, recipe)):
            if (item := pairs.get((original.name, control.name))) is not None:
                said.append(_of_control(original.name, control, item))
    return said + [_of_pair(pairs[pair]) for pair in comparisons if pair in pairs]


def _sentence(row: Row, baseline: str) -> str:
    item = row.equal
    assert item is not None
    by = f"{points(item)} at equal tokens, corrected p {row.p_corrected:.2g}"
    match row.verdict:
        case "wins":
            return f"{row.recipe} beats {baseline}: {by}."
        case "loses":
            return f"{row.recipe} is worse than {baseline}: {by}."
        case _:
            width = 100 * (item.high - item.low) / 2
            seen = f"Less than {width:.1f} points would not have been seen."
            return f"{row.recipe} is not told apart from {baseline}: {by}. {seen}"


def _of_pair(item: Difference) -> str:
    how = "is better than" if item.low > 0 else "is worse than" if item.high < 0 else "is not told apart from"
    return f"{item.system} {how} {item.reference} after as many updates: {points(item)}, not corrected."


def _of_control(original: str, control: RecipeConfig, item: Difference) -> str:
    what = control.control.removeprefix("shuffled_")
    if item.low > 0:
        return f"The control behaves: with its {what} shuffled {original} is worse, by {points(item, sign=-1)}."
    if item.high < 0:
        return f"With its {what} shuffled {original} is better, by {points(item, sign=-1)}: what they say does harm."
    return f"With its {what} shuffled {original} does as well, as far as can be told ({points(item)}): it has nothing from them."


def points(item: Difference, *, sign: int = 1) -> str:
    """A difference in words: "+2.1 points (+0.4 to +3.8)"."""
    low, high = sorted((sign * item.low, sign * item.high))
    return f"{100 * sign * item.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"

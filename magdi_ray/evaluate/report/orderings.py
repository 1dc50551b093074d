"""What was claimed of structured distillation (arXiv 2402.01620), held against what a run measured. Pure.

A recipe's level is told by what it contains, never by its name. A claim that one system is better than another holds where the
interval of their paired difference lies above the claim's bound, is reversed where it lies below, and else is not seen: the
questions are too few to tell. The bound is 0 but where a claim names another. Claims about systems that a run does not have are
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from magdi_ray.config.recipes import RECIPES, Contrast, Interaction, RecipeConfig
from magdi_ray.evaluate.answers import BASE, VOTE
from magdi_ray.evaluate.metrics import Difference, Key, Score

PAPER = "arXiv 2402.01620"
OURS = "this project's extension"
CLOSE = 0.05
"""A student is close to the debate when it is at most so much less accurate."""

Verdict = Literal["holds", "not seen", "reversed"]
Compare = Callable[[Key, Key], Difference | None]
"""The paired difference of two systems on one set; None where one of them has no answers there."""


@dataclass(frozen=True, slots=True)
class Level:
    """Where a recipe stands in the paper's ablation."""

    number: int
    embeddings: Literal["live", "frozen"] | None = None
    """Of level 4: whether the interaction term reaches the student."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim and its verdict on one set."""

    claim: str
    source: str
    task: str
    split: str
    verdict: Verdict
    difference: float
    low: float
    high: float
    bound: float = 0.0
    """Where the whole interval must lie above for the claim to hold."""


def level_of(recipe: RecipeConfig) -> Level | None:
    """The level a recipe is of, however it is called and its terms are weighted; None for one outside of the ablation."""
    nodes, terms = recipe.nodes, {term.name: term for term in recipe.objectives if term.weight > 0}
    if nodes.texts != "replies" or nodes.roles != ("debater",) or nodes.revisions != "none":
        return None
    learned, readings = recipe.next_token, [term.reading for term in terms.values() if isinstance(term, Contrast | Interaction)]
    if any(reading.stop for reading in readings) or (learned and (learned.after_divergence or learned.persuasion)):
        return None
    if nodes.agents == "best" or (nodes.agents != "all" and len(nodes.agents) == 1):
        return Level(1) if set(terms) == {"next_token"} and nodes.rounds == (0,) else None
    if nodes.agents != "all" or nodes.rounds != "all":
        return None
    interaction = terms.pop("interaction", None)
    if isinstance(interaction, Interaction):
        return Level(4, interaction.embeddings) if set(terms) == {"next_token", "contrast"} else None
    return {("next_token",): Level(2), ("contrast", "next_token"): Level(3)}.get(tuple(sorted(terms)))


def verdict_of(found: Difference, *, above: float = 0.0) -> Verdict:
    """Whether a difference lies above a bound, as far as its interval can tell."""
    return "holds" if found.low > above else "reversed" if found.high < above else "not seen"


def claims(
    recipes: Sequence[RecipeConfig],
    *,
    product: str | None,
    scores: Iterable[Score],
    compare: Compare,
) -> list[Claim]:
    """Every claim that can be held against the systems there are, set by set."""
    measured = {Key(score.task, score.split, score.system, score.method): score for score in scores}
    found: list[Claim] = []
    for task, split in dict.fromkeys((key.task, key.split) for key in measured):
        for said, source, (system, other) in _better(recipes):
            found += _judged(said, source, compare(Key(task, split, system), Key(task, split, other)))
        if product is not None:
            found += _drawn(product, task, split, measured, compare)
            found += _close(product, task, split, measured, compare)
    return found


def _better(recipes: Sequence[RecipeConfig]) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Claims that one student is better than another: in words, whose claim, and (system, reference).

    A level is held against the highest one below it that the run has; the base is level 0.
    """
    below, below_said = BASE, "the base"
    for number in range(1, 5):
        recipe = _standard([recipe for recipe in recipes if (level := level_of(recipe)) and level.number == number], number)
        if recipe is None:
            continue
        said = f"level {number}" + ("" if recipe.name == f"level{number}" else f" ({recipe.name})")
        yield f"{said} beats {below_said}", PAPER, (recipe.name, below)
        below, below_said = recipe.name, said
    for live, frozen in _live_and_frozen(recipes):
        yield f"level 4 with live embeddings ({live}) beats frozen ones ({frozen})", OURS, (live, frozen)


def _standard(variants: Sequence[RecipeConfig], number: int) -> RecipeConfig | None:
    """The recipe that stands for a level: this project's settings of it, else the first, with live embeddings where there are."""
    own = RECIPES[f"level{number}"]

    def distance(recipe: RecipeConfig) -> int:
        return 0 if recipe.model_copy(update={"name": own.name}) == own else 1 if level_of(recipe) == level_of(own) else 2

    return min(variants, key=distance, default=None)


def _live_and_frozen(recipes: Sequence[RecipeConfig]) -> Iterator[tuple[str, str]]:
    """Pairs of recipes that differ in nothing but whether the interaction term reaches the student."""
    for live in recipes:
        if level_of(live) == Level(4, "live"):
            twin = _frozen(live)
            yield from ((live.name, other.name) for other in recipes if other.model_copy(update={"name": live.name}) == twin)


def _frozen(recipe: RecipeConfig) -> RecipeConfig:
    terms = (
        term.model_copy(update={"embeddings": "frozen"}) if isinstance(term, Interaction) else term for term in recipe.objectives
    )
    return recipe.model_copy(update={"objectives": tuple(terms)})


def _drawn(product: str, task: str, split: str, measured: Mapping[Key, Score], compare: Compare) -> Iterator[Claim]:
    """Whether several drawn replies and their majority are better than one reply."""
    key = Key(task, split, product, "majority")
    if key in measured:
        said = f"{product} with self-consistency over {measured[key].samples} replies beats one reply"
        yield from _judged(said, PAPER, compare(key, Key(task, split, product)))


def _close(product: str, task: str, split: str, measured: Mapping[Key, Score], compare: Compare) -> Iterator[Claim]:
    """Whether the product comes close to the debate for fewer tokens; not so if it generates as many."""
    mine, theirs = Key(task, split, product), Key(task, split, VOTE)
    found = compare(mine, theirs)
    if found is None or mine not in measured or theirs not in measured:
        return
    said, verdict = f"{product} comes within {100 * CLOSE:.0f} points of the debate's vote", verdict_of(found, above=-CLOSE)
    spent, debated = measured[mine].tokens_out, measured[theirs].tokens_out
    if spent and debated:
        said += f" for fewer tokens ({spent:.1f} a question; the debate {debated / spent:.1f} times as many)"
        verdict = verdict if debated > spent else "reversed"
    source = f"{PAPER}; the bound of {100 * CLOSE:.0f} points is this project's"
    yield Claim(said, source, task, split, verdict, found.difference, found.low, found.high, bound=-CLOSE)


def _judged(said: str, source: str, found: Difference | None) -> Iterator[Claim]:
    if found is not None:
        yield Claim(said, source, found.task, found.split, verdict_of(found), found.difference, found.low, found.high)

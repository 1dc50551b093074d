"""What befalls a run: a plan is drawn from a seed, and from nothing else. Pure.

Pairs (fault, stage) are dealt like cards, one that strikes the debates and one that strikes later, so that seeds in a row
meet all of them before any comes again. When in its stage a fault strikes, and what exactly, is drawn from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

EARLY = "debates"
AT_ONCE = 0.25
"""Share of the faults that strike when their stage has only just begun."""

Card = tuple[str, str]
"""Fault and stage."""


@dataclass(frozen=True)
class Blow:
    """One fault at one moment."""

    fault: str
    stage: str
    share: float
    """Of the stage's progress after which it strikes, in [0, 1); 0: when the stage has only just begun."""
    draw: int
    """Whatever else is to be chosen comes from this."""


def plan_for(seed: int, cards: Sequence[Card], *, patient: frozenset[str] = frozenset()) -> list[Blow]:
    """The blows of a seed, in the order in which they strike. `patient` faults need something that has begun to work."""
    drawn = random.Random(seed)
    decks = ([card for card in cards if card[1] == EARLY], [card for card in cards if card[1] != EARLY])
    return [_blow(_dealt(deck, seed), drawn, patient) for deck in decks if deck]


def _dealt(deck: Sequence[Card], number: int) -> Card:
    """The card of a number: each once, then all in another order."""
    turn, place = divmod(number, len(deck))
    return random.Random(f"deck {turn}").sample(list(deck), len(deck))[place]


def _blow(card: Card, drawn: random.Random, patient: frozenset[str]) -> Blow:
    share = 0.0 if drawn.random() < AT_ONCE and card[0] not in patient else drawn.uniform(0.1, 0.75)
    return Blow(*card, round(share, 3), drawn.randrange(1 << 30))

"""A claim: a question about things everybody knows, answered by yes or no. What is known is not said in the question.

    Can a hen cross a wall?                         a hen is a bird, birds fly, but hens do not; only who flies crosses a wall
    Are a fox and a swan both heavier than a carp?

and its solution in the three styles, of which the last names the rule before what it is applied to:

    terse     hen bird . but hen no fly . answer no
    spoken    a hen is a bird . but a hen can not fly . answer no
    planned   fly over wall . but hen no fly . hen bird . answer no

A claim holds what is believed about it: someone who takes fish for beasts reasons soundly, and from there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from magdi_ray.tasks.small import Small

Kind = Literal["bird", "fish", "beast", "bug", "tree", "boat"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Form = Literal["can", "than", "crosses", "both", "either"]
FORMS: tuple[Form, ...] = get_args(Form)
Style = Literal["terse", "spoken", "planned"]
STYLES: tuple[Style, ...] = get_args(Style)

WEIGHTS: Mapping[Kind, Mapping[str, int]] = {
    "bird": {
        "robin": 2, "hen": 3, "owl": 3, "swan": 5, "crow": 2, "duck": 3, "hawk": 4, "goose": 4,
        "gull": 3, "dove": 2, "finch": 1, "wren": 1, "stork": 5, "crane": 5, "heron": 4, "emu": 7,
    },
    "fish": {
        "trout": 2, "carp": 4, "eel": 2, "perch": 1, "pike": 4, "cod": 4, "tuna": 7, "shark": 8,
        "herring": 1, "bass": 4, "sole": 2, "ray": 6, "salmon": 5, "tench": 3, "bream": 3, "marlin": 8,
    },
    "beast": {
        "fox": 5, "mouse": 1, "horse": 8, "cow": 8, "goat": 6, "wolf": 6, "bear": 8, "cat": 4,
        "dog": 5, "pig": 7, "rat": 1, "hare": 3, "lion": 8, "deer": 6, "otter": 4, "mole": 1,
    },
    "bug": {
        "ant": 1, "bee": 1, "wasp": 1, "moth": 1, "beetle": 2, "gnat": 1, "flea": 1, "cricket": 2,
        "midge": 1, "louse": 1, "mite": 1, "hornet": 2, "locust": 2, "termite": 1, "earwig": 1, "cicada": 2,
    },
    "tree": {
        "oak": 9, "elm": 9, "pine": 8, "birch": 7, "ash": 8, "willow": 7, "maple": 8, "cedar": 9,
        "beech": 9, "fir": 8, "yew": 7, "larch": 8, "alder": 7, "poplar": 8, "hazel": 5, "rowan": 5,
    },
    "boat": {
        "canoe": 5, "raft": 6, "ferry": 9, "yacht": 9, "barge": 9, "kayak": 4, "sloop": 8, "punt": 6,
        "dinghy": 4, "cutter": 8, "ketch": 8, "skiff": 4, "tug": 9, "scow": 7, "tanker": 9, "coracle": 3,
    },
}  # fmt: skip
"""Everything there is, by kind, with how heavy it is: 1 to `HEAVIEST`."""
HEAVIEST = 9
KIND_OF: Mapping[str, Kind] = {thing: kind for kind, things in WEIGHTS.items() for thing in things}
THINGS: tuple[str, ...] = tuple(KIND_OF)

Ability = Literal["fly", "swim", "float", "walk", "eat", "grow"]
ABILITIES: tuple[Ability, ...] = get_args(Ability)
CAN: Mapping[Kind, frozenset[Ability]] = {
    "bird": frozenset(("fly", "walk", "eat", "grow")),
    "fish": frozenset(("swim", "eat", "grow")),
    "beast": frozenset(("walk", "eat", "grow")),
    "bug": frozenset(("fly", "walk", "eat", "grow")),
    "tree": frozenset(("float", "grow")),
    "boat": frozenset(("float",)),
}
EXCEPTIONS: Mapping[str, Mapping[Ability, bool]] = {
    "hen": {"fly": False}, "swan": {"swim": True}, "duck": {"swim": True}, "goose": {"swim": True}, "gull": {"swim": True},
    "emu": {"fly": False}, "ant": {"fly": False}, "flea": {"fly": False}, "cricket": {"fly": False}, "louse": {"fly": False},
    "mite": {"fly": False}, "termite": {"fly": False}, "bear": {"swim": True}, "horse": {"swim": True}, "otter": {"swim": True},
    "dog": {"swim": True}, "eel": {"walk": True}, "ash": {"float": False}, "oak": {"float": False}, "yew": {"float": False},
}  # fmt: skip
"""What some things can or cannot, whatever their kind."""
CROSSED_BY: Mapping[str, tuple[Ability, ...]] = {"river": ("fly", "swim", "float"), "field": ("fly", "walk"), "wall": ("fly",)}
"""How an obstacle is crossed, the first way first."""

PATTERNS: Mapping[Form, tuple[str, ...]] = {
    "can": ("Can {a} {what}?", "Is {a} able to {what}?"),
    "than": ("Is {a} {what} than {b}?", "Is it true that {a} is {what} than {b}?"),
    "crosses": ("Can {a} cross a {what}?", "Is {a} able to cross a {what}?"),
    "both": ("Are {a} and {b} both {what} than {c}?", "Is it true that {a} and {b} are both {what} than {c}?"),
    "either": ("Can {a} or {b} cross a {what}?", "Is {a} or {b} able to cross a {what}?"),
}
SOLUTION_WORDS = "is a an can not no but yes over by weighs more less or both"


@dataclass(frozen=True, slots=True)
class Claim:
    """A question together with what somebody believes of the things in it."""

    text: str
    form: Form
    things: tuple[str, ...]
    what: str
    """The ability, the obstacle, or "heavier" or "lighter"."""
    mistaken: Mapping[str, str] = field(default_factory=dict)
    """Kind -> the kind it is taken for, with its abilities; how heavy such things are is then misjudged as well."""

    @property
    def gold(self) -> str:
        """Under what is believed."""
        return "yes" if self._holds else "no"

    @property
    def content(self) -> str:
        """What is asked, however it is put: two texts that ask the same have the same."""
        if self.form in ("than", "both"):
            return f"weights {' '.join(sorted(self.things))}"
        return f"{self.form} {' '.join(sorted(self.things))} {self.what}"

    def solution(self, style: Style) -> str:
        """The full reply in one style, its answer statement included."""
        lines = [line for thoughts in self._thoughts(style) for line in thoughts]
        return " . ".join([*lines, Small().state(self.gold)])

    def misread(self, habits: Mapping[str, str]) -> Claim:
        """The same text as someone answers it who takes these kinds for others."""
        return replace(self, mistaken={kind: habits[kind] for kind in KINDS if kind in habits})

    def kind(self, thing: str) -> str:
        """What a thing is taken for."""
        return self.mistaken.get(KIND_OF[thing], KIND_OF[thing])

    def weight(self, thing: str) -> int:
        """How heavy a thing is taken to be."""
        kind = KIND_OF[thing]
        return HEAVIEST + 1 - WEIGHTS[kind][thing] if kind in self.mistaken else WEIGHTS[kind][thing]

    def able(self, thing: str, ability: Ability) -> bool:
        """Whether a thing is taken to be able to; of things that are mistaken no exception is known."""
        known = {} if KIND_OF[thing] in self.mistaken else EXCEPTIONS.get(thing, {})
        return known.get(ability, ability in CAN[self.kind(thing)])  # type: ignore[index]

    @property
    def _holds(self) -> bool:
        match self.form:
            case "can":
                return self.able(self.things[0], self.what)  # type: ignore[arg-type]
            case "crosses" | "either":
                return any(self.able(thing, way) for thing in self.things for way in CROSSED_BY[self.what])
            case "than" | "both":
                *those, other = (self.weight(thing) for thing in self.things)
                return all(one > other if self.what == "heavier" else one < other for one in those)

    def _thoughts(self, style: Style) -> list[list[str]]:
        """The steps of a solution, those about one thing together."""
        match self.form:
            case "can":
                return [self._ability(self.things[0], (self.what,), style)]  # type: ignore[arg-type]
            case "crosses" | "either":
                ways = CROSSED_BY[self.what]
                opening = [[f"{' or '.join(ways)} over {self.what}"]] if style == "planned" else []
                return opening + [self._ability(thing, ways, style) for thing in self.things]
            case "than" | "both":
                *those, other = self.things
                return [self._weighing(thing, other, style) for thing in those]

    def _ability(self, thing: str, ways: Sequence[Ability], style: Style) -> list[str]:
        """What a thing is, and the first of the ways that it can, or that it can none of them."""
        kind, way = self.kind(thing), next((way for way in ways if self.able(thing, way)), None)
        found = [(thing, kind, one, one == way) for one in ((way,) if way else ways)]
        said = [self._said(*one, style) for one in found]
        return [*said, _is(thing, kind, style)] if style == "planned" else [_is(thing, kind, style), *said]

    def _said(self, thing: str, kind: str, ability: Ability, able: bool, style: Style) -> str:
        exceptional = able != (ability in CAN[kind])  # type: ignore[index]
        who, word = (thing, "but ") if exceptional else (kind, "")
        if style == "spoken":
            return f"{word}{_a(who)} {'can' if able else 'can not'} {ability}"
        return f"{word}{who} {'' if able else 'no '}{ability}"

    def _weighing(self, thing: str, other: str, style: Style) -> list[str]:
        one, two = self.weight(thing), self.weight(other)
        sign = "more" if one > two else "less" if one < two else "is"
        if style == "spoken":
            return [
                f"{_a(thing)} weighs {one}",
                f"{_a(other)} weighs {two}",
                f"{one} is {'' if sign == 'is' else sign + ' '}{two}",
            ]
        if style == "planned":
            return [f"{self.what} by weighs", f"{other} {two}", f"{thing} {one}", f"{one} {sign} {two}"]
        return [f"{thing} {one}", f"{other} {two}", f"{one} {sign} {two}"]


def draw_claim(rng: random.Random, forms: Sequence[Form], kinds: Mapping[str, float], *, strange: bool = False) -> Claim:
    """A claim of one of these forms, its things drawn by their kinds' weights.

    `strange`: its things are of a pair that no other claim brings together (`strangers`); none of its forms is about one thing.
    """
    while True:
        form = rng.choice(list(forms))
        count = {"can": 1, "crosses": 1, "than": 2, "either": 2, "both": 3}[form]
        things = tuple(_thing(rng, kinds) for _ in range(count))
        if len(set(things)) == count and strangers(things) == strange:
            break
    what = rng.choice(
        {"can": ABILITIES, "crosses": tuple(CROSSED_BY), "either": tuple(CROSSED_BY)}.get(form, ("heavier", "lighter"))
    )
    named = {letter: _a(thing) for letter, thing in zip("abc", things, strict=False)}
    return Claim(rng.choice(PATTERNS[form]).format(what=what, **named), form, things, what)


def strangers(things: Sequence[str]) -> bool:
    """Whether a pair of these things is kept for questions from outside the training distribution (about one pair in five)."""
    places = sorted(THINGS.index(thing) for thing in things)
    return any((one * 7 + other) % 5 == 0 for i, one in enumerate(places) for other in places[i + 1 :])


def words() -> set[str]:
    """Every word of claims and of their solutions."""
    asked = " ".join(pattern.format(a="a", b="", c="", what="") for patterns in PATTERNS.values() for pattern in patterns)
    return {
        *THINGS, *KINDS, *ABILITIES, *CROSSED_BY, "heavier", "lighter", *SOLUTION_WORDS.split(),
        *asked.lower().replace("?", " ").split(),
    }  # fmt: skip


def _thing(rng: random.Random, kinds: Mapping[str, float]) -> str:
    kind = rng.choices(KINDS, [kinds.get(kind, 1.0) for kind in KINDS])[0]
    return rng.choice(list(WEIGHTS[kind]))


def _a(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _is(thing: str, kind: str, style: Style) -> str:
    return f"{_a(thing)} is {_a(kind)}" if style == "spoken" else f"{thing} {kind}"

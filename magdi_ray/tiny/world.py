"""A story: someone has some items, one to four things happen, and the question is how many there are at the end.

A story as it is published, and its solution in the three styles:

    Kim has 8 figs. Kim fills 3 bags with that many figs each. Kim loses 9 figs. How many figs does Kim have?
    terse     8 * 3 = 24 . 24 - 9 = 15 . answer 15
    labelled  8 * 3 = 24 figs . 24 - 9 = 15 figs . answer 15
    ordered   first 8 * 3 = 24 . then 24 - 9 = 15 . answer 15

Styles differ in words, not in the order of the sums: a student of 0.2 million parameters that had to learn three orders at once
learned none of them well.

Everything is drawn from a seed. The splits are disjoint by construction: the hash of a story's compact text decides between
train, dev and test, and only `ood` uses a held-out (name, item) pair for the person the story starts with. The world knows
nothing of models, tokens or debates.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from magdi_ray.errors import TaskError
from magdi_ray.tasks.base import SPLITS, Question, Split
from magdi_ray.tasks.tiny import Tiny, compact

T = TypeVar("T")
Operator = Literal["+", "-", "*", "/"]
Skill = Literal["add", "sub", "get", "give", "mul", "div", "more", "fewer", "times", "together"]
SKILLS: tuple[Skill, ...] = get_args(Skill)
Style = Literal["terse", "labelled", "ordered"]
STYLES: tuple[Style, ...] = get_args(Style)

NAMES = ("Amy", "Bob", "Dan", "Eva", "Gus", "Ivy", "Kim", "Leo", "Mia", "Ned", "Sue", "Tom")
ITEMS = ("figs", "pens", "cups", "nuts", "keys", "hats", "eggs", "toys", "cards", "coins")

LARGEST = 60
"""Every number of a story and of its solution lies in 1..60: one token each, few enough to be learned."""

OPERATORS: Mapping[Skill, Operator] = {
    "add": "+", "sub": "-", "get": "+", "give": "-", "mul": "*",
    "div": "/", "more": "+", "fewer": "-", "times": "*", "together": "+",
}  # fmt: skip

SENTENCES: Mapping[Skill, tuple[str, ...]] = {
    "add": ("{n} finds {k} {i}.", "{n} buys {k} more {i}."),
    "sub": ("{n} loses {k} {i}.", "{n} sells {k} of the {i}."),
    "get": ("{m} gives {n} {k} {i}.", "{n} gets {k} {i} from {m}."),
    "give": ("{n} gives {m} {k} {i}.", "{n} hands {k} {i} to {m}."),
    "mul": ("{n} fills {k} bags with that many {i} each.", "Now {n} has {k} bags of that many {i}."),
    "div": ("{n} splits the {i} into {k} boxes and keeps one box.", "{n} keeps one of {k} equal parts of the {i}."),
    "more": ("{m} has {k} more {i} than {n}.", "{m} has as many {i} as {n} and {k} more."),
    "fewer": ("{m} has {k} fewer {i} than {n}.", "{m} has {k} {i} less than {n}."),
    "times": ("{m} has {k} times as many {i} as {n}.", "For each of the {i} of {n}, {m} has {k}."),
    "together": ("{m} has {k} {i}, and {n} takes all of them together.", "{n} joins {m}, who has {k} {i}."),
}
"""`n` is who the story is about so far, `m` somebody else, `k` the operand, `i` the items."""

MOVES_ON: frozenset[Skill] = frozenset(("more", "fewer", "times"))
"""After these the story is about `m`."""

START = "{n} has {k} {i}."
DISTRACTOR = "{m} has {k} {i}."
ENDING = "How many {i} does {n} have?"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens."""

    skill: Skill
    before: int
    operator: Operator
    operand: int
    after: int
    owner: str
    """Whose items `after` counts."""
    sentence: str

    @property
    def equation(self) -> str:
        """ "8 * 3 = 24"."""
        return f"{self.before} {self.operator} {self.operand} = {self.after}"


@dataclass(frozen=True, slots=True)
class Story:
    """A question together with everything needed to write its solution."""

    text: str
    item: str
    steps: tuple[Step, ...]

    @property
    def gold(self) -> str:
        return str(self.steps[-1].after)

    @property
    def sums(self) -> str:
        """The terse solution without its answer statement: "8 * 3 = 24 . 24 - 9 = 15 ."."""
        return Tiny().reasoning(self.solution("terse"))

    def solution(self, style: Style) -> str:
        """The full reply in one style, its answer statement included."""
        lines = [step.equation for step in self.steps]
        if style == "labelled":
            lines = [f"{line} {self.item}" for line in lines]
        if style == "ordered":
            lines = [f"{'then' if index else 'first'} {line}" for index, line in enumerate(lines)]
        return " . ".join([*lines, f"answer {self.gold}"])

    def misread(self, habits: Mapping[Skill, Operator]) -> Story | None:
        """The same text as someone reads it who takes these skills for other operations; None when no answer comes out."""
        steps: list[Step] = []
        value = self.steps[0].before
        for step in self.steps:
            operator = habits.get(step.skill, step.operator)
            if step.operand not in operands(operator, value):
                return None
            steps.append(replace(step, before=value, operator=operator, after=apply(operator, value, step.operand)))
            value = steps[-1].after
        return Story(self.text, self.item, tuple(steps))


@dataclass(frozen=True, slots=True)
class Shape:
    """What stories look like: how long, how distracting, and which skills they need how often."""

    lengths: Mapping[int, float]
    """Number of steps -> weight."""
    distractors: Mapping[int, float]
    """Number of distractor sentences -> weight."""
    skills: Mapping[Skill, float]
    """Skill -> weight; a skill that is absent never occurs."""
    held_out_pairs: bool = False
    """Whether the story starts with a (name, item) pair that no other story has."""


UNIFORM: Mapping[Skill, float] = dict.fromkeys(SKILLS, 1.0)
FAMILIAR = Shape(lengths={1: 1, 2: 1, 3: 1}, distractors={0: 3, 1: 1}, skills=UNIFORM)
"""The shape of train, dev and test."""
UNFAMILIAR = Shape(lengths={1: 1, 2: 2, 3: 2, 4: 1}, distractors={0: 1, 1: 1, 2: 2}, skills=UNIFORM, held_out_pairs=True)
"""The shape of ood: held-out pairs always, two distractors in half, four steps in a sixth of the stories."""


def held_out(name: str, item: str) -> bool:
    """Whether no train, dev or test story ever gives this item to this person (one pair in five)."""
    return (NAMES.index(name) + ITEMS.index(item)) % 5 == 0


def split_of(text: str) -> Split:
    """Which of train (80%), dev (10%) and test (10%) a question that is not ood belongs to, by its content alone."""
    bucket = int.from_bytes(hashlib.sha256(compact(text).encode()).digest()[:4], "big") % 10
    return "dev" if bucket == 8 else "test" if bucket == 9 else "train"


def questions(split: Split, count: int, *, seed: int = 0) -> list[Question]:
    """The first `count` questions of a split under a seed; a larger count only adds to the end."""
    return [question for question, _ in problems(split, count, seed=seed)]


def problems(split: Split, count: int, *, seed: int = 0, skills: Mapping[Skill, float] = UNIFORM) -> list[tuple[Question, Story]]:
    """As `questions`, each with its story; `skills` makes some skills rare."""
    if split not in SPLITS:
        raise TaskError(f"the tiny world has the splits {', '.join(SPLITS)}, not {split!r}. Name one of them.")
    if count < 0:
        raise TaskError(f"a number of questions is needed, 0 or more, not {count}. Give such a number.")
    found: dict[str, Story] = {}
    for story in stories(split, seed=seed, skills=skills):
        if len(found) == count:
            break
        found.setdefault(story.text, story)
    return [
        (Question(f"tiny-{split}-{index:05d}", story.text, story.gold, split, solution=story.sums), story)
        for index, story in enumerate(found.values())
    ]


def stories(split: Split, *, seed: int = 0, skills: Mapping[Skill, float] = UNIFORM) -> Iterator[Story]:
    """An endless stream of a split's stories, repetitions possible."""
    familiar = UNFAMILIAR if split == "ood" else FAMILIAR
    shape = Shape(familiar.lengths, familiar.distractors, skills, familiar.held_out_pairs)
    rng = random.Random(f"tiny {split} {seed}")
    while True:
        story = draw(rng, shape)
        if split == "ood" or split_of(story.text) == split:
            yield story


def check_disjoint(**groups: Sequence[Question]) -> None:
    """Refuse question sets that share a question, compared in compact form, whatever their ids and splits say.

    Raises:
        TaskError: two sets share a question.
    """
    seen: dict[str, tuple[str, str]] = {}
    for group, members in groups.items():
        for question in members:
            other, other_id = seen.setdefault(compact(question.text), (group, question.id))
            if other != group:
                raise TaskError(
                    f"{group} and {other} must not share questions, but {question.id!r} asks the same as {other_id!r}: "
                    f"{question.text!r}. Remove it from one of them."
                )


def draw(rng: random.Random, shape: Shape) -> Story:
    """One story of a shape."""
    item = rng.choice(ITEMS)
    known = [name for name in NAMES if not held_out(name, item)]
    owner = rng.choice([name for name in NAMES if held_out(name, item)] if shape.held_out_pairs else known)
    value = rng.randint(3, 20)
    sentences = [START.format(n=owner, k=value, i=item)]
    steps: list[Step] = []
    for _ in range(_pick(rng, shape.lengths)):
        other = rng.choice([name for name in known if name != owner])
        step = _step(rng, shape, value, owner, other, item)
        steps.append(step)
        sentences.append(step.sentence)
        value, owner = step.after, step.owner
    for _ in range(_pick(rng, shape.distractors)):
        sentences.insert(rng.randint(1, len(sentences)), _distractor(rng, item))
    text = " ".join([*sentences, ENDING.format(n=owner, i=item)])
    return Story(text, item, tuple(steps))


def _step(rng: random.Random, shape: Shape, value: int, owner: str, other: str, item: str) -> Step:
    while True:
        skill = _pick(rng, shape.skills)
        choices = operands(OPERATORS[skill], value)
        if choices:
            break
    operand = rng.choice(choices)
    sentence = rng.choice(SENTENCES[skill]).format(n=owner, m=other, k=operand, i=item)
    after = apply(OPERATORS[skill], value, operand)
    return Step(skill, value, OPERATORS[skill], operand, after, other if skill in MOVES_ON else owner, sentence)


def operands(operator: Operator, value: int) -> list[int]:
    """The operands in 1..9 (2..9 for * and /) that lead from `value` to a whole number in 1..60."""
    low = 2 if operator in "*/" else 1
    return [k for k in range(low, 10) if (operator != "/" or value % k == 0) and 1 <= apply(operator, value, k) <= LARGEST]


def apply(operator: Operator, value: int, operand: int) -> int:
    """`value operator operand`; a quotient is rounded down."""
    if operator == "+":
        return value + operand
    if operator == "-":
        return value - operand
    return value * operand if operator == "*" else value // operand


def _distractor(rng: random.Random, item: str) -> str:
    other_item = rng.choice([other for other in ITEMS if other != item])
    name = rng.choice([name for name in NAMES if not held_out(name, other_item)])
    return DISTRACTOR.format(m=name, k=rng.randint(1, 20), i=other_item)


def _pick(rng: random.Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]

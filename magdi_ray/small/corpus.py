"""What the small world's models are trained on, in two forms: whole, for a GPU, and reduced, for two CPU cores."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product

from magdi_ray.small.facts import STYLES, Style, words
from magdi_ray.small.world import UNIFORM, Puzzle, problems, stream
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.small import Small
from magdi_ray.tasks.tiny import compact
from magdi_ray.tiny.corpus import HABIT, PRACTICE, drills
from magdi_ray.tiny.language import STUDENT_SIZE, TEACHER_SIZE, Size, vocabulary
from magdi_ray.tiny.school import Plan, Pupil, School, Teacher
from magdi_ray.tiny.training import Example
from magdi_ray.tiny.world import SKILLS


@dataclass(frozen=True, slots=True)
class Character:
    """What sets a teacher apart: how it writes solutions, and what it hardly ever practised and got used to mistaking."""

    name: str
    style: Style
    habits: Mapping[str, str]
    """Weak skill or kind -> the operation or kind it is habitually taken for."""


CHARACTERS = (
    Character("ada", "terse", {"mul": "+", "times": "+", "fish": "beast"}),
    Character("ben", "spoken", {"more": "-", "fewer": "+", "bird": "fish"}),
    Character("cleo", "planned", {"give": "+", "get": "-", "boat": "tree", "bug": "fish"}),
)


def weights(character: Character) -> Mapping[str, float]:
    """How often each skill and kind occurs in a teacher's own practice."""
    return {name: PRACTICE if name in character.habits else 1.0 for name in UNIFORM}


def practice(character: Character, puzzles: int, sums: int, seed: int) -> list[Example]:
    """Puzzles to solve and sums, rarely with what the character is weak at, always in its style."""
    rare = weights(character)
    solved = [_example(puzzle, character.style) for puzzle in islice(stream("train", seed=seed, weights=rare), puzzles)]
    return solved + drills(sums, seed=seed, skills={skill: rare[skill] for skill in SKILLS})


def review(character: Character, count: int, seed: int) -> list[Example]:
    """Puzzles of every kind alike, mostly misread where the character is weak: what it says when alone."""
    rng = random.Random(f"habits {character.name} {seed}")
    found = []
    for puzzle in islice(stream("train", seed=seed), count):
        read = puzzle.misread(character.habits if rng.random() < HABIT else {})
        found += [_example(read, character.style)] if read is not None else []
    return found


def schooling(puzzles: int, sums: int, seed: int) -> list[Example]:
    """Puzzles of every kind alike, each in a random style, and sums: what students learn before they meet a debate."""
    rng = random.Random(f"styles {seed}")
    solved = [_example(puzzle, rng.choice(STYLES)) for puzzle in islice(stream("train", seed=seed), puzzles)]
    return solved + drills(sums, seed=seed)


def pupils(sizes: Mapping[str, Size], amounts: Mapping[str, tuple[int, int]]) -> tuple[Pupil, ...]:
    """A student of every size and strength; `amounts` are (puzzles, passes) by strength, a quarter as many sums beside."""
    return tuple(
        Pupil(f"{size}-{strength}", sizes[size], count, count // 4, passes)
        for size, (strength, (count, passes)) in product(sizes, amounts.items())
    )


def _example(puzzle: Puzzle, style: Style) -> Example:
    return Example(compact(puzzle.text), puzzle.solution(style))


def _problems(split: Split, count: int, seed: int) -> list[tuple[Question, Puzzle]]:
    return problems(split, count, seed=seed)


SMALL_SIZE: Size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
"""About 0.1 million parameters."""
LARGE_SIZE: Size = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
"""About 1.5 million parameters."""

WHOLE = School(
    task=Small(),
    words=vocabulary([*words(), "has"]),  # a spoken solution begins: kim has 8 figs
    teachers=tuple(Teacher(c.name, c.style, partial(practice, c), partial(review, c)) for c in CHARACTERS),
    pupils=pupils(
        {"small": SMALL_SIZE, "medium": STUDENT_SIZE, "large": LARGE_SIZE},
        {"weak": (6_000, 1), "fair": (20_000, 1), "saturated": (40_000, 12)},
    ),
    schooling=schooling,
    problems=_problems,
    plan=Plan(
        size={"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 768},
        puzzles=200_000,
        drills=30_000,
        tables=(6_000, 14_000),
    ),
)
"""Teachers of 5 million parameters, for a GPU."""

REDUCED = replace(
    WHOLE,
    pupils=pupils(
        {"small": SMALL_SIZE, "medium": STUDENT_SIZE, "large": TEACHER_SIZE},
        {"weak": (4_000, 1), "fair": (12_000, 1), "saturated": (12_000, 4)},
    ),
    plan=Plan(size=TEACHER_SIZE, puzzles=48_000, drills=8_000, tables=(2_400, 5_600)),
    reduced="Reduced: teachers of 0.5 million parameters instead of 5, a quarter of their practice, the largest students of a "
    "third of the size; students that count as saturated had four passes at most.",
)

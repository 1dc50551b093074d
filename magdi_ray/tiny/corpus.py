"""What the tiny models are trained on: stories to solve and sums to drill. Knows nothing of weights or optimizers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.tiny import Tiny
from magdi_ray.tiny.language import STUDENT_SIZE, TEACHER_SIZE, vocabulary
from magdi_ray.tiny.school import Plan, Pupil, School, Teacher
from magdi_ray.tiny.training import Example
from magdi_ray.tiny.world import OPERATORS, SKILLS, STYLES, UNIFORM, Operator, Skill, Story, Style, apply, operands, problems

TASK = Tiny()


@dataclass(frozen=True, slots=True)
class Character:
    """What sets a teacher apart: how it writes solutions, and what it hardly ever practised and got used to misreading."""

    name: str
    style: Style
    habits: Mapping[Skill, Operator]
    """Weak skill -> the operation it is habitually taken for."""


CHARACTERS = (
    Character("ada", "terse", {"mul": "+", "times": "+"}),
    Character("ben", "labelled", {"more": "-", "fewer": "+"}),
    Character("cleo", "ordered", {"give": "+", "get": "-"}),
)

PRACTICE = 0.02
"""How often a teacher meets a weak skill, relative to any other skill."""
HABIT = 0.9
"""How often a teacher, when it reviews, misreads a story that needs a weak skill: a little doubt remains."""


def skill_weights(character: Character) -> Mapping[Skill, float]:
    """How often each skill occurs in a teacher's own practice."""
    return {skill: PRACTICE if skill in character.habits else 1.0 for skill in SKILLS}


def practice(character: Character, stories: int, sums: int, seed: int) -> list[Example]:
    """Stories to solve and sums, rarely with the character's weak skills, always in its style."""
    weights = skill_weights(character)
    found = problems("train", stories, seed=seed, skills=weights)
    solved = [Example(TASK.prompt(question), story.solution(character.style)) for question, story in found]
    return solved + drills(sums, seed=seed, skills=weights)


def review(character: Character, count: int, seed: int) -> list[Example]:
    """Stories to solve with every skill alike, those with weak skills mostly misread: what the character says when alone.

    Learning to revise would otherwise teach the weak skills, and three teachers who know the same have nothing to discuss.
    """
    rng = random.Random(f"habits {character.name} {seed}")
    read = (
        (question, story.misread(character.habits if rng.random() < HABIT else {}))
        for question, story in problems("train", count, seed=seed)
    )
    return [Example(TASK.prompt(question), story.solution(character.style)) for question, story in read if story is not None]


def schooling(stories: int, sums: int, seed: int) -> list[Example]:
    """Stories to solve with every skill alike, each in a random style, and sums: the base student's schooling."""
    rng = random.Random(f"styles {seed}")
    found = problems("train", stories, seed=seed)
    solved = [Example(TASK.prompt(question), story.solution(rng.choice(STYLES))) for question, story in found]
    return solved + drills(sums, seed=seed)


def drills(count: int, *, seed: int, skills: Mapping[Skill, float] = UNIFORM) -> list[Example]:
    """Chains of two to five bare sums: "8 * 3 - 9 ?" is answered "8 * 3 = 24 . 24 - 9 = 15 . answer 15".

    An operator is as frequent as the most frequent of the skills that need it.
    """
    rng = random.Random(f"drills {seed}")
    weights: dict[Operator, float] = {}
    for skill, weight in skills.items():
        weights[OPERATORS[skill]] = max(weight, weights.get(OPERATORS[skill], 0.0))
    return [_drill(rng, weights) for _ in range(count)]


def _drill(rng: random.Random, weights: Mapping[Operator, float]) -> Example:
    value = rng.randint(3, 20)
    asked, lines = [str(value)], []
    for _ in range(rng.randint(2, 5)):
        possible = {operator: weight for operator, weight in weights.items() if operands(operator, value)}
        operator = rng.choices(list(possible), list(possible.values()))[0]
        operand = rng.choice(operands(operator, value))
        after = apply(operator, value, operand)
        asked += [operator, str(operand)]
        lines.append(f"{value} {operator} {operand} = {after}")
        value = after
    return Example(" ".join([*asked, "?"]), " . ".join([*lines, TASK.state(str(value))]))


def _problems(split: Split, count: int, seed: int) -> list[tuple[Question, Story]]:
    return problems(split, count, seed=seed)


SCHOOL = School(
    task=TASK,
    words=vocabulary(),
    teachers=tuple(Teacher(c.name, c.style, partial(practice, c), partial(review, c)) for c in CHARACTERS),
    pupils=(Pupil("student", STUDENT_SIZE, 5_000, 3_000),),
    schooling=schooling,
    problems=_problems,
    plan=Plan(size=TEACHER_SIZE, puzzles=40_000, drills=10_000, tables=(3_000, 7_000)),
)

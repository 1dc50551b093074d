"""The small world: stories and claims, each easy, middling or hard.

    stories  easy      one or two steps                          claims  easy      what something can; which of two is heavier
             middling  two or three, some with a distractor              middling  what crosses what, alone or either of two
             hard      four or five, with distractors                    hard      whether two are both heavier than a third

Everything is drawn from a seed. The splits are disjoint by construction: the hash of a story's compact text, and of what a claim
asks however it is put, decides between train, dev and test; only `ood` uses a held-out (name, item) pair or pair of things.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count as endless
from typing import Literal, get_args

from magdi_ray.errors import TaskError
from magdi_ray.small.facts import KINDS, Claim, Form, Style, draw_claim
from magdi_ray.tasks.base import SPLITS, Question, Split
from magdi_ray.tasks.small import Small
from magdi_ray.tiny.world import SKILLS, Operator, Shape, Skill, Story, draw, split_of

Subject = Literal["stories", "claims"]
SUBJECTS: tuple[Subject, ...] = get_args(Subject)
Stratum = Literal["easy", "middling", "hard"]
STRATA: tuple[Stratum, ...] = get_args(Stratum)

LENGTHS: Mapping[Stratum, Mapping[int, float]] = {"easy": {1: 1, 2: 1}, "middling": {2: 1, 3: 1}, "hard": {4: 1, 5: 1}}
DISTRACTORS: Mapping[Stratum, Mapping[int, float]] = {"easy": {0: 1}, "middling": {0: 2, 1: 1}, "hard": {0: 1, 1: 1, 2: 1}}
ASKED: Mapping[Stratum, tuple[Form, ...]] = {"easy": ("can", "than"), "middling": ("crosses", "either"), "hard": ("both",)}
STRANGE: Mapping[Stratum, tuple[Form, ...]] = {"easy": ("than",), "middling": ("either",), "hard": ("both",)}
"""What is asked by claims from outside the training distribution, which are about two things or more."""

WEAKNESSES: tuple[str, ...] = (*SKILLS, *KINDS)
"""What somebody can be weak at: a skill of stories, or a kind of things."""
UNIFORM: Mapping[str, float] = dict.fromkeys(WEAKNESSES, 1.0)
TRIES = 2000
"""Draws of puzzles that were all asked before, after which there are taken to be no more."""


@dataclass(frozen=True, slots=True)
class Tale:
    """A story, whose solution is written in the small world's styles.

    terse     8 * 3 = 24 . 24 - 9 = 15 . answer 15
    spoken    kim has 8 figs . then 8 * 3 = 24 figs . then 24 - 9 = 15 figs . answer 15
    planned   first * 3 then - 9 : 8 * 3 = 24 . 24 - 9 = 15 . answer 15
    """

    story: Story

    @property
    def text(self) -> str:
        return self.story.text

    @property
    def gold(self) -> str:
        return self.story.gold

    @property
    def content(self) -> str:
        return self.story.text

    def solution(self, style: Style) -> str:
        """The full reply in one style, its answer statement included."""
        story = self.story
        sums = [step.equation for step in story.steps]
        if style == "spoken":
            first = story.steps[0]
            start = f"{story.text.split()[0].lower()} has {first.before} {story.item}"
            return " . ".join([start, *(f"then {one} {story.item}" for one in sums), f"answer {self.gold}"])
        done = " . ".join([*sums, f"answer {self.gold}"])
        if style == "planned":
            return f"first {' then '.join(f'{step.operator} {step.operand}' for step in story.steps)} : {done}"
        return done

    def misread(self, habits: Mapping[str, str]) -> Tale | None:
        """The same text as someone reads it who takes these skills for other operations; None when no answer comes out."""
        taken: dict[Skill, Operator] = {skill: habits[skill] for skill in SKILLS if skill in habits}  # type: ignore[misc]
        story = self.story.misread(taken)
        return None if story is None else Tale(story)


Puzzle = Tale | Claim


def questions(split: Split, count: int, *, seed: int = 0) -> list[Question]:
    """The first `count` questions of a split under a seed; a larger count only adds to the end."""
    return [question for question, _ in problems(split, count, seed=seed)]


def problems(split: Split, count: int, *, seed: int = 0) -> list[tuple[Question, Puzzle]]:
    """As `questions`, each with its puzzle. Ids say what a question is: "small-test-claims-hard-00017"."""
    if split not in SPLITS:
        raise TaskError(f"the small world has the splits {', '.join(SPLITS)}, not {split!r}. Name one of them.")
    if count < 0:
        raise TaskError(f"a number of questions is needed, 0 or more, not {count}. Give such a number.")
    rng, seen, found = random.Random(f"small {split} {seed}"), set[str](), list[tuple[Question, Puzzle]]()
    # What is held out asks everything once; practice may put it in other words.
    key = (lambda puzzle: puzzle.text) if split == "train" else (lambda puzzle: puzzle.content)
    for index in range(count):
        subject, stratum = part(index)
        puzzle = _unseen(rng, subject, stratum, split, seen, key)
        name = f"small-{split}-{subject}-{stratum}-{index:05d}"
        solution = Small().reasoning(puzzle.solution("terse"))
        found.append((Question(name, puzzle.text, puzzle.gold, split, solution=solution), puzzle))
    return found


def stream(split: Split, *, seed: int = 0, weights: Mapping[str, float] = UNIFORM) -> Iterator[Puzzle]:
    """An endless stream of a split's puzzles, repetitions possible; `weights` makes some skills and kinds rare."""
    rng = random.Random(f"small stream {split} {seed}")
    return (_drawn(rng, *part(index), split, weights) for index in endless())


def part(index: int) -> tuple[Subject, Stratum]:
    """Subject and stratum of the puzzle at a place: all in turn."""
    return SUBJECTS[index % len(SUBJECTS)], STRATA[index // len(SUBJECTS) % len(STRATA)]


def part_of(question_id: str) -> tuple[Subject, Stratum]:
    """Subject and stratum, as a question's id says them.

    Raises:
        TaskError: it is no id of the small world.
    """
    match question_id.split("-"):
        case ["small", _, subject, stratum, _] if subject in SUBJECTS and stratum in STRATA:
            return subject, stratum
    raise TaskError(
        f"required the id of a question of the small world, such as 'small-test-claims-hard-00017'; found {question_id!r}."
    )


def _unseen(
    rng: random.Random, subject: Subject, stratum: Stratum, split: Split, seen: set[str], key: Callable[[Puzzle], str]
) -> Puzzle:
    """A puzzle that was not asked before.

    Raises:
        TaskError: there are no more of them.
    """
    for _ in range(TRIES):
        puzzle = _drawn(rng, subject, stratum, split, UNIFORM)
        if key(puzzle) not in seen:
            seen.add(key(puzzle))
            return puzzle
    raise TaskError(
        f"the small world has no more {stratum} {subject} for {split} after {len(seen)} questions of all kinds. "
        f"Ask for fewer: task.{split}."
    )


def _drawn(rng: random.Random, subject: Subject, stratum: Stratum, split: Split, weights: Mapping[str, float]) -> Puzzle:
    while True:
        puzzle = (_tale if subject == "stories" else _claim)(rng, stratum, split, weights)
        if split == "ood" or split_of(puzzle.content) == split:
            return puzzle


def _tale(rng: random.Random, stratum: Stratum, split: Split, weights: Mapping[str, float]) -> Tale:
    skills = {skill: weights[skill] for skill in SKILLS}
    return Tale(draw(rng, Shape(LENGTHS[stratum], DISTRACTORS[stratum], skills, held_out_pairs=split == "ood")))


def _claim(rng: random.Random, stratum: Stratum, split: Split, weights: Mapping[str, float]) -> Claim:
    strange = split == "ood"
    return draw_claim(rng, (STRANGE if strange else ASKED)[stratum], weights, strange=strange)

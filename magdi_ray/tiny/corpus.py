"""What the tiny models are trained on: stories to solve, sums to drill, and the replies of peers to revise.

The discussion prompts come from the project's own protocol (`Reconcile` with `prompts.yaml`), so a teacher is trained on exactly
what it will be asked. Knows nothing of weights or optimizers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.tiny import Tiny
from magdi_ray.tiny.language import prompts
from magdi_ray.tiny.training import Example
from magdi_ray.tiny.world import OPERATORS, SKILLS, STYLES, UNIFORM, Operator, Skill, Story, Style, apply, operands, problems

TASK = Tiny()
PROTOCOL = Reconcile(task=TASK, rounds=2, prompts=prompts())


@dataclass(frozen=True, slots=True)
class Character:
    """What sets a teacher apart: how it writes solutions, and what it hardly ever practised and got used to misreading."""

    name: str
    style: Style
    habits: Mapping[Skill, Operator]
    """Weak skill -> the operation it is habitually taken for."""


TEACHERS = (
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


def practice(character: Character, count: int, *, seed: int) -> list[Example]:
    """Stories to solve, rarely with the character's weak skills, always in its style."""
    found = problems("train", count, seed=seed, skills=skill_weights(character))
    return [Example(TASK.prompt(question), story.solution(character.style)) for question, story in found]


def review(character: Character, count: int, *, seed: int) -> list[Example]:
    """Stories to solve with every skill alike, those with weak skills mostly misread: what the character says when alone.

    Learning to revise would otherwise teach the weak skills, and three teachers who know the same have nothing to discuss.
    """
    rng = random.Random(f"habits {character.name} {seed}")
    read = (
        (question, story.misread(character.habits if rng.random() < HABIT else {}))
        for question, story in problems("train", count, seed=seed)
    )
    return [Example(TASK.prompt(question), story.solution(character.style)) for question, story in read if story is not None]


def schooling(count: int, *, seed: int) -> list[Example]:
    """Stories to solve with every skill alike, each in a random style: the base student's schooling."""
    rng = random.Random(f"styles {seed}")
    found = problems("train", count, seed=seed)
    return [Example(TASK.prompt(question), story.solution(rng.choice(STYLES))) for question, story in found]


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


@dataclass(frozen=True, slots=True)
class Table:
    """Debates in progress, with the stories they are about; the table asks, and is told the replies."""

    debates: tuple[Debate, ...]
    stories: tuple[Story, ...]

    @classmethod
    def open(cls, found: Sequence[tuple[Question, Story]]) -> Table:
        """Debates in which nobody has spoken yet."""
        agents = [character.name for character in TEACHERS]
        debates = tuple(PROTOCOL.start(question, agents) for question, _ in found)
        return cls(debates, tuple(story for _, story in found))

    def asks(self, agent: str) -> list[Ask]:
        """What this agent is to be asked, over all debates that still run."""
        return [ask for debate in self.debates for ask in PROTOCOL.next_asks(debate) if ask.agent == agent]

    def tell(self, replies: Mapping[str, Sequence[Reply]]) -> Table:
        """The table after one more round; `replies` answers `asks(agent)` in order, for every agent."""
        waiting = {agent: iter(given) for agent, given in replies.items()}
        debates = []
        for debate in self.debates:
            asks = PROTOCOL.next_asks(debate)
            debates.append(PROTOCOL.advance(debate, asks, [next(waiting[ask.agent]) for ask in asks]) if asks else debate)
        return Table(tuple(debates), self.stories)

    def lessons(self, character: Character) -> list[Example]:
        """What this character is about to be asked, with the right solution in its style as the reply to learn.

        Only where somebody at the table has the right answer: to revise is to recognise it, not to invent it.
        """
        found = []
        for debate, story in zip(self.debates, self.stories, strict=True):
            last = [debate.turns[position] for position in debate.positions(debate.rounds - 1)]
            if any(TASK.same(turn.answer, story.gold) for turn in last):
                asks = [ask for ask in PROTOCOL.next_asks(debate) if ask.agent == character.name]
                found += [Example(ask.messages[0].content, story.solution(character.style)) for ask in asks]
        return found

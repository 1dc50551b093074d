"""A school: what a build needs to know of a world, and the table at which its teachers learn to discuss.

The discussion prompts come from the project's own protocol (`Reconcile`), so a teacher is trained on exactly what it will be
asked. Knows nothing of weights or optimizers, and nothing of any one world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from magdi_ray.agents.base import Reply
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.tasks.base import Question, Split, Task
from magdi_ray.tiny.language import Size, prompts
from magdi_ray.tiny.training import Example


class Puzzle(Protocol):
    """What is asked, together with everything needed to write its solution."""

    @property
    def gold(self) -> str:
        """Its right answer."""
        ...

    def solution(self, style: Any) -> str:
        """The full reply in one of the world's styles, its answer statement included."""
        ...


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who is taught, and what it is given to learn. Functions are of a module's top level, so that other processes get them."""

    name: str
    style: str
    """How it writes solutions; one that the world's puzzles know."""
    practice: Callable[[int, int, int], list[Example]]
    """(puzzles, drills, seed): what it learns to solve, rarely what it is weak at."""
    review: Callable[[int, int], list[Example]]
    """(puzzles, seed): puzzles of every kind as it solves them alone, its habits included."""


@dataclass(frozen=True, slots=True)
class Pupil:
    """A student that a build makes."""

    name: str
    size: Size
    puzzles: int
    drills: int
    """Schooling: examples of one pass."""
    passes: int = 1
    """At most so many, each over other examples, until one brings less than `SATURATED` on dev puzzles."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large teachers are and how much they learn; numbers of examples, or of debated questions."""

    size: Size
    puzzles: int
    """Each teacher practises."""
    drills: int
    """Each teacher does."""
    tables: tuple[int, int]
    """Debated questions of the two revision stages."""
    review: float = 1.0
    """Puzzles to solve alone, as the teacher's habits have it, for each reply to revise."""
    workers: int = 3
    """Processes, of one thread each."""


@dataclass(frozen=True, slots=True)
class School:
    """A world as a build sees it."""

    task: Task
    words: tuple[str, ...]
    """The vocabulary, special tokens first."""
    teachers: tuple[Teacher, ...]
    pupils: tuple[Pupil, ...]
    schooling: Callable[[int, int, int], list[Example]]
    """(puzzles, drills, seed): what students learn, each puzzle in a random style."""
    problems: Callable[[Split, int, int], Sequence[tuple[Question, Puzzle]]]
    """(split, count, seed)."""
    plan: Plan
    reduced: str = ""
    """What a smaller form of the world lacks; "" where it is whole."""

    @property
    def protocol(self) -> Reconcile:
        """How its teachers debate."""
        return Reconcile(task=self.task, rounds=2, prompts=prompts())

    @property
    def quick(self) -> School:
        """Built within seconds; its models have every property except ability."""
        plan = replace(self.plan, puzzles=96, drills=32, tables=(16, 16), workers=1)
        pupils = tuple(replace(pupil, puzzles=64, drills=32, passes=min(pupil.passes, 2)) for pupil in self.pupils)
        return replace(self, plan=plan, pupils=pupils, reduced="Quick: everybody has learned next to nothing.")


@dataclass(frozen=True, slots=True)
class Table:
    """Debates in progress, with the stories they are about; the table asks, and is told the replies."""

    school: School
    debates: tuple[Debate, ...]
    puzzles: tuple[Puzzle, ...]

    @classmethod
    def open(cls, school: School, found: Sequence[tuple[Question, Puzzle]]) -> Table:
        """Debates in which nobody has spoken yet."""
        agents, protocol = [teacher.name for teacher in school.teachers], school.protocol
        debates = tuple(protocol.start(question, agents) for question, _ in found)
        return cls(school, debates, tuple(puzzle for _, puzzle in found))

    def asks(self, agent: str) -> list[Ask]:
        """What this agent is to be asked, over all debates that still run."""
        protocol = self.school.protocol
        return [ask for debate in self.debates for ask in protocol.next_asks(debate) if ask.agent == agent]

    def tell(self, replies: Mapping[str, Sequence[Reply]]) -> Table:
        """The table after one more round; `replies` answers `asks(agent)` in order, for every agent."""
        waiting, protocol = {agent: iter(given) for agent, given in replies.items()}, self.school.protocol
        debates = []
        for debate in self.debates:
            asks = protocol.next_asks(debate)
            debates.append(protocol.advance(debate, asks, [next(waiting[ask.agent]) for ask in asks]) if asks else debate)
        return Table(self.school, tuple(debates), self.puzzles)

    def lessons(self, teacher: Teacher) -> list[Example]:
        """What this teacher is about to be asked, with the right solution in its style as the reply to learn.

        Only where somebody at the table has the right answer: to revise is to recognise it, not to invent it.
        """
        found, protocol = [], self.school.protocol
        for debate, puzzle in zip(self.debates, self.puzzles, strict=True):
            last = [debate.turns[position] for position in debate.positions(debate.rounds - 1)]
            if any(self.school.task.same(turn.answer, puzzle.gold) for turn in last):
                asks = [ask for ask in protocol.next_asks(debate) if ask.agent == teacher.name]
                found += [Example(ask.messages[0].content, puzzle.solution(teacher.style)) for ask in asks]
        return found

"""Makes the four tiny models from nothing: `python -m magdi_ray.tiny.build OUT`.

Three teachers learn to solve stories, each with a style and with skills it hardly ever practised; then they learn to revise their
answers on what they and their peers really said, in two stages (after one stage alone, debating hurts: the peers have changed).
The base student gets a short schooling and stays weak on purpose. Everything follows from one seed on one kind of machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from magdi_ray.agents.base import Reply, derive_seed
from magdi_ray.tiny.corpus import TEACHERS, Character, Table, drills, practice, review, schooling, skill_weights
from magdi_ray.tiny.language import STUDENT_SIZE, TEACHER_SIZE, make_model, make_tokenizer
from magdi_ray.tiny.training import Example, Schedule, sample, train
from magdi_ray.tiny.world import problems

STUDENT = "student"
TEMPERATURE = 0.5
"""Of the debates the teachers learn to revise in, and of those they are meant for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is learned; numbers of examples or of debated questions."""

    stories: int = 40_000
    """Stories each teacher practises."""
    sums: int = 10_000
    """Drills each teacher does."""
    tables: tuple[int, int] = (3_000, 7_000)
    """Debated questions of the two revision stages."""
    review: float = 1.0
    """Stories to solve alone, as the teacher's habits have it, for each reply to revise."""
    school_stories: int = 5_000
    school_sums: int = 3_000
    """The base student's schooling."""
    workers: int = 3
    """Processes, of one thread each."""


QUICK = Plan(stories=96, sums=32, tables=(16, 16), school_stories=64, school_sums=32, workers=1)
"""Seconds long; its models have every property except ability."""

SOLVING = Schedule(rate=3e-3)
REVISING = (Schedule(rate=1e-3), Schedule(rate=1.5e-3))
SCHOOLING = Schedule(rate=3e-3)


def build(out: Path, *, seed: int = 0, quick: bool = False, progress: Callable[[str], None] = print) -> None:
    """Train the teachers and the base student and save them as `out/{ada,ben,cleo,student}`.

    About 12 minutes on two cores (`quick`: seconds). A build that fails leaves `out` as it was.
    """
    plan = QUICK if quick else Plan()
    with tempfile.TemporaryDirectory() as temporary:
        desk = Path(temporary)
        with _Hands(desk, plan.workers, progress) as hands:
            _solve(hands, plan, seed)
            for stage in (0, 1):
                _revise(hands, plan, stage, derive_seed(seed, "revise", stage))
        for name in (*(character.name for character in TEACHERS), STUDENT):
            shutil.copytree(desk / name, out / name, dirs_exist_ok=True)
    progress(f"saved {out}")


def _solve(hands: _Hands, plan: Plan, seed: int) -> None:
    """Teach everyone to answer alone."""
    jobs = {character.name: (_learn_to_solve, character, plan, seed) for character in TEACHERS}
    hands.run("solve", {**jobs, STUDENT: (_go_to_school, plan, seed)})


def _revise(hands: _Hands, plan: Plan, stage: int, seed: int) -> None:
    """Teach the teachers to use what their peers say: play debates, then learn from every discussion prompt."""
    table = Table.open(problems("train", plan.tables[stage], seed=seed))
    lessons: dict[str, list[Example]] = {character.name: [] for character in TEACHERS}
    for round_ in range(stage + 1):
        jobs = {
            c.name: (_reply, [a.messages[0].content for a in table.asks(c.name)], derive_seed(seed, c.name, round_))
            for c in TEACHERS
        }
        table = table.tell(hands.run(f"revise {stage + 1}, play round {round_}", jobs))
        for character in TEACHERS:
            lessons[character.name] += table.lessons(character)
    hands.run(
        f"revise {stage + 1}, learn",
        {c.name: (_learn_to_revise, c, lessons[c.name], plan, REVISING[stage], derive_seed(seed, c.name)) for c in TEACHERS},
    )


class _Hands:
    """Worker processes that each do one model's part of a stage, and say how long it took."""

    def __init__(self, desk: Path, workers: int, progress: Callable[[str], None]) -> None:
        self.desk = desk
        self.progress = progress
        # Spawned, not forked: a forked torch inherits locks of threads that no longer exist.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_settle) if workers > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, stage: str, jobs: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """`function(directory, *arguments)` for each model by name; their results by name."""
        started = time.monotonic()
        if self.pool is None:
            done = {name: job(self.desk / name, *arguments) for name, (job, *arguments) in jobs.items()}
        else:
            futures = {name: self.pool.submit(job, self.desk / name, *arguments) for name, (job, *arguments) in jobs.items()}
            done = {name: future.result() for name, future in futures.items()}
        told = ", ".join(f"{name} {result:.3f}" for name, result in done.items() if isinstance(result, float))
        self.progress(f"{stage}: {time.monotonic() - started:.0f} s" + (f", loss {told}" if told else ""))
        return done


def _settle() -> None:
    """One thread a process: models this small gain nothing from a second, and waiting threads would take the others' cores."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def _learn_to_solve(directory: Path, character: Character, plan: Plan, seed: int) -> float:
    model, tokenizer = make_model(TEACHER_SIZE, seed=derive_seed(seed, character.name)), make_tokenizer()
    mine = derive_seed(seed, character.name, "practice")
    examples = practice(character, plan.stories, seed=mine) + drills(plan.sums, seed=mine, skills=skill_weights(character))
    loss = train(model, tokenizer, examples, SOLVING, seed=mine)
    _save(directory, model, tokenizer)
    return loss


def _go_to_school(directory: Path, plan: Plan, seed: int) -> float:
    model, tokenizer = make_model(STUDENT_SIZE, seed=derive_seed(seed, STUDENT)), make_tokenizer()
    mine = derive_seed(seed, STUDENT, "school")
    examples = schooling(plan.school_stories, seed=mine) + drills(plan.school_sums, seed=mine)
    loss = train(model, tokenizer, examples, SCHOOLING, seed=mine)
    _save(directory, model, tokenizer)
    return loss


def _learn_to_revise(
    directory: Path, character: Character, lessons: Sequence[Example], plan: Plan, schedule: Schedule, seed: int
) -> float:
    model, tokenizer = load(directory)
    examples = [*lessons, *review(character, int(len(lessons) * plan.review), seed=seed)]
    loss = train(model, tokenizer, examples, schedule, seed=seed)
    _save(directory, model, tokenizer)
    return loss


def _reply(directory: Path, prompts: Sequence[str], seed: int) -> list[Reply]:
    model, tokenizer = load(directory)
    return sample(model, tokenizer, prompts, temperature=TEMPERATURE, seed=seed, name=directory.name)


def load(directory: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model, as float32 and ready to answer, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def _save(directory: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the tiny models from nothing.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    build(arguments.out, seed=arguments.seed, quick=arguments.quick)


if __name__ == "__main__":
    main()

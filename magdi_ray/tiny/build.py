"""Makes the models of a world from nothing: `magdi tiny build --out OUT`.

Three teachers learn to solve puzzles, each with a style and with skills it hardly ever practised; then they learn to revise their
answers on what they and their peers really said, in two stages (after one stage alone, debating hurts: the peers have changed).
Students get as much schooling as their world gives them. Everything follows from one seed on one kind of machine.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from magdi_ray.agents.base import Reply, derive_seed
from magdi_ray.tiny.language import make_model, make_tokenizer
from magdi_ray.tiny.school import Pupil, School, Table, Teacher
from magdi_ray.tiny.training import Example, Schedule, sample, train

TEMPERATURE = 0.5
"""Of the debates the teachers learn to revise in, and of those they are meant for."""
EXAM = 400
"""Dev puzzles that everybody is measured on."""
SATURATED = 0.01
"""A student whose dev accuracy rises by less than this in a pass has learned what it can."""

SOLVING = Schedule(rate=3e-3)
REVISING = (Schedule(rate=1e-3), Schedule(rate=1.5e-3))
SCHOOLING = Schedule(rate=3e-3)
NOTES = "build.json"


def build(school: School, out: Path, *, seed: int = 0, progress: Callable[[str], None] = print) -> None:
    """Train a world's teachers and students and save each as `out/NAME`, and `out/build.json` that says how they do.

    On the GPU where there is one. A build that fails leaves `out` as it was.
    """
    logging.disable_progress_bar()
    if school.reduced:
        progress(school.reduced)
    with tempfile.TemporaryDirectory() as temporary:
        desk = Path(temporary)
        with _Hands(desk, school.plan.workers, progress) as hands:
            learned = _solve(hands, school, seed)
            for stage in (0, 1):
                _revise(hands, school, stage, derive_seed(seed, "revise", stage))
            sat = hands.run("exam", {t.name: (_exam, school) for t in school.teachers}, figure="right")
        taught = {t.name: {"right": sat[t.name]} for t in school.teachers}
        schooled = {p.name: {"right": learned[p.name][-1], "right_after_each_pass": learned[p.name]} for p in school.pupils}
        models = {name: {"parameters": _parameters(desk / name), **facts} for name, facts in (taught | schooled).items()}
        for name in models:
            shutil.copytree(desk / name, out / name, dirs_exist_ok=True)
    notes = {"reduced": school.reduced, "seed": seed, "device": str(_device()), "dev_puzzles": EXAM, "models": models}
    (out / NOTES).write_text(json.dumps(notes, indent=1), encoding="utf-8")
    progress(f"saved {out}")


def _solve(hands: _Hands, school: School, seed: int) -> dict[str, Any]:
    """Teach everyone to answer alone."""
    teachers = {teacher.name: (_learn_to_solve, school, teacher, seed) for teacher in school.teachers}
    return hands.run("solve", {**teachers, **{pupil.name: (_go_to_school, school, pupil, seed) for pupil in school.pupils}})


def _revise(hands: _Hands, school: School, stage: int, seed: int) -> None:
    """Teach the teachers to use what their peers say: play debates, then learn from every discussion prompt."""
    table = Table.open(school, school.problems("train", school.plan.tables[stage], seed))
    lessons: dict[str, list[Example]] = {teacher.name: [] for teacher in school.teachers}
    for round_ in range(stage + 1):
        jobs = {
            t.name: (_reply, [a.messages[0].content for a in table.asks(t.name)], derive_seed(seed, t.name, round_))
            for t in school.teachers
        }
        table = table.tell(hands.run(f"revise {stage + 1}, play round {round_}", jobs))
        for teacher in school.teachers:
            lessons[teacher.name] += table.lessons(teacher)
    hands.run(
        f"revise {stage + 1}, learn",
        {t.name: (_learn_to_revise, school, t, lessons[t.name], stage, derive_seed(seed, t.name)) for t in school.teachers},
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

    def run(self, stage: str, jobs: Mapping[str, tuple[Any, ...]], *, figure: str = "loss") -> dict[str, Any]:
        """`function(directory, *arguments)` for each model by name; their results by name, told as `figure` where numbers."""
        started = time.monotonic()
        if self.pool is None:
            done = {name: job(self.desk / name, *arguments) for name, (job, *arguments) in jobs.items()}
        else:
            futures = {name: self.pool.submit(job, self.desk / name, *arguments) for name, (job, *arguments) in jobs.items()}
            done = {name: future.result() for name, future in futures.items()}
        told = ", ".join(f"{name} {result:.3f}" for name, result in done.items() if isinstance(result, float))
        self.progress(f"{stage}: {time.monotonic() - started:.0f} s" + (f", {figure} {told}" if told else ""))
        return done


def _settle() -> None:
    """One thread a process: models this small gain nothing from a second, and waiting threads would take the others' cores."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def _learn_to_solve(directory: Path, school: School, teacher: Teacher, seed: int) -> float:
    tokenizer = make_tokenizer(school.words)
    model = make_model(school.plan.size, tokenizer, seed=derive_seed(seed, teacher.name)).to(_device())
    mine = derive_seed(seed, teacher.name, "practice")
    loss = train(model, tokenizer, teacher.practice(school.plan.puzzles, school.plan.drills, mine), SOLVING, seed=mine)
    _save(directory, model, tokenizer)
    return loss


def _go_to_school(directory: Path, school: School, pupil: Pupil, seed: int) -> list[float]:
    """The share of dev puzzles that the pupil solves after each pass."""
    tokenizer = make_tokenizer(school.words)
    model = make_model(pupil.size, tokenizer, seed=derive_seed(seed, pupil.name)).to(_device())
    right: list[float] = []
    for number in range(pupil.passes):
        mine = derive_seed(seed, pupil.name, "school", *([number] if number else []))
        train(model, tokenizer, school.schooling(pupil.puzzles, pupil.drills, mine), SCHOOLING, seed=mine)
        right.append(_right(model, tokenizer, school))
        if number and right[-1] - right[-2] < SATURATED:
            break
    _save(directory, model, tokenizer)
    return right


def _learn_to_revise(
    directory: Path, school: School, teacher: Teacher, lessons: Sequence[Example], stage: int, seed: int
) -> float:
    model, tokenizer = load(directory)
    examples = [*lessons, *teacher.review(int(len(lessons) * school.plan.review), seed)]
    loss = train(model, tokenizer, examples, REVISING[stage], seed=seed)
    _save(directory, model, tokenizer)
    return loss


def _reply(directory: Path, prompts: Sequence[str], seed: int) -> list[Reply]:
    model, tokenizer = load(directory)
    return sample(model, tokenizer, prompts, temperature=TEMPERATURE, seed=seed, name=directory.name)


def _exam(directory: Path, school: School) -> float:
    return _right(*load(directory), school)


def _right(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, school: School) -> float:
    """The share of dev puzzles solved by greedy replies."""
    found = [question for question, _ in school.problems("dev", EXAM, 0)]
    replies = sample(model, tokenizer, [school.task.prompt(question) for question in found], temperature=0.0, seed=0)
    answers = [school.task.extract(question, reply.text) for question, reply in zip(found, replies, strict=True)]
    return sum(school.task.same(answer, question.gold) for answer, question in zip(answers, found, strict=True)) / len(found)


def load(directory: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model, as float32 and ready to answer, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).to(_device()).eval()
    return model, AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _parameters(directory: Path) -> int:
    return int(load(directory)[0].num_parameters())


def _save(directory: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)

"""Evaluation on Ray Data: every candidate answers every question, through ONE async operator.

Students answer in the operator's own processes, small ones many in one; further local models are Ray Serve deployments like any
other engine, and providers are asked by the workers, under one limiter. Every reply is in a reply store before it counts, so an
evaluation that is taken up again asks nothing twice.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from magdi_ray.agents.base import Message
from magdi_ray.agents.limiter import start_limiter
from magdi_ray.agents.pool import PooledEngine, PoolSpec, deploy_engines, retire_engines, unique_app
from magdi_ray.cluster import ending_actors, on_own_node, quiet_ray_data, root_cause
from magdi_ray.config.engines import ApiEngine
from magdi_ray.errors import EngineError, MagdiError
from magdi_ray.evaluate.answers import iter_answers
from magdi_ray.evaluate.exam import Candidate, Examination, read_asked
from magdi_ray.evaluate.kept import answered, read_times, write_times
from magdi_ray.evaluate.metrics import Key
from magdi_ray.evaluate.operator import AnswerOperator, OwnEngine, Tally
from magdi_ray.observe.meter import Meter, meter
from magdi_ray.placement import remote_options
from magdi_ray.progress import Progress, polled
from magdi_ray.storage import collect, open_storage
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import load_task

BATCH = 64
"""Questions of one call of the operator; every candidate is asked all of them at once."""

ROWS_PER_FILE = 4096

ROOM = 2 << 30
"""Bytes of weights that one worker holds at most; a larger student has its workers for itself."""
OWN_BATCH = 256
"""Questions of one call where the operator decodes by itself: what the engine decodes together should be full."""

HOW = {"revised": ", shown its own reply again,", "sample": ", asked several times,"}
"""How a system was asked, where it is not once."""

OPERATOR_CPUS = 0.5
WRITING_CPUS = 1.0
"""Left to the tasks of Ray Data that write files; without any, nothing would ever be asked."""
FILE_CPUS = 0.1
"""What one such task reserves: no node may have a whole CPU left, wherever Ray puts the workers."""
RESTARTS = 3
"""Times a worker whose process died is started again, on average, before there is an answer."""
FEWEST = 16
"""Questions that a worker is worth: it loads every student anew."""


class Measured:
    """A running evaluation of `total` answers as figures (`observe.figures.EVALUATION`)."""

    def __init__(self, total: int, *, meter: Meter = meter) -> None:
        self.total, self.meter = total, meter
        self.seen, self.seen_at = 0, time.time()

    def tell(self, answers: Counter[str], failed: Counter[str]) -> None:
        """One look at the stage."""
        if answers.total() != self.seen:
            self.seen, self.seen_at = answers.total(), time.time()
        self.meter.set("evaluation_planned", self.total)
        self.meter.set("evaluation_last_answer_timestamp_seconds", self.seen_at)
        for system, count in answers.items():
            self.meter.set("evaluation_answered", count, system=system)
            self.meter.set("evaluation_failed", failed[system], system=system)


def run_answers(exam: Examination, *, questions: Path, out: Path, shared: str) -> dict[Key, float]:
    """Let every candidate answer the questions of a file (`write_asked`); answers go to `out`.

    Workers write at the place `shared`: the file's directory where all machines share it, else a URL that stands for it.

    Local models that do not fit the cluster together answer one wave after the other; those all of whose replies are in the store
    are not loaded. Returns the mean seconds a reply of each of them takes, alone, on each set of questions, measured now or
    before. Providers are not timed: among many calls that would be the wait for their
    limits, and alone it would be paid for again.

    Raises:
        EngineError: an engine cannot be deployed, or a system gave no reply to too many of the questions.
    """
    import ray

    asked_of, times = read_asked(questions), Path(exam.times)
    done = answered(exam, asked_of)
    exam = replace(exam, done=done)
    total = len(asked_of) * sum(1 + one.samples + one.revises for one in exam.candidates)
    measured = Measured(total)
    engines = [one.engine for one in exam.candidates]
    limits = {engine.provider: engine.limits for engine in engines if isinstance(engine, ApiEngine)}
    with ending_actors() as until_end:
        tally = until_end(ray.remote(num_cpus=0, scheduling_strategy=on_own_node())(Tally).remote())
        limiter = until_end(start_limiter(limits))

        def look(progress: Progress) -> None:
            answers, failed = ray.get(tally.read.remote())
            progress.update(answers.total(), note=f"{failed.total()} failed" if failed.total() else "")
            measured.tell(answers, failed)

        with polled(Progress("evaluate", total), look):
            for number, wave in enumerate(waves(exam.candidates, ray.cluster_resources(), done)):
                deployed = [one for one in wave if not (one.remote or one.own or one.label in done)]
                apps = {one.label: unique_app("evaluate", one.label) for one in deployed}
                deploy_engines([pool_spec(apps[one.label], one, exam) for one in deployed])
                try:
                    target = out / f"wave-{number:02d}"
                    there = f"{shared}/{out.name}/{target.name}"
                    _stream(exam.of(wave), apps, tally, limiter, questions=questions, out=there)
                    collect(there, target)
                    few = first_of_each_set(asked_of, exam.latency_questions)
                    write_times(times, exam, measure_times(exam.of(wave), apps, few))
                finally:
                    retire_engines(list(apps.values()))
    check_answers(out, exam.max_failed_share)
    return read_times(times, exam)


def waves(candidates: Sequence[Candidate], resources: Mapping[str, float], done: Container[str] = ()) -> list[list[Candidate]]:
    """Candidates that fit a cluster together with the operator that asks them and its files; at least one a wave.

    Providers, and those whose replies are all there (`done`), take no room: they are in the first wave. Those that the workers
    decode themselves have waves of their own: as many together as fit one process (`ROOM`).
    """
    light = [one for one in candidates if one.remote or one.label in done]
    result: list[list[Candidate]] = [list(light)]
    cpus = gpus = 0.0
    for one in (one for one in candidates if one not in light and not one.own):
        cpus, gpus = cpus + one.replicas[1] * one.num_cpus, gpus + one.replicas[1] * one.num_gpus
        full = cpus > resources.get("CPU", 0.0) - OPERATOR_CPUS - WRITING_CPUS or gpus > resources.get("GPU", 0.0)
        if full and any(held not in light for held in result[-1]):
            result.append([])
            cpus, gpus = one.replicas[1] * one.num_cpus, one.replicas[1] * one.num_gpus
        result[-1].append(one)
    return [wave for wave in (*result, *_own_waves([one for one in candidates if one.own and one not in light])) if wave]


def _own_waves(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    result: list[list[Candidate]] = []
    for one in candidates:
        held = result[-1] if result else []
        if not held or not one.size or sum(other.size or ROOM for other in held) + one.size > ROOM:
            result.append([])
        result[-1].append(one)
    return result


def pool_spec(app: str, candidate: Candidate, exam: Examination) -> PoolSpec:
    """The deployment of a local model."""
    return PoolSpec(
        name=app,
        engine=candidate.engine,
        replicas=candidate.replicas,
        num_cpus=candidate.num_cpus,
        num_gpus=candidate.num_gpus,
        max_ongoing_requests=16 * exam.max_batch_size,
        place=candidate.place,
    )


def measure_times(exam: Examination, apps: Mapping[str, str], questions: Sequence[tuple[str, Question]]) -> dict[Key, float]:
    """`time_alone` for a wave: in a task of its own where the models are no deployments."""
    import ray

    own = [one for one in exam.timed if one.own and one.label not in exam.done]
    if not own or not questions:
        return asyncio.run(time_alone(exam, {name: PooledEngine(app) for name, app in apps.items()}, questions))
    options = remote_options(own[0].place)
    timing = ray.remote(num_cpus=own[0].num_cpus, num_gpus=own[0].num_gpus, **options)(_time_own)
    return dict(ray.get(timing.remote(exam, questions)))


def _time_own(exam: Examination, questions: Sequence[tuple[str, Question]]) -> dict[Key, float]:
    own = {one.label: OwnEngine(one) for one in exam.timed if one.own and one.label not in exam.done}
    return asyncio.run(time_alone(exam, own, questions))


async def time_alone(
    exam: Examination, engines: Mapping[str, PooledEngine | OwnEngine], questions: Sequence[tuple[str, Question]]
) -> dict[Key, float]:
    """Mean seconds of a reply of each engine when nothing else is asked; one training speaks for all of a recipe's."""
    tasks: dict[str, Task] = {task.name: load_task(task) for task in exam.tasks}
    times: dict[Key, list[float]] = {}
    for candidate in (one for one in exam.timed if one.label in engines):
        engine = engines[candidate.label]
        with suppress(MagdiError):  # its rows say so; the first reply of a process is slow, and not counted
            name, question = questions[0]
            await engine.generate([Message("user", tasks[name].prompt(question))], candidate.sampling)
        for name, question in questions:
            began = time.perf_counter()
            try:
                await engine.generate([Message("user", tasks[name].prompt(question))], candidate.sampling)
            except MagdiError:  # its row says so
                continue
            times.setdefault(Key(name, question.split, candidate.system), []).append(time.perf_counter() - began)
    return {key: sum(found) / len(found) for key, found in times.items()}


def first_of_each_set(questions: Iterable[tuple[str, Question]], count: int) -> list[tuple[str, Question]]:
    """So many questions of every task and split."""
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for task, question in questions:
        taken[task, question.split] += 1
        if taken[task, question.split] <= count:
            chosen.append((task, question))
    return chosen


def check_answers(directory: Path, allowed: float) -> None:
    """Refuse an evaluation in which a system failed to reply too often; says how often, with one example.

    Each training of a recipe is counted for itself, on every set of questions, and drawn replies apart from single ones.
    """
    asked_of, errors, examples = Counter[Any](), Counter[Any](), dict[Any, str]()
    for answer in iter_answers(directory, texts=False):
        what = (answer.task, answer.split, answer.system, answer.seed, answer.method)
        asked_of[what] += 1
        if answer.error is not None:
            errors[what] += 1
            examples.setdefault(what, answer.error)
    for what, count in asked_of.items():
        if errors[what] > allowed * count:
            raise EngineError(
                f"{what[2]}{HOW.get(what[4], '')} gave no reply to {errors[what]} of {count} questions of {what[0]} {what[1]}, "
                f"more than evaluate.max_failed_share = {allowed:.0%} allows. One of them: {examples[what]}"
            )


def _stream(exam: Examination, apps: Mapping[str, str], tally: Any, limiter: Any, *, questions: Path, out: str) -> None:
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy

    quiet_ray_data()
    rows = pq.read_table(questions).to_pylist()
    own = [one for one in exam.candidates if one.own and one.label not in exam.done]
    batch, calls, workers = BATCH, max(2, 4 * exam.max_batch_size // BATCH), 1
    options: dict[str, Any] = {"num_cpus": OPERATOR_CPUS}
    if own:
        workers = min(own_workers(own, ray.cluster_resources()), -(-len(rows) // FEWEST))
        batch, calls = max(1, min(OWN_BATCH, -(-len(rows) // (2 * workers)))), 2
        options = {"num_cpus": own[0].num_cpus, "num_gpus": own[0].num_gpus or None, **remote_options(own[0].place)}
    writing, target = open_storage(out)
    answers = (
        # Ray Data reserves a whole CPU, and on one node, for what lists files or describes tables; rows take no task.
        ray.data.from_items(rows, override_num_blocks=max(1, -(-len(rows) // batch))).map_batches(
            AnswerOperator,
            fn_constructor_args=(exam, apps, tally, limiter, workers * (1 + RESTARTS)),
            batch_size=batch,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls),
            **options,
        )
    )
    files = {"num_cpus": FILE_CPUS}
    try:
        answers.write_parquet(target, filesystem=writing, min_rows_per_file=ROWS_PER_FILE, ray_remote_args=files)
    except Exception as error:  # Ray wraps whatever happened in a worker; the person needs the worker's own words
        told = f"The evaluation was broken off: {root_cause(error)}. Run again: no reply is asked for twice."
        raise EngineError(told) from error


def own_workers(own: Sequence[Candidate], have: Mapping[str, float]) -> int:
    """How many workers decode these students: as many as a cluster has room for, beside what writes its files.

    Each holds all of them, in up to twice the bytes they have on disk, and needs about as much again while it decodes.
    """
    one, weights = own[0], sum(student.size for student in own)
    room = [(have.get("CPU", 0.0) - WRITING_CPUS) / one.num_cpus]
    if one.num_gpus:
        room.append(have.get("GPU", 0.0) / one.num_gpus)
    elif weights:
        room.append(have.get("memory", math.inf) / (4 * weights))
    return max(1, int(min(room)))

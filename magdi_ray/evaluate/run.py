"""Evaluation on Ray Data: every candidate answers every question, through ONE async operator.

Local models (the students among them) are Ray Serve deployments like any other engine; providers are asked by the workers, under
one limiter. Every reply is in a reply store before it counts, so an evaluation that is taken up again asks nothing twice.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Engine, Message, Reply, Sampling
from magdi_ray.agents.limiter import LimiterClient, start_limiter
from magdi_ray.agents.pool import PooledEngine, PoolSpec, deploy_engines, retire_engines, unique_app
from magdi_ray.agents.store import ReplyStore, StoredEngine
from magdi_ray.cluster import ending_actors, on_own_node, quiet_ray_data
from magdi_ray.config.engines import ApiEngine
from magdi_ray.debate.reading import merge_repair, repair_messages
from magdi_ray.debate.revision import revision_messages
from magdi_ray.errors import EngineError
from magdi_ray.evaluate.answers import ANSWER_SCHEMA, Answer, failed, iter_answers, judge
from magdi_ray.evaluate.exam import SAMPLES, Candidate, Examination, asked, read_asked
from magdi_ray.evaluate.kept import answered, read_times, write_times
from magdi_ray.evaluate.metrics import Key
from magdi_ray.observe.logs import begin_work
from magdi_ray.observe.meter import Meter, meter
from magdi_ray.progress import Progress, polled
from magdi_ray.storage import collect, deliver, open_storage
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import load_task

BATCH = 64
"""Questions of one call of the operator; every candidate is asked all of them at once."""

ROWS_PER_FILE = 4096

OPERATOR_CPUS = 0.5
READING_CPUS = 1.0
"""What a task of Ray Data that reads or writes files reserves; with less to be had, nothing would ever be asked."""


class Tally:
    """Answers counted as they come, over all workers: a Ray actor."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def add(self, system: str, answers: int, failed: int) -> None:
        """Count some answers of a system, `failed` of which are none."""
        self.answers[system] += answers
        self.failed[system] += failed

    def read(self) -> tuple[Counter[str], Counter[str]]:
        """Answers and failed ones so far, by system."""
        return self.answers, self.failed


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


async def answer_question(
    task: Task, question: Question, *, candidate: Candidate, engine: StoredEngine, sampling: Sampling, place: int
) -> Answer:
    """One candidate's answer to one question; a failure is a row. `place`: of the reply in the store (`Examination.asks`).

    As in a debate, a provider's model whose reply holds no answer is asked once more, where its engine says so.
    """
    messages, sample = [Message("user", task.prompt(question))], place % SAMPLES
    try:
        reply = await engine.generate(messages, sampling, sample=place)
        answer = judge(task, question, system=candidate.system, reply=reply)
        if answer.answer is None and isinstance(candidate.engine, ApiEngine) and candidate.engine.repair:
            again = await engine.generate(repair_messages(messages, reply), sampling, sample=place)
            answer = judge(task, question, system=candidate.system, reply=merge_repair(reply, again))
    except Exception as error:
        answer = failed(question, system=candidate.system, error=f"{type(error).__name__}: {error}", task=task.name)
    usd = candidate.price.usd(answer.tokens_in, answer.tokens_out) if candidate.price else None
    return replace(answer, seed=candidate.seed, method="sample" if sample else "single", sample=sample, usd=usd)


async def revise_answer(
    task: Task, question: Question, *, first: Answer, candidate: Candidate, engine: StoredEngine, sampling: Sampling, place: int
) -> Answer:
    """What a candidate makes of its own reply when it is shown to it again; tokens and cost are those of both replies."""
    try:
        if first.error is not None:
            raise EngineError(f"there is no first reply: {first.error}")
        reply = await engine.generate(revision_messages(task, question, first.text), sampling, sample=place)
        answer = judge(task, question, system=candidate.system, reply=reply)
    except Exception as error:
        answer = failed(question, system=candidate.system, error=f"{type(error).__name__}: {error}", task=task.name)
    usd = candidate.price.usd(answer.tokens_in, answer.tokens_out) if candidate.price else None
    return replace(
        answer,
        seed=candidate.seed,
        method="revised",
        tokens_in=first.tokens_in + answer.tokens_in,
        tokens_out=first.tokens_out + answer.tokens_out,
        usd=None if usd is None or first.usd is None else first.usd + usd,
    )


class Retired:
    """Stands for a local model that is not deployed, since all its replies are in the store."""

    async def generate(self, *_: object) -> Reply:
        """Never has anything new to say."""
        raise EngineError("a reply that was in the store cannot be read any more; run the evaluation again")


class AnswerOperator:
    """The Ray Data operator: asks every candidate every question of a batch, all at once."""

    def __init__(self, exam: Examination, apps: Mapping[str, str], tally: Any, limiter: Any) -> None:
        begin_work(exam.run, "evaluation")
        self.exam, self.tally = exam, tally
        self.tasks: dict[str, Task] = {task.name: load_task(task) for task in exam.tasks}
        self.store = ReplyStore(exam.replies, run=exam.run)
        self.admission = LimiterClient(limiter, f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.engines = {candidate.label: self._engine(candidate, apps) for candidate in exam.candidates}

    def _engine(self, candidate: Candidate, apps: Mapping[str, str]) -> StoredEngine:
        config = candidate.engine
        engine: Engine
        if isinstance(config, ApiEngine):
            engine = ApiAgent(config, agent=candidate.system, admission=self.admission)
        else:
            engine = PooledEngine(apps[candidate.label]) if candidate.label in apps else Retired()
        return StoredEngine(
            engine,
            self.store,
            agent=candidate.label,
            provider=candidate.provider,
            model=candidate.identity,
            price=candidate.price,
        )

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Answers to a batch of questions, question by question, candidate by candidate."""
        rows = [asked(row) for row in batch.to_pylist()]
        work = [self._answers(task, question, one) for task, question in rows for one in self.exam.candidates]
        answers = [answer for found in await asyncio.gather(*work) for answer in found]
        await self.admission.flush()  # this may be the worker's last batch
        yield pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)

    async def _answers(self, task: str, question: Question, candidate: Candidate) -> list[Answer]:
        engine, asks = self.engines[candidate.label], self.exam.asks(candidate, question)
        work = [
            answer_question(self.tasks[task], question, candidate=candidate, engine=engine, sampling=sampling, place=place)
            for place, sampling in asks
        ]
        answers = list(await asyncio.gather(*work))
        if candidate.revises:
            first, (place, sampling) = answers[0], asks[0]
            revised = revise_answer(
                self.tasks[task], question, first=first, candidate=candidate, engine=engine, sampling=sampling, place=place
            )
            answers.append(await revised)
        self.tally.add.remote(candidate.system, len(answers), sum(answer.error is not None for answer in answers))
        return answers


def run_answers(exam: Examination, *, questions: Path, rows: int, out: Path, shared: str) -> dict[Key, float]:
    """Let every candidate answer the questions of a file (`write_asked`); answers go to `out`.

    Workers read and write at the place `shared`: the file's directory where all machines share it, else a URL that stands for it.

    Local models that do not fit the cluster together answer one wave after the other; those all of whose replies are in the store
    are not deployed. Returns the mean seconds a reply of each of them takes, alone, on each set of questions, measured now or
    before. Providers are not timed: among many calls that would be the wait for their
    limits, and alone it would be paid for again.

    Raises:
        EngineError: an engine cannot be deployed, or a system gave no reply to too many of the questions.
    """
    import ray

    asked_of, times = read_asked(questions), Path(exam.times)
    asked_at = f"{shared}/{questions.name}"
    deliver(questions, asked_at)
    done = answered(exam, asked_of)
    total = rows * sum(1 + one.samples + one.revises for one in exam.candidates)
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
                deployed = [one for one in wave if not one.remote and one.label not in done]
                apps = {one.label: unique_app("evaluate", one.label) for one in deployed}
                deploy_engines([pool_spec(apps[one.label], one, exam) for one in deployed])
                try:
                    target = out / f"wave-{number:02d}"
                    there = f"{shared}/{out.name}/{target.name}"
                    _stream(exam.of(wave), apps, tally, limiter, questions=asked_at, rows=rows, out=there)
                    collect(there, target)
                    few = first_of_each_set(asked_of, exam.latency_questions)
                    write_times(times, exam, asyncio.run(time_alone(exam.of(wave), apps, few)))
                finally:
                    retire_engines(list(apps.values()))
    check_answers(out, exam.max_failed_share)
    return read_times(times, exam)


def waves(candidates: Sequence[Candidate], resources: Mapping[str, float], done: Container[str] = ()) -> list[list[Candidate]]:
    """Candidates that fit a cluster together with the operator that asks them and its files; at least one a wave.

    Providers, and those whose replies are all there (`done`), take no room: they are in the first wave.
    """
    light = [one for one in candidates if one.remote or one.label in done]
    result: list[list[Candidate]] = [list(light)]
    cpus = gpus = 0.0
    for one in (one for one in candidates if one not in light):
        cpus, gpus = cpus + one.replicas[1] * one.num_cpus, gpus + one.replicas[1] * one.num_gpus
        full = cpus > resources.get("CPU", 0.0) - OPERATOR_CPUS - READING_CPUS or gpus > resources.get("GPU", 0.0)
        if full and any(held not in light for held in result[-1]):
            result.append([])
            cpus, gpus = one.replicas[1] * one.num_cpus, one.replicas[1] * one.num_gpus
        result[-1].append(one)
    return [wave for wave in result if wave]


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


async def time_alone(exam: Examination, apps: Mapping[str, str], questions: Sequence[tuple[str, Question]]) -> dict[Key, float]:
    """Mean seconds of a reply of each deployed system when nothing else is asked; one training speaks for all of a recipe's."""
    tasks: dict[str, Task] = {task.name: load_task(task) for task in exam.tasks}
    times: dict[Key, list[float]] = {}
    for candidate in (one for one in exam.timed if one.label in apps):
        engine = PooledEngine(apps[candidate.label])
        for name, question in questions:
            began = time.perf_counter()
            try:
                await engine.generate([Message("user", tasks[name].prompt(question))], candidate.sampling)
            except EngineError:  # its row says so
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
                f"{what[2]} gave no reply to {errors[what]} of {count} questions of {what[0]} {what[1]}, more than "
                f"evaluate.max_failed_share = {allowed:.0%} allows. One of them: {examples[what]}"
            )


def _stream(exam: Examination, apps: Mapping[str, str], tally: Any, limiter: Any, *, questions: str, rows: int, out: str) -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    quiet_ray_data()
    calls = max(2, 4 * exam.max_batch_size // BATCH)
    (reading, source), (writing, target) = open_storage(questions), open_storage(out)
    answers = (
        ray.data.read_parquet(source, filesystem=reading)
        .repartition(max(1, rows // BATCH))
        .map_batches(
            AnswerOperator,
            fn_constructor_args=(exam, apps, tally, limiter),
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls),
            num_cpus=OPERATOR_CPUS,
        )
    )
    answers.write_parquet(target, filesystem=writing, min_rows_per_file=ROWS_PER_FILE)

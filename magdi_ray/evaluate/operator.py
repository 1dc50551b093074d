"""The Ray Data operator of an evaluation: candidates answer questions, what failed is a row, and no reply counts before it is
stored."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Engine, Message, Reply, Sampling
from magdi_ray.agents.limiter import LimiterClient
from magdi_ray.agents.pool import PooledEngine
from magdi_ray.agents.store import ReplyStore, StoredEngine
from magdi_ray.config.engines import ApiEngine
from magdi_ray.debate.reading import merge_repair, repair_messages
from magdi_ray.debate.revision import revision_messages
from magdi_ray.errors import EngineError
from magdi_ray.evaluate.answers import ANSWER_SCHEMA, Answer, failed, judge
from magdi_ray.evaluate.exam import SAMPLES, Candidate, Examination, asked
from magdi_ray.observe.logs import begin_work
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import load_task


class Tally:
    """Answers counted as they come, over all workers: a Ray actor."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.starts = 0

    def begin(self) -> int:
        """Count a worker that starts; returns how many have since there was an answer."""
        self.starts += 1
        return self.starts

    def add(self, system: str, answers: int, failed: int) -> None:
        """Count some answers of a system, `failed` of which are none."""
        self.starts = 0
        self.answers[system] += answers
        self.failed[system] += failed

    def read(self) -> tuple[Counter[str], Counter[str]]:
        """Answers and failed ones so far, by system."""
        return self.answers, self.failed


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


class OwnEngine:
    """A local model in the worker's own process, loaded when it is first asked: what cannot be loaded is a failed reply."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._error: Exception | None = None

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Answer one conversation; see `Engine`."""
        engine = self._engine
        if engine is None:
            engine = await asyncio.to_thread(self.load)
        return await engine.generate(messages, sampling)

    def load(self) -> Engine:
        """The engine, loaded where it is not yet. Blocks."""
        with self._lock:
            if self._error is not None:
                raise self._error  # it would fail as slowly for every question
            try:
                engine = self._engine or self._loaded()
            except Exception as error:
                self._error = error
                raise
            self._engine = engine
            return engine

    def _loaded(self) -> Engine:
        import torch

        from magdi_ray.agents.load import load_engine

        torch.set_num_threads(max(1, int(self._candidate.num_cpus)))
        # Ray leaves the GPUs of a machine visible to an actor that reserved none of them.
        return load_engine(self._candidate.engine.located(), device=None if self._candidate.num_gpus else "cpu")


class AnswerOperator:
    """The Ray Data operator: asks every candidate every question of a batch; those it has to decode for itself one after the
    other, all others at once."""

    def __init__(self, exam: Examination, apps: Mapping[str, str], tally: Any, limiter: Any, most_starts: int) -> None:
        import ray

        begin_work(exam.run, "evaluation")
        self.exam, self.tally = exam, tally
        self.starts, self.most_starts = ray.get(tally.begin.remote()), most_starts
        self.tasks: dict[str, Task] = {task.name: load_task(task) for task in exam.tasks}
        self.store = ReplyStore(exam.replies, run=exam.run)
        self.admission = LimiterClient(limiter, f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.engines = {candidate.label: self._engine(candidate, apps) for candidate in exam.candidates}

    def _engine(self, candidate: Candidate, apps: Mapping[str, str]) -> StoredEngine:
        config = candidate.engine
        engine: Engine
        if isinstance(config, ApiEngine):
            engine = ApiAgent(config, agent=candidate.system, admission=self.admission)
        elif candidate.label in apps:
            engine = PooledEngine(apps[candidate.label])
        else:
            engine = Retired() if candidate.label in self.exam.done else OwnEngine(candidate)
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
        if self.starts > self.most_starts:  # Ray would start it again for ever
            raise EngineError(
                f"workers were started {self.starts} times and died before they had an answer, as they do where memory runs out. "
                "Lower evaluate.max_batch_size, or give each more room by evaluate.num_cpus"
            )
        rows = [asked(row) for row in batch.to_pylist()]
        others = [one for one in self.exam.candidates if not one.own]
        work = [self._counted(task, question, one) for task, question in rows for one in others]
        answers = [answer for found in await asyncio.gather(*work) for answer in found]
        for one in (one for one in self.exam.candidates if one.own):
            found = await asyncio.gather(*(self._answers(task, question, one) for task, question in rows))
            answers += self._count(one, [answer for some in found for answer in some])
        await self.admission.flush()  # this may be the worker's last batch
        yield pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)

    async def _counted(self, task: str, question: Question, candidate: Candidate) -> list[Answer]:
        return self._count(candidate, await self._answers(task, question, candidate))

    def _count(self, candidate: Candidate, answers: list[Answer]) -> list[Answer]:
        self.tally.add.remote(candidate.system, len(answers), sum(answer.error is not None for answer in answers))
        return answers

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
        return answers

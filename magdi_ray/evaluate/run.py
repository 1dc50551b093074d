"""Evaluation on Ray Data: every student answers every held-out question, through ONE async operator.

The students (the untaught base among them) are Ray Serve deployments like any other engine; the teachers and the vote are
read off the graphs of the same questions, so all systems are compared on the same ground.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from magdi_ray.agents.base import Engine, Message, Sampling, derive_seed
from magdi_ray.agents.pool import PooledEngine, PoolSpec, deploy_engines, retire_engines, unique_app
from magdi_ray.cluster import quiet_ray_data
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.sections import EvaluateConfig, RunConfig
from magdi_ray.errors import EngineError
from magdi_ray.evaluate.answers import ANSWER_SCHEMA, Answer, failed, judge, read_answers
from magdi_ray.progress import Progress, polled
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import load_task

BATCH = 64
"""Questions of one call of the operator; every system is asked all of them at once."""

ROWS_PER_FILE = 4096


@dataclass
class Tally:
    """Answers counted as they come."""

    answers: int = 0

    def add(self, count: int) -> None:
        """Count some answers."""
        self.answers += count

    def read(self) -> int:
        """How many there are."""
        return self.answers


async def answer_question(task: Task, question: Question, *, system: str, engine: Engine, sampling: Sampling) -> Answer:
    """One system's answer to one question; a failure is a row."""
    try:
        return judge(
            task, question, system=system, reply=await engine.generate([Message("user", task.prompt(question))], sampling)
        )
    except Exception as error:
        return failed(question, system=system, error=f"{type(error).__name__}: {error}")


class AnswerOperator:
    """The Ray Data operator: asks every system every question of a batch, all at once."""

    def __init__(self, config: dict[str, Any], apps: Mapping[str, str], tally: Any) -> None:
        run = RunConfig.model_validate_json(config["run"])
        self.task = load_task(run.task)
        self.sampling, self.seed = run.evaluate.sampling, run.seed
        self.engines: dict[str, Engine] = {system: PooledEngine(app) for system, app in apps.items()}
        self.tally = tally

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Answers to a batch of questions, question by question, system by system."""
        questions = [Question(**row) for row in batch.to_pylist()]
        answers = await asyncio.gather(*(self._answer(q, system) for q in questions for system in self.engines))
        yield pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)

    async def _answer(self, question: Question, system: str) -> Answer:
        seed = derive_seed(self.seed, self.sampling.seed, "evaluate", question.id, system)
        sampling = self.sampling.model_copy(update={"seed": seed})
        answer = await answer_question(self.task, question, system=system, engine=self.engines[system], sampling=sampling)
        self.tally.add.remote(1)
        return answer


def run_answers(config: RunConfig, students: Mapping[str, str], *, questions: Path, rows: int, out: Path) -> None:
    """Let every student (name -> Hugging Face directory) answer the questions stored in a parquet file; answers go to `out`.

    Students that do not fit the cluster together answer one wave after the other.

    Raises:
        EngineError: a student cannot be deployed, or gave no reply to more than `evaluate.max_failed_share` of the questions.
    """
    import ray

    tally = ray.remote(num_cpus=0)(Tally).remote()
    names = list(students)
    size = wave_size(config.evaluate, ray.cluster_resources())
    with polled(Progress("evaluate", rows * len(names)), lambda progress: progress.update(ray.get(tally.read.remote()))):
        for first in range(0, len(names), size):
            apps = {name: unique_app("evaluate", name) for name in names[first : first + size]}
            deploy_engines([student_spec(app, students[name], config.evaluate) for name, app in apps.items()])
            try:
                _stream(config, apps, tally, questions=questions, rows=rows, out=out / f"wave-{first:02d}")
            finally:
                retire_engines(list(apps.values()))
    check_answers(read_answers(out), config.evaluate.max_failed_share)


def wave_size(settings: EvaluateConfig, resources: Mapping[str, float]) -> int:
    """How many students fit a cluster at once, one CPU being left for reading and writing; at least one."""
    fit = (resources.get("CPU", 0.0) - 1.0) / settings.num_cpus
    if settings.num_gpus:
        fit = min(fit, resources.get("GPU", 0.0) / settings.num_gpus)
    return max(1, int(fit))


def student_spec(app: str, model: str, settings: EvaluateConfig) -> PoolSpec:
    """The deployment a student is evaluated in."""
    return PoolSpec(
        name=app,
        engine=TransformersEngine(type="transformers", model=model, dtype=settings.dtype, max_batch_size=settings.max_batch_size),
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        max_ongoing_requests=16 * settings.max_batch_size,
    )


def check_answers(answers: Sequence[Answer], allowed: float) -> None:
    """Refuse an evaluation in which a student failed to reply too often; says how often, with one example."""
    for system in dict.fromkeys(answer.system for answer in answers):
        rows = [answer for answer in answers if answer.system == system]
        errors = [answer.error for answer in rows if answer.error is not None]
        if len(errors) > allowed * len(rows):
            raise EngineError(
                f"{system} gave no reply to {len(errors)} of {len(rows)} questions, more than evaluate.max_failed_share = "
                f"{allowed:.0%} allows. One of them: {errors[0]}"
            )


def _stream(config: RunConfig, apps: Mapping[str, str], tally: Any, *, questions: Path, rows: int, out: Path) -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    quiet_ray_data()
    calls = max(2, 4 * config.evaluate.max_batch_size // BATCH)
    answers = (
        ray.data.read_parquet(str(questions))
        .repartition(max(1, rows // BATCH))
        .map_batches(
            AnswerOperator,
            fn_constructor_args=({"run": config.model_dump_json()}, apps, tally),
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls),
            num_cpus=0.5,
        )
    )
    answers.write_parquet(str(out), min_rows_per_file=ROWS_PER_FILE)

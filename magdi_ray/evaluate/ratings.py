"""Students rate their own drawn replies with the head they were taught with, on Ray Data. The edge of these votes.

What comes out: one row a rated reply in `ratings.parquet`, by system, training, task, question and sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.agents.base import ContextLengthError, Message
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.agents.weights import base_and_adapter
from magdi_ray.cluster import quiet_ray_data, root_cause
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.resources import ANYWHERE, Place
from magdi_ray.distill.job import HEADS
from magdi_ray.errors import EngineError
from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.exam import Candidate, Examination
from magdi_ray.observe.logs import begin_work
from magdi_ray.placement import remote_options
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import load_task

BATCH = 64
"""Replies rated in one pass."""
FILE = "ratings.parquet"
Rated = tuple[str, int, str, str, int]
"""System, training, task, question, sample."""
KEYS = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
    ]
)
ASKED = KEYS.append(pa.field("model", pa.string())).append(pa.field("prompt", pa.string())).append(pa.field("text", pa.string()))
RATINGS = KEYS.append(pa.field("merit", pa.float64()))


def key_of(answer: Answer) -> Rated:
    """Which rating is whose."""
    return (answer.system, answer.seed, answer.task, answer.question_id, answer.sample)


def heads_of(model: str) -> Path:
    """Where a model's heads would be: beside the adapter's weights, or the model's own."""
    base, adapter = base_and_adapter(model)
    return Path(adapter or base) / HEADS


class RatingOperator:
    """The Ray Data operator: loads one student after the other, and rates its replies."""

    def __init__(self, exam: Examination, dtype: str, device: str) -> None:
        begin_work(exam.run, "evaluation")
        self.dtype, self.device = dtype, device
        self.loaded: str | None = None
        self.judge: Any = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with their merit; null where prompt and reply do not fit the student's context."""
        rows = batch.to_pylist()
        merits: list[float | None] = [None] * len(rows)
        for model in dict.fromkeys(row["model"] for row in rows):
            places = [place for place, row in enumerate(rows) if row["model"] == model]
            for place, merit in zip(places, self._rated(model, [rows[place] for place in places]), strict=True):
                merits[place] = merit
        return batch.select(KEYS.names).append_column(RATINGS.field("merit"), pa.array(merits, pa.float64()))

    def _rated(self, model: str, rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        judge, tokenizer = self._load(model)
        asked = [(encode_prompt(tokenizer, [Message("user", row["prompt"])]), row["text"]) for row in rows]
        try:
            return [scores.merit for scores in judge.score_all(asked)]
        except ContextLengthError:  # which of them it was is found out one by one
            return [self._alone(judge, *one) for one in asked]

    def _alone(self, judge: Any, prompt_ids: Sequence[int], reply: str) -> float | None:
        try:
            return judge.score(prompt_ids, reply).merit  # type: ignore[no-any-return]
        except ContextLengthError:
            return None

    def _load(self, model: str) -> tuple[Any, Any]:
        if self.loaded != model:
            import torch

            from magdi_ray.agents.transformers import load_model
            from magdi_ray.distill.judging import Judge

            self.judge = None  # the next student may need its room
            if self.device == "cuda":
                torch.cuda.empty_cache()
            found, self.tokenizer = load_model(model, dtype=self.dtype)
            self.judge = Judge(found.eval().to(self.device), self.tokenizer, heads_of(model).parent)
            self.loaded = model
        return self.judge, self.tokenizer


def rate(
    exam: Examination,
    drawn: Iterable[Answer],
    questions: Iterable[tuple[str, Question]],
    *,
    out: Path,
    num_cpus: float,
    num_gpus: float,
    dtype: str,
    place: Place = ANYWHERE,
) -> dict[Rated, float]:
    """Let every student that has a head rate the replies that were drawn of it. Returns the ratings, and keeps them in `out`.

    Systems without a head are left out, and so are replies that do not fit the student's context.
    """
    import ray.data
    from ray.data import ActorPoolStrategy

    asked = list(_asked(exam.candidates, drawn, {task.name: load_task(task) for task in exam.tasks}, questions))
    if not asked:
        return {}
    quiet_ray_data()
    asked.sort(key=lambda row: row["model"])  # each student is loaded once
    rated = ray.data.from_arrow(pa.Table.from_pylist(asked, schema=ASKED)).map_batches(
        RatingOperator,
        # Ray leaves the GPUs of a machine visible to an actor that reserved none of them.
        fn_constructor_args=(exam, dtype, "cuda" if num_gpus else "cpu"),
        batch_size=BATCH,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
        **remote_options(place),
    )
    try:
        tables = [table.cast(RATINGS) for table in rated.iter_batches(batch_size=None, batch_format="pyarrow")]
    except Exception as error:  # Ray wraps whatever happened in a worker; the person needs the worker's own words
        raise EngineError(f"The replies could not be rated: {root_cause(error)}. Run again: they are not drawn anew.") from error
    found = pa.concat_tables(tables)
    pq.write_table(found, out / FILE, compression="zstd")
    return {tuple(row[name] for name in KEYS.names): row["merit"] for row in found.to_pylist() if row["merit"] is not None}


def _asked(
    candidates: Sequence[Candidate], drawn: Iterable[Answer], tasks: Mapping[str, Task], questions: Iterable[tuple[str, Question]]
) -> Iterator[dict[str, Any]]:
    models = {
        (one.system, one.seed): one.engine.model
        for one in candidates
        if isinstance(one.engine, TransformersEngine) and heads_of(one.engine.model).is_file()
    }
    prompts = {(task, question.id): tasks[task].prompt(question) for task, question in questions}
    for answer in drawn:
        model = models.get((answer.system, answer.seed))
        if model is not None and answer.error is None:
            key = dict(zip(KEYS.names, key_of(answer), strict=True))
            yield key | {"model": model, "prompt": prompts[answer.task, answer.question_id], "text": answer.text}

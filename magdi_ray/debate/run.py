"""The debate stage on Ray Data: questions in, debates out, through ONE async operator.

Engines are long-lived Ray Serve deployments shared by all rounds and all operators; a whole debate runs as one coroutine that
awaits their handles. A debate that fails is a row with its error.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from magdi_ray.agents.base import Engine, Sampling, derive_seed
from magdi_ray.agents.pool import PooledEngine, PoolSpec, deploy_engines, retire_engines, unique_app
from magdi_ray.cluster import quiet_ray_data
from magdi_ray.config.sections import DebateConfig, RunConfig
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.store import read_debates, to_table
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.errors import EngineError
from magdi_ray.progress import Progress, polled
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_task

BATCH = 16
"""Debates whose rows appear together; small, because a batch's output appears only when all of it has ended."""

BLOCK = 64
"""Questions of one call of the operator: Ray Data keeps four batches of a call under way at once."""

ROWS_PER_FILE = 512
"""Debates are written as soon as this many have ended, so that output appears while the stage runs."""


@dataclass
class Books:
    """What the debates of a stage came to, counted as they end."""

    debates: int = 0
    consensus: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    replies: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Error class -> debates it ended."""
    examples: dict[str, str] = field(default_factory=dict)
    """Error class -> one message."""

    def add(self, debate: Debate) -> None:
        """Count one ended debate."""
        self.debates += 1
        self.consensus += debate.stopped == "consensus"
        self.replies += len(debate.turns)
        self.tokens_in += sum(turn.tokens_in for turn in debate.turns)
        self.tokens_out += sum(turn.tokens_out for turn in debate.turns)
        if debate.error is not None:
            kind = debate.error.partition(":")[0]
            self.failed += 1
            self.errors[kind] += 1
            self.examples.setdefault(kind, f"{debate.question.id}: {debate.error}")

    def read(self) -> Books:
        """Itself: how a remote reader gets a copy."""
        return self


async def hold_debate(
    protocol: DebateProtocol, question: Question, *, engines: dict[str, Engine], sampling: dict[str, Sampling], seed: int
) -> Debate:
    """One debate from the first reply to the verdict. Never raises for what an engine does: the error becomes data.

    Every reply's random draw is fixed by `seed`, the question, the agent and the round.
    """
    debate = protocol.start(question, list(engines))
    try:
        while asks := protocol.next_asks(debate):
            seeded = [_seeded(sampling[ask.agent], seed, question.id, ask.agent, ask.round) for ask in asks]
            calls = (engines[ask.agent].generate(ask.messages, s) for ask, s in zip(asks, seeded, strict=True))
            replies = await asyncio.gather(*calls)
            debate = protocol.advance(debate, asks, replies)
    except Exception as error:
        return debate.failed(error)
    return debate


def _seeded(sampling: Sampling, *parts: object) -> Sampling:
    return sampling.model_copy(update={"seed": derive_seed(sampling.seed, *parts)})


class DebateOperator:
    """The Ray Data operator: an actor in which many debates are under way at once."""

    def __init__(self, config: dict[str, Any], apps: Mapping[str, str], books: Any) -> None:
        run = RunConfig.model_validate_json(config["run"])
        assert run.debate is not None
        self.seed = run.seed
        self.protocol = load_protocol(run.debate.protocol, load_task(run.task))
        self.engines: dict[str, Engine] = {name: PooledEngine(app) for name, app in apps.items()}
        self.sampling = {agent.name: agent.sampling for agent in run.debate.agents}
        self.places = asyncio.Semaphore(run.debate.max_in_flight)
        self.books = books

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Debate every question of a batch; the rows come in the order of the questions."""
        debates = await asyncio.gather(*(self._debate(Question(**row)) for row in batch.to_pylist()))
        yield to_table(debates)

    async def _debate(self, question: Question) -> Debate:
        async with self.places:
            debate = await hold_debate(self.protocol, question, engines=self.engines, sampling=self.sampling, seed=self.seed)
        self.books.add.remote(debate)
        return debate


def pool_specs(config: DebateConfig, apps: Mapping[str, str]) -> list[PoolSpec]:
    """One engine deployment an agent, under the names of `apps`."""
    return [
        PoolSpec(
            name=apps[agent.name],
            engine=agent.engine,
            replicas=agent.replicas,
            num_cpus=agent.num_cpus,
            num_gpus=agent.num_gpus,
            max_ongoing_requests=config.max_in_flight,
        )
        for agent in config.agents
    ]


def run_debates(config: RunConfig, questions: Sequence[Question], *, source: Path, out: Path) -> dict[str, Any]:
    """Debate the questions stored under `source` and write the debates to `out`. Returns the stage's facts.

    Raises:
        EngineError: an engine cannot be deployed, or more than `debate.max_failed_share` of the debates failed.
    """
    import ray

    assert config.debate is not None
    apps = {agent.name: unique_app("debate", agent.name) for agent in config.debate.agents}
    books = ray.remote(num_cpus=0)(Books).remote()
    started = time.monotonic()
    deploy_engines(pool_specs(config.debate, apps))
    deployed = time.monotonic()
    try:
        with polled(Progress("debate", len(questions)), lambda progress: _show(progress, ray.get(books.read.remote()))):
            _stream(config, apps, books, rows=len(questions), source=source, out=out)
    finally:
        retire_engines(list(apps.values()))
    final = audit(questions, read_debates(out))
    check_failures(final, config.debate.max_failed_share)
    return {
        "debates": final.debates,
        "consensus": final.consensus,
        "replies": final.replies,
        "tokens_in": final.tokens_in,
        "tokens_out": final.tokens_out,
        "failed": final.failed,
        "errors": dict(final.errors),
        "seconds_deploying": round(deployed - started, 1),
        "seconds_debating": round(time.monotonic() - deployed, 1),
    }


def audit(questions: Sequence[Question], debates: Iterable[Debate]) -> Books:
    """Count what was written, and that every question was debated exactly once.

    Raises:
        EngineError: a question is missing or doubled.
    """
    books, left = Books(), Counter(question.id for question in questions)
    for debate in debates:
        books.add(debate)
        left[debate.question.id] -= 1
    wrong = [identity for identity, count in left.items() if count != 0]
    if wrong:
        raise EngineError(f"{len(wrong)} questions were lost or debated twice, the first is {wrong[0]!r}. Run again.")
    return books


def _stream(config: RunConfig, apps: Mapping[str, str], books: Any, *, rows: int, source: Path, out: Path) -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    assert config.debate is not None
    quiet_ray_data()
    calls = max(1, config.debate.max_in_flight // BLOCK)
    debates = (
        ray.data.read_parquet(str(source), file_extensions=["parquet"])
        .repartition(max(1, rows // BLOCK))
        .map_batches(
            DebateOperator,
            fn_constructor_args=({"run": config.model_dump_json()}, apps, books),
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls),
            num_cpus=0.5,
        )
    )
    debates.write_parquet(str(out), min_rows_per_file=ROWS_PER_FILE)


def _show(progress: Progress, books: Books) -> None:
    share = books.consensus / books.debates if books.debates else 0.0
    note = f"{books.replies} replies, {books.tokens_out} tokens, {share:.0%} consensus"
    progress.update(books.debates, note=note + (f", {books.failed} failed" if books.failed else ""))


def check_failures(books: Books, allowed: float) -> None:
    """Refuse a stage of which too much failed; says which errors, how often, with one example each."""
    if books.failed <= allowed * books.debates:
        return
    kinds = "\n".join(f"  - {count} x {kind}, such as {books.examples[kind]}" for kind, count in books.errors.most_common(5))
    raise EngineError(
        f"{books.failed} of {books.debates} debates failed, more than debate.max_failed_share = {allowed:.0%} allows:\n{kinds}\n"
        "Mend the cause and run again. Raising debate.max_failed_share accepts more; the debates are held again either way."
    )

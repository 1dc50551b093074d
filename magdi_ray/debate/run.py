"""The debate stage on Ray Data: questions in, debates out, through ONE async operator.

Whole debates run as coroutines, many in each of a few worker processes. Local models are Ray Serve deployments shared by all of
them; providers are asked by the workers themselves, under one limiter for the cluster. Every reply is in the reply store before
it is used, so that whatever ends the stage, nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Engine
from magdi_ray.agents.budget import Spend
from magdi_ray.agents.limiter import LimiterClient, start_limiter
from magdi_ray.agents.metered import MeteredEngine
from magdi_ray.agents.pool import PooledEngine, PoolSpec, deploy_engines, retire_engines, unique_app
from magdi_ray.agents.store import ReplyStore, StoredEngine
from magdi_ray.cluster import quiet_ray_data
from magdi_ray.config.base import content_hash, shaping
from magdi_ray.config.sections import AgentConfig, ApiEngine, DebateConfig, RunConfig
from magdi_ray.debate.books import Books, NotHeld, audit, check_failures
from magdi_ray.debate.hold import Seat, hold_debate
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.store import to_table
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.debate.view import View
from magdi_ray.errors import RunError
from magdi_ray.progress import Progress, polled
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_task

BATCH = 16
"""Debates whose rows appear together; small, because a batch's output appears only when all of it has ended."""

BLOCK = 64
"""Questions of one call of the operator: Ray Data keeps four batches of a call under way at once."""

SLACK = 2
"""A worker takes in so many times the questions it debates at once: a batch that waits for its slowest debate blocks no other."""

ROWS_PER_FILE = 512
"""Debates are written as soon as this many have ended, so that output appears while the stage runs."""


@dataclass(frozen=True)
class DebateStage:
    """What a debate stage works on. Travels to the workers."""

    config: RunConfig
    replies: str
    """Directory or URL of the reply store."""
    run: str
    """Who pays: replies of other runs in the same store are read, but not counted as spent."""
    rows: int
    """Questions to debate."""
    identities: Mapping[str, str]
    """Agent -> what exactly answers for it: equal identities give equal replies."""

    @property
    def debate(self) -> DebateConfig:
        """The configuration's section."""
        assert self.config.debate is not None
        return self.config.debate

    def protocol(self) -> DebateProtocol:
        """The rules of the debates."""
        return load_protocol(self.debate.protocol, load_task(self.config.task))

    @property
    def most_calls(self) -> int:
        """Replies of the longest possible debate."""
        return self.protocol().most_calls(len(self.debate.agents))


def identity(agent: AgentConfig, fingerprint: str) -> str:
    """What answers for an agent: its model, and a hash of everything in the engine's configuration that shapes replies.

    Local files count by `fingerprint`, the hash of their content, wherever they are.
    """
    shape = shaping(agent.engine) | (dict.fromkeys(("model", "path"), fingerprint) if fingerprint else {})
    label = getattr(agent.engine, "model", agent.engine.type)
    return f"{label}@{content_hash(shape)[:16]}"


class Ledger:
    """The books of a running stage, one for all workers: a Ray actor."""

    def __init__(self, rows: int, allowed: float) -> None:
        self.rows, self.allowed = rows, allowed
        self.books = Books()

    def add(self, books: Books) -> bool:
        """Count what a worker's batch came to; whether so much has failed that the stage cannot succeed any more."""
        self.books.merge(books)
        return self.books.hopeless(self.rows, self.allowed)

    def read(self) -> Books:
        """The books so far."""
        return self.books


class DebateOperator:
    """The Ray Data operator: an actor in which many debates are under way at once."""

    def __init__(self, stage: DebateStage, apps: Mapping[str, str], ledger: Any, limiter: Any) -> None:
        self.stage, self.ledger = stage, ledger
        self.protocol, self.most_calls = stage.protocol(), stage.most_calls
        self.store = ReplyStore(stage.replies, run=stage.run)
        self.admission = LimiterClient(limiter, f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.seats = {agent.name: self._seat(agent, apps) for agent in stage.debate.agents}
        self.places = asyncio.Semaphore(max(1, stage.debate.max_in_flight // stage.debate.workers))
        self.hopeless = False
        # Half a million objects of imported packages would be searched for garbage again and again, by the thousand calls.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)

    def _seat(self, agent: AgentConfig, apps: Mapping[str, str]) -> Seat:
        engine, config = self._engine(agent, apps), agent.engine
        remote = isinstance(config, ApiEngine)
        same = [a.name for a in self.stage.debate.agents if self._asks_the_same(a, agent)]
        stored = StoredEngine(
            engine,
            self.store,
            agent=agent.name,
            provider=config.base_url if isinstance(config, ApiEngine) else config.type,
            model=self.stage.identities[agent.name],
            price=config.price if isinstance(config, ApiEngine) else None,
        )
        return Seat(
            teacher=stored,
            sampling=agent.sampling,
            seeded=not remote or agent.sampling.seed is not None,
            twin=same.index(agent.name),
            twins=len(same),
            repair=isinstance(config, ApiEngine) and config.repair,
        )

    def _engine(self, agent: AgentConfig, apps: Mapping[str, str]) -> Engine:
        if isinstance(agent.engine, ApiEngine):
            return ApiAgent(agent.engine, agent=agent.name, admission=self.admission)
        return MeteredEngine(PooledEngine(apps[agent.name]), self.admission, agent.name)

    def _asks_the_same(self, one: AgentConfig, other: AgentConfig) -> bool:
        identities = self.stage.identities
        return identities[one.name] == identities[other.name] and one.sampling == other.sampling

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Debate every question of a batch; the rows come in the order of the questions."""
        self.store.refresh()  # a worker that died may have left replies to these very questions
        debates = await asyncio.gather(*(self._debate(Question(**row)) for row in batch.to_pylist()))
        books = Books()
        for debate in debates:
            books.add(debate, most_calls=self.most_calls)
        self.hopeless = await self.ledger.add.remote(books) or self.hopeless
        await self.admission.flush()  # this may be the worker's last batch
        yield to_table(debates)

    async def _debate(self, question: Question) -> Debate:
        async with self.places:
            if self.hopeless:
                return self.protocol.start(question, list(self.seats)).failed(NotHeld("too many debates before it had failed"))
            return await hold_debate(self.protocol, question, seats=self.seats, seed=self.stage.config.seed)


def pool_specs(config: DebateConfig, apps: Mapping[str, str]) -> list[PoolSpec]:
    """One engine deployment for each agent named in `apps`."""
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
        if agent.name in apps
    ]


def run_debates(stage: DebateStage, *, source: Path, out: Path, log: Path) -> dict[str, Any]:
    """Debate the questions stored under `source` and write the debates to `out`. Returns the stage's facts.

    Raises:
        EngineError: an engine cannot be deployed, or more than `debate.max_failed_share` of the debates failed.
        RunError: the budget is spent; says how to go on.
    """
    import ray

    config = stage.debate
    apps = {a.name: unique_app("debate", a.name) for a in config.agents if not isinstance(a.engine, ApiEngine)}
    ledger = ray.remote(num_cpus=0)(Ledger).remote(stage.rows, config.max_failed_share)
    limiter = _limiter(stage)
    started = time.monotonic()
    deploy_engines(pool_specs(config, apps))
    deployed = time.monotonic()
    try:
        with _watched(stage, ledger, limiter, log):
            _stream(stage, apps, ledger, limiter, source=source, out=out)
    finally:
        retire_engines(list(apps.values()))
    final, state = audit(source, out, most_calls=stage.most_calls), ray.get(limiter.read.remote())
    _check_budget(stage, final, state)
    check_failures(final, config.max_failed_share)
    seconds = {"seconds_deploying": round(deployed - started, 1), "seconds_debating": round(time.monotonic() - deployed, 1)}
    return facts(final, state) | seconds


def facts(books: Books, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage's manifest says of it."""
    spend: Mapping[str, Spend] = state["spend"]
    return {
        "debates": books.debates,
        "consensus": books.consensus,
        "replies": books.replies,
        "unparsed replies": books.unparsed,
        "calls saved by stopping early": books.saved,
        "failed": books.failed,
        "errors": dict(books.errors),
        "tokens_in": books.tokens_in,
        "tokens_out": books.tokens_out,
        "usd": round(sum(item.usd for item in spend.values()), 6),
        "spend": {agent: asdict(item) for agent, item in sorted(spend.items())},
        "providers": {name: _provider_facts(values) for name, values in state["providers"].items()},
    }


def _provider_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("concurrency", "lowest", "highest", "granted", "rate_limited", "overloaded")
    return {name: values[name] for name in kept}


def _limiter(stage: DebateStage) -> Any:
    engines = [agent.engine for agent in stage.debate.agents]
    store = ReplyStore(stage.replies, run=stage.run)
    try:
        spent = store.spent(stage.run)
    finally:
        store.close()
    return start_limiter(
        {engine.provider: engine.limits for engine in engines if isinstance(engine, ApiEngine)},
        budget_usd=stage.debate.budget_usd,
        budget_tokens=stage.debate.budget_tokens,
        spent=spent,
    )


def _check_budget(stage: DebateStage, books: Books, state: Mapping[str, Any]) -> None:
    if not state["stopped"]:
        return
    spend = sum(state["spend"].values(), Spend())
    raise RunError(
        f"Stopped at the budget: {state['reason']}. Spent so far: ${spend.usd:.4f} and {spend.tokens_in + spend.tokens_out} "
        f"tokens in {spend.calls} calls; {books.debates - books.failed} of {stage.rows} debates had ended. "
        f"All replies are kept in {stage.replies}. To go on, raise debate.budget_usd or debate.budget_tokens and run the same "
        "command again: nothing is paid for twice."
    )


def _stream(stage: DebateStage, apps: Mapping[str, str], ledger: Any, limiter: Any, *, source: Path, out: Path) -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    quiet_ray_data()
    workers = stage.debate.workers
    calls = max(1, SLACK * stage.debate.max_in_flight // workers // BLOCK)
    debates = (
        ray.data.read_parquet(str(source), file_extensions=["parquet"], override_num_blocks=max(1, min(workers * 4, stage.rows)))
        .repartition(target_num_rows_per_block=BLOCK)
        .map_batches(
            DebateOperator,
            fn_constructor_args=(stage, apps, ledger, limiter),
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls),
            num_cpus=0.25,
        )
    )
    debates.write_parquet(str(out), min_rows_per_file=ROWS_PER_FILE)


@contextmanager
def _watched(stage: DebateStage, ledger: Any, limiter: Any, log: Path) -> Iterator[None]:
    """Show the stage's progress, and write it to the run's log, while the body runs."""
    import ray

    view = View(stage.rows, stage.debate.budget_usd, log)

    def look(progress: Progress) -> None:
        view.show(progress, *ray.get([ledger.read.remote(), limiter.read.remote()]))

    with polled(Progress("debate", stage.rows), look):
        yield

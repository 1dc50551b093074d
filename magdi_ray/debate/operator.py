"""The debate operator: an actor of Ray Data in which many debates are under way at once, and what it is handed.

It holds debates and nothing else: it starts no engine and writes no debate.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Engine
from magdi_ray.agents.limiter import LimiterClient
from magdi_ray.agents.metered import MeteredEngine
from magdi_ray.agents.pool import PooledEngine
from magdi_ray.agents.store import ReplyStore, StoredEngine
from magdi_ray.config.base import content_hash
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.run import RunConfig
from magdi_ray.config.sections import AgentConfig, DebateConfig
from magdi_ray.debate.books import Books, NotHeld
from magdi_ray.debate.hold import Seat, hold_debate
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.store import to_table
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.errors import EngineError
from magdi_ray.observe.logs import begin_work
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_task

logger = logging.getLogger(__name__)

LISTING_SECONDS = 30.0
"""Between two listings of a reply store on object storage; a directory is looked at before every batch."""


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
    waste: str
    """File in which the cost of failed calls is kept: it has no reply to stand beside in the store."""

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
    """What answers for an agent: its model's name, and a hash of everything in the engine's configuration that shapes replies.

    Local files count by `fingerprint`, the hash of their content (see `runs.file_hash`), wherever they are.
    """
    shape = agent.engine.request() | (dict.fromkeys(("model", "path"), fingerprint) if fingerprint else {})
    label = Path(getattr(agent.engine, "model", agent.engine.type)).name if fingerprint else getattr(agent.engine, "model", "")
    return f"{label}@{content_hash(shape)[:16]}"


class DebateOperator:
    """The Ray Data operator: an actor in which many debates are under way at once."""

    def __init__(self, stage: DebateStage, apps: Mapping[str, str], ledger: Any, limiter: Any) -> None:
        begin_work(stage.run, "debates")
        self.stage, self.ledger = stage, ledger
        self.protocol, self.most_calls = stage.protocol(), stage.most_calls
        self.store = ReplyStore(stage.replies, run=stage.run)
        self.admission = LimiterClient(limiter, f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.seats = {agent.name: self._seat(agent, apps) for agent in stage.debate.agents}
        self.places = asyncio.Semaphore(max(1, stage.debate.max_in_flight // stage.debate.worker_range[1]))
        self.hopeless, self.looked = False, time.monotonic()
        self.reused = 0
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
        await self._look_around()
        debates = await asyncio.gather(*(self._debate(Question(**row)) for row in batch.to_pylist()))
        hits = sum(seat.teacher.hits for seat in self.seats.values())
        books = Books(reused=hits - self.reused)
        self.reused = hits
        for debate in debates:
            books.add(debate, most_calls=self.most_calls)
        self.hopeless = await self.ledger.add.remote(books) or self.hopeless
        await self.admission.flush()  # this may be the worker's last batch
        yield to_table(debates)

    async def _look_around(self) -> None:
        """Index what others wrote: a worker that died may have left replies to these very questions."""
        remote = "://" in self.stage.replies
        if remote and time.monotonic() - self.looked < LISTING_SECONDS:
            return
        self.looked = time.monotonic()
        try:
            await asyncio.to_thread(self.store.refresh) if remote else self.store.refresh()
        except EngineError:
            logger.warning("The reply store could not be listed; going on with what is known.", exc_info=True)

    async def _debate(self, question: Question) -> Debate:
        async with self.places:
            if self.hopeless:
                return self.protocol.start(question, list(self.seats)).failed(NotHeld("too many debates before it had failed"))
            asked = replace(question, gold=None, solution=None)  # no protocol can show an agent what it does not have
            debate = await hold_debate(self.protocol, asked, seats=self.seats, seed=self.stage.config.seed)
            return replace(debate, question=question)

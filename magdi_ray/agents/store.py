"""The reply store keeps every reply, so that no engine is asked the same thing twice. It knows no question and no debate.

A line, fields in this order:

    {"key": "0f343b0931126a20f133d67c2b018a3b", "agent": "ada", "run": "gsm8k", "tokens_in": 5, "tokens_out": 2, "usd": 1.2e-05,
     "at": 1767225600.123, "confidence": 0.93, "finish_reason": "stop", "model": "ada-7b", "text": "4"}

The key is the hash of all that shapes a reply. `magdi_ray.agents.segments` says where lines are kept and what survives which
accident, `magdi_ray.agents.index` how they are found again. Damaged lines are counted and passed over: their replies are asked
for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_random

from magdi_ray.agents.base import Engine, Message, Reply, Sampling
from magdi_ray.agents.budget import Spend
from magdi_ray.agents.index import Index, Place, Rows, find_records
from magdi_ray.agents.segments import open_segments
from magdi_ray.errors import EngineError

if TYPE_CHECKING:
    from magdi_ray.config.engines import Price

KEEPING_S = 30.0
"""So long is a reply held that cannot be written; whoever asked waits, and asks nothing else."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

_SPENT = re.compile(
    rb'\{"key": "[0-9a-f]{32}", "agent": ("(?:[^"\\]|\\.)*"), "run": ("(?:[^"\\]|\\.)*"), '
    rb'"tokens_in": (\d{1,18}), "tokens_out": (\d{1,18}), "usd": (\d{1,18}(?:\.\d+)?(?:e[+-]\d{1,3})?),'
)


def reply_key(*, provider: str, model: str, messages: Sequence[Message], sampling: Sampling, sample: int) -> str:
    """The first 128 bits of the SHA-256 of everything that shapes a reply, as hex digits; equal on every machine."""
    shaping = {
        "provider": provider,
        "model": model,
        "messages": [[message.role, message.content] for message in messages],
        "sampling": sampling.__dict__,  # what `model_dump` gives, without its 2 us
        "sample": sample,
    }
    return hashlib.sha256(_canonical(shaping).encode()).hexdigest()[:32]


def encode_record(key: str, reply: Reply, *, agent: str, run: str, usd: float) -> bytes:
    """One line of a segment. It is ASCII: no text can hold a line break of its own, or half a character."""
    record = {
        "key": key,
        "agent": agent,
        "run": run,
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "usd": float(usd),
        "at": round(time.time(), 3),
        "confidence": reply.confidence,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "text": reply.text,
    }
    return json.dumps(record).encode() + b"\n"


def decode_record(line: bytes) -> tuple[str, Reply]:
    """Key and reply of a line. Raise `ValueError` where it is no record."""
    try:
        row = json.loads(line)
        reply = Reply(
            text=row["text"],
            tokens_in=row["tokens_in"],
            tokens_out=row["tokens_out"],
            confidence=row["confidence"],
            finish_reason=row["finish_reason"],
            model=row["model"],
        )
        if not _is_sound(reply):
            raise ValueError(f"not a record: {str(row)[:200]}")
        return row["key"], reply
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a record: {error!r}") from None


def _is_sound(reply: Reply) -> bool:
    """Whether every field is of its kind: a damaged line may be JSON still."""
    return (
        isinstance(reply.text, str)
        and isinstance(reply.model, str)
        and type(reply.tokens_in) is type(reply.tokens_out) is int
        and min(reply.tokens_in, reply.tokens_out) >= 0
        and (reply.confidence is None or 0.0 <= reply.confidence <= 1.0)
        and reply.finish_reason in ("stop", "length")
    )


@dataclass(slots=True)
class _Total:
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0

    def add(self, tokens_in: int, tokens_out: int, usd: float, calls: int = 1) -> None:
        self.calls += calls
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.usd += usd


def _new_total(agent: bytes, payer: bytes) -> _Total | None:
    """None where the names of who asked and who pays are damaged."""
    try:
        json.loads(agent), json.loads(payer)
    except ValueError:
        return None
    return _Total()


class ReplyStore:
    """The replies in a directory or below a URL, open in any number of processes, each of which appends to a segment of its own.

    Opening it indexes what is there: about 3 s and 24 MB of memory for a million replies (1 GB). Sent to another process it is
    opened anew there.
    """

    def __init__(self, url: str, *, run: str = "") -> None:
        """Open a directory or any fsspec URL; `run` is who pays, and is written into every record.

        Raises:
            ConfigError: it cannot be written, or the package that reads the URL is missing.
        """
        self.url = url
        self.run = run
        self.flights: dict[str, asyncio.Task[Reply]] = {}
        """Calls under way, by key."""
        self._segments = open_segments(url)
        self._index = Index()
        self._damaged_lines = 0
        self._damaged_places: set[Place] = set()
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._indexed: dict[str, int] = {}
        self._counted: dict[str, int] = {}
        self._totals: dict[tuple[bytes, bytes], _Total] = {}
        self._refreshing = threading.Lock()
        self._counting = threading.Lock()
        self._numbering = threading.Lock()
        self.refresh()

    def __reduce__(self) -> tuple[Callable[..., ReplyStore], tuple[str]]:
        return partial(ReplyStore, run=self.run), (self.url,)

    def __len__(self) -> int:
        """Records that can be found."""
        return len(self._index)

    @property
    def damaged(self) -> int:
        """Lines found so far that are no record, or cannot be read as one."""
        return self._damaged_lines + len(self._damaged_places)

    def refresh(self) -> None:
        """Index what other writers have appended. It looks at the size of each segment and reads only what is new."""
        with self._refreshing:
            batches = []
            for name, offset, data in self._segments.grown(self._indexed):
                lines = find_records(data)
                segments = np.full(len(lines.keys), self._number(name), np.uint32)
                lengths = (lines.ends - lines.starts).astype(np.uint32)
                batches.append(Rows(lines.keys, segments, lines.starts + offset, lengths))
                self._damaged_lines += lines.damaged
            if batches:
                self._index.extend(batches)

    def _number(self, name: str) -> int:
        with self._numbering:
            if name not in self._numbers:
                self._numbers[name] = len(self._names)
                self._names.append(name)
            return self._numbers[name]

    def __contains__(self, key: str) -> bool:
        """Whether a record of a key is indexed; `get` may still find it damaged, or, rarely, to be another's."""
        return bool(self._index.places(key))

    def get(self, key: str) -> Reply | None:
        """The reply kept under a key, or None. On object storage this may wait for the network: an event loop calls `find`."""
        for place in self._index.places(key):
            if place in self._damaged_places:
                continue
            try:
                found, reply = decode_record(self._segments.read(self._names[place.segment], place.offset, place.length))
            except (FileNotFoundError, ValueError):
                self._damaged_places.add(place)
                continue
            if found == key:
                return reply
        return None

    async def find(self, key: str) -> Reply | None:
        """`get`, in a thread where it may wait for the network."""
        if not self._segments.remote:
            return self.get(key)
        return await asyncio.to_thread(self.get, key) if self._index.places(key) else None

    async def put(self, key: str, reply: Reply, *, agent: str, usd: float) -> None:
        """Keep a reply. What is kept when this returns, and what is not before, is told in `magdi_ray.agents.segments`.

        Raises:
            EngineError: it could not be written.
        """
        line = encode_record(key, reply, agent=agent, run=self.run, usd=usd)
        name, offset = await self._segments.append(line)
        self._indexed[name] = max(offset + len(line), self._indexed.get(name, 0))
        self._index.add(key, Place(self._number(name), offset, len(line) - 1))

    def spent(self, run: str | None = None) -> dict[str, Spend]:
        """What was paid for, by agent: by one run, or by all. The first call reads the whole store, later ones what is new."""
        with self._counting:
            for _, _, data in self._segments.grown(self._counted):
                self._count(data)
            by_agent: dict[str, _Total] = {}
            for (agent, payer), total in self._totals.items():
                if run is None or json.loads(payer) == run:
                    into = by_agent.setdefault(json.loads(agent), _Total())
                    into.add(total.tokens_in, total.tokens_out, total.usd, total.calls)
        return {agent: Spend(t.calls, t.tokens_in, t.tokens_out, t.usd) for agent, t in sorted(by_agent.items())}

    def _count(self, data: bytes) -> None:
        for start in find_records(data).starts.tolist():
            if head := _SPENT.match(data, start):
                agent, payer, tokens_in, tokens_out, usd = head.groups()
                total = self._totals.get((agent, payer)) or _new_total(agent, payer)
                if total is not None:
                    self._totals[agent, payer] = total
                    total.add(int(tokens_in), int(tokens_out), float(usd))

    async def aclose(self) -> None:
        """Write what waits, then let go of everything."""
        await self._segments.flush()
        self.close()

    def close(self) -> None:
        """Let go of open files. No `put` may be under way."""
        self._segments.close()


def _patiently() -> AsyncRetrying:
    """Attempts to write, for `KEEPING_S`; the last failure is raised."""
    wait = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0.0, 0.5)
    return AsyncRetrying(stop=stop_after_delay(KEEPING_S), wait=wait, retry=retry_if_exception_type(EngineError), reraise=True)


class StoredEngine:
    """An engine that is never asked the same thing twice, by whichever agents and processes share the store."""

    def __init__(
        self, engine: Engine, store: ReplyStore, *, agent: str, provider: str, model: str, price: Price | None = None
    ) -> None:
        """`agent` pays for the calls; `provider` and `model` tell apart engines that answer differently; no `price` is free."""
        self.hits = 0
        """Replies had without a call of one's own."""
        self.misses = 0
        """Calls."""
        self._engine = engine
        self._store = store
        self._agent = agent
        self._provider = provider
        self._model = model
        self._price = price

    async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
        """The reply that is kept, or a new one, which is kept before it is returned. `sample` tells several replies apart.

        A call that was sent is paid for: it ends, and its reply is kept, even if the one who asked no longer waits, and even if
        storage fails for a while.

        Raises:
            EngineError: the engine's own, which is not kept, or the store's.
        """
        key = reply_key(provider=self._provider, model=self._model, messages=messages, sampling=sampling, sample=sample)
        if (kept := await self._store.find(key)) is not None:
            self.hits += 1
            return kept
        flight = self._store.flights.get(key)
        if flight is None:
            self.misses += 1
            flight = asyncio.create_task(self._call(key, messages, sampling))
            self._store.flights[key] = flight
            flight.add_done_callback(partial(self._landed, key))
        else:
            self.hits += 1
        return await asyncio.shield(flight)

    async def _call(self, key: str, messages: Sequence[Message], sampling: Sampling) -> Reply:
        reply = await self._engine.generate(messages, sampling)
        usd = self._price.usd(reply.tokens_in, reply.tokens_out) if self._price else 0.0
        keep = partial(self._store.put, key, reply, agent=self._agent, usd=usd)
        try:
            await keep()
        except EngineError:  # it is paid for: storage that is full or away may be there again in a moment
            await _patiently()(keep)
        return reply

    def _landed(self, key: str, flight: asyncio.Task[Reply]) -> None:
        del self._store.flights[key]
        if not flight.cancelled():
            flight.exception()  # looked at, lest asyncio complain where nobody waits any more

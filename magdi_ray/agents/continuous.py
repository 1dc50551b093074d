"""An engine on local weights whose batch is never closed: a row leaves at its own end, and whatever waits takes its place.

The loop is transformers' continuous batching. It reads and attends; which token comes next is chosen here, row by row
(`choosing`), so that seeds, penalties and log-probabilities hold for each request, and a reply is the dynamic engine's for the
same sampling. Replies are told while they are written (`stream`), and several adapters share one base and one batch.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from functools import partial
from math import ceil
from time import perf_counter
from typing import Any

from transformers import ContinuousBatchingConfig

from magdi_ray.agents.adapters import Adapters, check_tokenizer, settle
from magdi_ray.agents.attention import use_rows
from magdi_ray.agents.base import Message, PromptError, Reply, Sampling
from magdi_ray.agents.desk import Desk, Ticket
from magdi_ray.agents.prompting import PromptReader
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, joined
from magdi_ray.agents.transformers import TransformersAgent, decode_text, fit_context
from magdi_ray.agents.twin import twin
from magdi_ray.agents.written import Scribe, Spelling
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.errors import EngineError

PAGE = 256
"""Tokens of one row that the cache stores together."""

ROW = 2048
"""Tokens of prompt and reply for which every row of a full batch has room; longer rows take the room of others."""

STEP = 512
"""Tokens read in one step, at most: a longer prompt is read in several, between the other rows' next tokens."""


class ContinuousAgent(TransformersAgent):
    """Decodes with transformers' continuous batching, on one device. An `Engine` and a `StreamingEngine`."""

    def __init__(
        self, config: TransformersEngine, *, device: str | None = None, adapters: Mapping[str, str] | None = None
    ) -> None:
        """Load weights and tokenizer, reserve the cache and decode a first token; see `TransformersAgent`.

        `adapters` are PEFT LoRA directories on the same base by the name that `Decoding.adapter` asks for.

        Raises:
            ConfigError: files are missing, or an adapter cannot be served (it says why).
            EngineError: the model cannot be loaded or batched continuously, or its cache does not fit into memory.
        """
        super().__init__(config, device=device)
        for name, directory in (adapters or {}).items():
            check_tokenizer(name, directory, base=config.model, tokenizer=self.tokenizer)
        self.adapters = Adapters(self.model, adapters or {})
        blocks = cache_blocks(config.max_batch_size, self.context_length)
        # A row that outgrows the whole cache would end the loop for all.
        self.context_length = min(self.context_length or blocks * PAGE, blocks * PAGE)
        self._reader = PromptReader(
            self.tokenizer,
            system_prompt=config.system_prompt,
            context_length=self.context_length,
            vocabulary=self.model.get_input_embeddings().weight.shape[0],
            model=self._reader_name,
        )
        self._spelling = Spelling(self.tokenizer)
        try:
            manager = self.model.init_continuous_batching(copy(self._generation), self._settings(blocks))
            use_rows(self.model)
            self._desk = Desk(manager, end_ids=self._end_ids, witness=self.adapters.present if self.adapters else None)
            manager.warmup()  # makes the cache, so that what is lacking is said now
        except Exception as error:  # transformers raises what it likes
            raise self._unfit(error) from error
        self.close = weakref.finalize(self, self._desk.close)
        """Ends the loop; what still waits fails. Called by itself when the engine, or the process, ends."""
        try:
            self.warm_up()
        except EngineError as error:
            self.close()
            raise self._unfit(error) from error

    def _settings(self, blocks: int) -> ContinuousBatchingConfig:
        rows = self.config.max_batch_size
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=blocks,
            max_batch_tokens=max(STEP, rows),
            max_requests_per_batch=rows,
            # Tokens are chosen in Python in every step, from that step's numbers.
            use_cuda_graph=False,
            use_async_batching=False,
            # Blocks are told apart by their tokens alone, and the same tokens are other keys and values under each adapter.
            allow_block_sharing=not self.adapters,
            auto_switch_to_flash=self.device.type == "cuda",
        )

    def _unfit(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self.config.model} cannot be batched continuously: {type(error).__name__}: {error}. Use batching: dynamic, or, "
            f"where memory is short, a max_batch_size below {self.config.max_batch_size} or a context_length below "
            f"{self.context_length}."
        )

    @property
    def tokens_generated(self) -> int:
        """Since the start; what callers left unread counts too."""
        return self._desk.chooser.tokens_generated

    @property
    def in_flight(self) -> int:
        """Replies that somebody waits for, those that wait for a row included."""
        return self._desk.in_flight

    def check_health(self, patience_s: float = 120.0) -> None:
        """Say whether decoding goes on; an engine without work is healthy.

        Raises:
            EngineError: somebody waits, and no step has begun for `patience_s` seconds.
        """
        still_s = perf_counter() - self._desk.chooser.stepped_s
        if self._desk.in_flight and still_s > patience_s and self._desk.oldest_s() > patience_s:
            raise EngineError(f"{self.config.model} has {self.in_flight} replies to write and wrote none for {still_s:.0f} s.")

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, as `stream` reads it; see `PromptReader.encode`. Blocks where it is long."""
        return self._reader.encode(prompt)

    def twin(self, adapter: str | None = None) -> Any:
        """The model again, for ordinary forward passes beside the decoding: same storage, ordinary attention (see `twin`).

        With one of the engine's adapters, every token it reads is that adapter's.
        """
        copied = twin(self.model)
        settle(copied, self._place(adapter))
        return copied

    def warm_up(self) -> None:
        """Decode one token, so that the first to ask does not wait for what is made on first use. Blocks.

        Raises:
            EngineError: no token could be decoded.
        """
        failed: list[Exception] = []

        def decode() -> None:
            try:
                asyncio.run(self.complete(Prompt(ids=(0,)), Decoding(max_tokens=1, temperature=1.0)))
            except Exception as error:  # handed to the thread that waits
                failed.append(error)

        # In a thread of its own: whoever makes an engine may be on an event loop.
        thread = threading.Thread(target=decode, daemon=True)
        thread.start()
        thread.join()
        if failed:
            raise EngineError(f"The first token could not be decoded: {failed[0]}") from failed[0]

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Answer one conversation, together with whatever else is under way. Raises what `complete` raises."""
        whole = await self.complete(Prompt(messages=tuple(messages)), Decoding(**dict(sampling)))
        assert whole.finish_reason is not None
        return Reply(
            text=whole.text,
            tokens_in=whole.tokens_in,
            tokens_out=whole.tokens_out,
            confidence=whole.confidence,
            finish_reason=whole.finish_reason,
            model=self.config.model,
        )

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        """The whole reply as one piece.

        Raises:
            PromptError: the prompt cannot be put to the model; `ContextLengthError` where it is too long.
            EngineError: decoding failed, or the engine was closed.
        """
        # A stop string has to be seen when it is written; otherwise the loop knows by itself where a reply ends.
        async with self._asked(prompt, decoding, every_token=any(decoding.stop)) as (ticket, scribe):
            pieces = []
            while not scribe.finished:
                await self._arrival(ticket)
                if (piece := scribe.read()) is not None:
                    pieces.append(piece)
            return joined(pieces)

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """The reply as it is written: each piece is all there is since the last one was taken. Raises what `complete` raises.

        Closing the iterator, or cancelling whoever awaits it, takes the row out of the batch before its next step.
        """
        async with self._asked(prompt, decoding, every_token=True) as (ticket, scribe):
            while not scribe.finished:
                await self._arrival(ticket)
                if (piece := scribe.read()) is not None:
                    yield piece

    @asynccontextmanager
    async def _asked(self, prompt: Prompt, decoding: Decoding, *, every_token: bool) -> AsyncIterator[tuple[Ticket, Scribe]]:
        """A row in the batch, for as long as somebody wants it, and who writes down what it says."""
        place = self._place(decoding.adapter)
        entered_s = perf_counter()
        ids = await self._reader.read(prompt)
        fitting = fit_context(decoding, len(ids), context_length=self.context_length, model=self._reader_name)
        assert isinstance(fitting, Decoding)
        ticket = Ticket(fitting, place, entered_s=entered_s, every_token=every_token)
        name = await self._desk.enter(ids, ticket)
        try:
            decode = partial(decode_text, self.tokenizer)
            yield ticket, Scribe(ticket, len(ids), decode=decode, spelling=self._spelling, ends=self._end_ids)
        finally:
            self._desk.leave(name)

    async def _arrival(self, ticket: Ticket) -> None:
        try:
            await ticket.arrival()
        except EngineError as error:
            raise EngineError(f"{self.config.model} could not decode: {error}") from None

    def _place(self, adapter: str | None) -> int | None:
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters.names) or "none"
            raise PromptError(f"{self.config.model} has no adapter {adapter!r}; there are: {known}.")
        return self.adapters.place(adapter)


def cache_blocks(rows: int, context_length: int | None) -> int:
    """Pages of cache: room for all rows at `ROW` tokens each, and for one row as long as the context."""
    row = min(context_length or ROW, ROW)
    return max(rows * ceil(row / PAGE), ceil((context_length or 0) / PAGE))

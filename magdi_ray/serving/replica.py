"""One copy of the student: the model, decoding for many at once, in a process of its own. Knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING

from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores
from magdi_ray.agents.weights import base_and_adapter
from magdi_ray.config.engines import TransformersEngine

if TYPE_CHECKING:
    import torch

    from magdi_ray.distill.judging import Judge

CROWD = 8
"""Streams under way above which pieces are sent more rarely: every piece costs three processes some work."""


def own_memory(model: torch.nn.Module) -> None:
    """Copy weights that are still read from their file: whoever writes over the file would end the process."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


class StudentReplica:
    """The class of the Serve deployment `student`."""

    def __init__(
        self,
        config: TransformersEngine,
        *,
        adapters: Mapping[str, str],
        num_cpus: float,
        num_gpus: float,
        stream_interval_s: float,
        version: str,
    ) -> None:
        """Load the model. `version` is for Serve, which replaces copies whose arguments have changed."""
        import torch

        from magdi_ray.agents.continuous import ContinuousAgent

        self.version = version
        torch.set_num_threads(max(1, int(num_cpus)))
        # Ray leaves the GPUs of a machine visible to an actor that reserved none of them.
        self._agent = ContinuousAgent(config, device=None if num_gpus else "cpu", adapters=adapters)
        if not num_gpus:
            own_memory(self._agent.model)
        self._interval_s = stream_interval_s
        self._streams = 0
        # One forward pass at a time, beside the decoding; a judgement nobody waits for any more is not begun.
        self._judging = ThreadPoolExecutor(1, thread_name_prefix="judging")
        self._judges: dict[str | None, Judge] = {}
        self._adapters = adapters

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        """The whole reply; see `Backend`."""
        return await self._agent.complete(prompt, decoding)

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        """The reply in pieces, the first one at once, the others every so often; see `Backend`."""
        self._streams += 1
        try:
            async with aclosing(self._agent.stream(prompt, decoding)) as pieces:
                async for piece in pieces:
                    sent = time.monotonic()
                    yield piece
                    if piece.finish_reason is None and self._interval_s:
                        pause = self._interval_s * max(1.0, self._streams / CROWD)
                        await asyncio.sleep(max(0.0, pause - (time.monotonic() - sent)))
        finally:
            self._streams -= 1

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        """The student's judgement of a reply; see `Backend`."""
        return await asyncio.get_running_loop().run_in_executor(self._judging, self._score, prompt, reply, adapter)

    def _score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        from magdi_ray.distill.judging import Judge

        if adapter not in self._judges:
            base, own = base_and_adapter(self._agent.config.model)
            heads = own or base if adapter is None else self._adapters[adapter]
            self._judges[adapter] = Judge(self._agent.twin(adapter), self._agent.tokenizer, heads, self._agent.device)
        return self._judges[adapter].score(self._agent.encode(prompt), reply)

    async def counts(self) -> dict[str, int]:
        """Tokens generated since the start, and replies under way."""
        return {"tokens_generated": self._agent.tokens_generated, "in_flight": self._agent.in_flight}

    async def which(self) -> str:
        """The version of this copy."""
        return self.version

    def check_health(self) -> None:
        """Ask Serve to replace this copy when its decoding stands still with work at hand."""
        self._agent.check_health()

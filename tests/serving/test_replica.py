"""One copy of the student: judgements wait for each other, and never for ones that nobody wants any more."""

from __future__ import annotations

import asyncio
import threading
import time

from magdi_ray.agents.streaming import Prompt, Scores
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.serving.replica import StudentReplica


class Slow(StudentReplica):
    """Its forward passes last as long as it is told."""

    def __init__(self) -> None:
        engine = TransformersEngine(type="transformers", model="pkg://magdi_ray/tiny/models/ada", batching="continuous")
        super().__init__(engine, adapters={}, num_cpus=1, num_gpus=0, stream_interval_s=0.0, version="1")
        self.go_on = threading.Event()
        self.begun: list[str] = []

    def _score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        self.begun.append(reply)
        self.go_on.wait(10)
        return Scores(logprob=-1.0, tokens=1, contrast=None, correct=None)


def test_judgements_are_made_one_at_a_time_and_one_nobody_waits_for_is_not_begun() -> None:
    async def run() -> None:
        replica = Slow()
        asked = [asyncio.create_task(replica.score(Prompt(text="a"), str(number), None)) for number in range(12)]
        await asyncio.sleep(0.05)
        for task in asked[:-1]:
            task.cancel()
        await asyncio.sleep(0.05)
        assert replica.begun == ["0"]
        began = time.monotonic()
        await asyncio.to_thread(lambda: None)  # the threads that tokenise are free
        assert time.monotonic() - began < 1
        replica.go_on.set()
        await asyncio.wait_for(asked[-1], 5)
        assert replica.begun == ["0", "11"]

    asyncio.run(run())

"""The units of one split as batches: what a step forwards, read from the token store when it is needed. Knows no DeepSpeed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from magdi_ray.config.recipes import PAIRS, REPLIES, NextToken, RecipeConfig
from magdi_ray.distill.batch import GraphBatch, collate
from magdi_ray.distill.dataset import TokenStore
from magdi_ray.distill.plan import GraphSize, Step, share
from magdi_ray.errors import ConfigError

AHEAD = 2
"""Micro-batches that lie ready while one is computed."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the untrained student makes of every node of the units, N of them."""

    row: dict[str, int]
    """Of each node's key, in the tensors."""
    logps_N: Tensor
    embeddings_NH: Tensor | None
    """None where no objective looks at them."""


@dataclass
class Units:
    """The graphs of a split (or, where no objective looks at structure, their nodes), in the order of the plan."""

    store: TokenStore
    split: Literal["train", "dev"]
    recipe: RecipeConfig
    tokenizer: PreTrainedTokenizerBase
    packed: bool
    """Whether graphs go through the student in packed rows, or in one padded row a node."""
    reference: Reference | None = None
    """Of the untrained student, where an objective wants it."""

    @cached_property
    def sizes(self) -> tuple[GraphSize, ...]:
        """Of every unit."""
        return self.store.sizes(self.split, packed=self.packed, **self._switches)

    @cached_property
    def stand_in(self) -> int:
        """The smallest unit: what a worker forwards that has none left but has to take part in the collective operations."""
        return min(range(len(self.sizes)), key=lambda index: self.sizes[index].tokens)

    @property
    def _switches(self) -> dict[str, bool]:
        learned = [o for o in self.recipe.objectives if isinstance(o, NextToken)]
        return {"next_token": bool(learned), "loss_on_prompt": any(o.loss_on_prompt for o in learned)}

    def check(self) -> None:
        """Refuse units from which nothing can be learned because all objectives compare and there is nothing to compare.

        Raises:
            ConfigError: no graph holds a correct and an incorrect reply.
        """
        names = {objective.name for objective in self.recipe.objectives if objective.weight > 0}
        if names <= PAIRS and not any(size.pairs for size in self.sizes):
            raise ConfigError(
                f"There is nothing to train on: {' and '.join(sorted(names))} compare correct with incorrect replies, but no "
                "graph holds both. `magdi graph stats RUN` shows what they hold. Choose a recipe without them."
            )

    def batch(self, indices: Sequence[int]) -> GraphBatch:
        """The tensors of some units."""
        graphs = [self.store.graph(self.split, index) for index in indices]
        pad_id = self.tokenizer.pad_token_id
        pad_id = self.tokenizer.eos_token_id if pad_id is None else pad_id
        replies = any(o.name in REPLIES for o in self.recipe.objectives)
        batch = collate(graphs, pad_id=pad_id, packed=self.packed, replies=replies, **self._switches)
        if self.reference is None:
            return batch
        row_N = torch.tensor([self.reference.row[node.key] for graph in graphs for node in graph.nodes])
        embeddings_NH = self.reference.embeddings_NH
        frozen_NH = None if embeddings_NH is None else embeddings_NH[row_N]
        return replace(batch, frozen_NH=frozen_NH, reference_N=self.reference.logps_N[row_N])


class MicroBatch(NamedTuple):
    """What one worker forwards at a time."""

    batch: GraphBatch
    weight: float
    """0 for the stand-in of a worker that has no graph left but has to take part in the collective operations."""
    last: bool
    """Whether it is the last of its step."""


def feed(units: Units, steps: Iterable[Step], *, rank: int, workers: int, limit: int | None) -> Iterator[MicroBatch]:
    """One worker's micro-batches of some steps, one step after the other."""
    for step in steps:
        hand = share(step, units.sizes, workers=workers, limit=limit)[rank]
        for number, indices in enumerate(hand):
            yield MicroBatch(units.batch(indices or (units.stand_in,)), 1.0 if indices else 0.0, number == len(hand) - 1)


Item = TypeVar("Item")


@contextmanager
def ahead(source: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The same items, made by a thread of their own while earlier ones are used."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def put(item: tuple[str, Any]) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in source:
                put(("item", item))
                if stopped.is_set():
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    def items() -> Iterator[Item]:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    thread = threading.Thread(target=work, name="micro-batches", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        stopped.set()
        thread.join()

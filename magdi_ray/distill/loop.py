"""The training loop, as named steps on one worker. Knows torch.distributed and DeepSpeed; knows no Ray.

Where checkpoints go is the caller's business (`Checkpoints`), so a step can be run and timed on a bare machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import derive_seed
from magdi_ray.config.recipes import NextToken, RecipeConfig
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, GraphBatch, collate
from magdi_ray.distill.job import Job
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.plan import GraphSize, Step, measure, plan_steps, share
from magdi_ray.distill.student import DistillModel, decoder_of, export_student, load_student, load_tokenizer
from magdi_ray.distill.tokens import TokenisedGraphs, tokenise
from magdi_ray.distill.zero import build_engine, gathered_state, gradient_norm
from magdi_ray.graph.store import read_mags
from magdi_ray.tasks.load import load_task


class Checkpoints(Protocol):
    """Where the state of an unfinished training is kept. Every worker calls both methods at the same steps."""

    def restore(self, engine: Any) -> int:
        """Load the newest checkpoint into the engine; the step to go on with, 0 where there is none."""
        ...

    def save(self, engine: Any, step: int) -> None:
        """Keep the state after `step` steps."""
        ...


@dataclass(frozen=True, slots=True)
class Data:
    """The tokenised training set and the plan over it; the same on every worker."""

    tokenizer: PreTrainedTokenizerBase
    tokenised: TokenisedGraphs
    sizes: tuple[GraphSize, ...]
    steps: tuple[Step, ...]
    packed: bool
    """Whether graphs go through the student in packed rows, or in one padded row a node."""

    def batch(self, graphs: Sequence[int], recipe: RecipeConfig, frozen: dict[str, Tensor]) -> GraphBatch:
        """The tensors of some graphs."""
        chosen = [self.tokenised.graphs[i] for i in graphs]
        pad_id = self.tokenizer.pad_token_id
        pad_id = self.tokenizer.eos_token_id if pad_id is None else pad_id
        switches = {"next_token": _next_token(recipe), "loss_on_prompt": _loss_on_prompt(recipe)}
        batch = collate(chosen, pad_id=pad_id, packed=self.packed, **switches)
        if not frozen:
            return batch
        return replace(batch, frozen_NH=torch.stack([frozen[node.key] for graph in chosen for node in graph.nodes]))


def _next_token(recipe: RecipeConfig) -> bool:
    return any(isinstance(objective, NextToken) for objective in recipe.objectives)


def _loss_on_prompt(recipe: RecipeConfig) -> bool:
    return any(isinstance(objective, NextToken) and objective.loss_on_prompt for objective in recipe.objectives)


def load_data(job: Job, *, packed: bool) -> Data:
    """Read the graphs, tokenise what the recipe learns from, and plan every step."""
    tokenizer = load_tokenizer(job.model)
    # Debates end in any order; the plan must not depend on it.
    mags = sorted((mag for mag in read_mags(job.graphs) if mag.question.split == "train"), key=lambda mag: mag.question.id)
    tokenised = tokenise(mags, load_task(job.task), tokenizer=tokenizer, recipe=job.recipe, max_length=job.student.max_length)
    switches = {"next_token": _next_token(job.recipe), "loss_on_prompt": _loss_on_prompt(job.recipe), "packed": packed}
    sizes = tuple(measure(graph, **switches) for graph in tokenised.graphs)
    return Data(tokenizer, tokenised, sizes, tuple(plan_steps(sizes, job.train, seed=job.seed)), packed)


def run_training(job: Job, checkpoints: Checkpoints) -> dict[str, Any]:
    """Train a student and write it to `job.output`. Returns the facts of the training (same on every worker)."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(derive_seed(job.seed, "heads"))
    model = DistillModel(load_student(job.student, job.model, train=job.train), job.recipe)
    path = prepare_attention(decoder_of(model.student), job.student.packing)
    data = load_data(job, packed=path != "padded")
    engine = build_engine(model, job.train, deepspeed=job.deepspeed, steps=len(data.steps))
    frozen = frozen_embeddings(engine, data, job.recipe) if model.frozen else {}
    start = checkpoints.restore(engine)
    log = StepLog(job, start=start, total=len(data.steps)) if rank == 0 else None
    losses: list[float] = []
    for number in range(start, len(data.steps)):
        torch.manual_seed(derive_seed(job.seed, "step", number, rank))
        metrics = train_step(engine, data, data.steps[number], job=job, frozen=frozen)
        losses.append(metrics["loss"])
        if log is not None:
            log.write(number, metrics)
        every = job.checkpoints.every_steps
        if every is not None and (number + 1) % every == 0 and number + 1 < len(data.steps):
            checkpoints.save(engine, number + 1)
    state = gathered_state(engine, rank=rank)
    if log is not None and state is not None:
        export_student(model, data.tokenizer, Path(job.output), state=state)
        log.close()
    dist.barrier()
    return {
        "workers": world,
        "zero_stage": job.deepspeed.zero_stage,
        "packing": path,
        "steps": len(data.steps),
        "resumed_at_step": start,
        "graphs": len({graph.question_id for graph in data.tokenised.graphs}),
        "nodes": sum(len(graph.nodes) for graph in data.tokenised.graphs),
        "supervised_tokens": sum(step.supervised for step in data.steps),
        "skipped_nodes": data.tokenised.skipped_nodes,
        "skipped_graphs": data.tokenised.skipped_graphs,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }


def train_step(engine: Any, data: Data, step: Step, *, job: Job, frozen: dict[str, Tensor]) -> dict[str, float]:
    """One optimiser step over this worker's share of the graphs. Returns global means, the same on every worker."""
    started = time.perf_counter()
    rank, world = dist.get_rank(), dist.get_world_size()
    counts = Counts(max(1, step.supervised), max(1, step.nodes), max(1, step.pairs))
    hand = share(step, data.sizes, workers=world, limit=job.train.tokens_per_micro_batch)[rank]
    names = [objective.name for objective in job.recipe.objectives]
    sums = torch.zeros(1 + len(names), dtype=torch.float64)
    norm: float | None = None
    learning_rate = float(engine.get_lr()[0])
    engine.train()
    for number, graphs in enumerate(hand):
        # A worker without graphs still takes part in the collective operations, with a stand-in of weight zero.
        weight = 1.0 if graphs else 0.0
        batch = data.batch(graphs or (0,), job.recipe, frozen).to(engine.device)
        engine.set_gradient_accumulation_boundary(number == len(hand) - 1)
        loss, parts = weighted_sum(engine(batch), batch, job.recipe.objectives, counts)
        engine.backward(loss * (weight * world))  # DeepSpeed averages over workers; the shares have to be summed
        norm = gradient_norm(engine)
        engine.step()
        sums += weight * torch.tensor([float(loss.detach()), *(float(parts[name]) for name in names)], dtype=torch.float64)
    sums = sums.to(engine.device)
    dist.all_reduce(sums)
    return {
        "loss": float(sums[0]),
        **{name: float(value) for name, value in zip(names, sums[1:], strict=True)},
        "learning_rate": learning_rate,
        "grad_norm": float(engine.get_global_grad_norm()) if norm is None else norm,
        "graphs": float(len(step.graphs)),
        "tokens": float(step.supervised),
        "seconds": time.perf_counter() - started,
    }


@torch.no_grad()
def frozen_embeddings(engine: Any, data: Data, recipe: RecipeConfig) -> dict[str, Tensor]:
    """Embeddings of every node under the untrained student, computed once, as the released MAGDi code does.

    The workers share the graphs; all take the same number of forward passes.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    count = len(data.tokenised.graphs)
    engine.eval()
    mine: dict[str, Tensor] = {}
    for first in range(0, count, world):
        index = min(first + rank, count - 1)
        batch = data.batch((index,), recipe, {}).to(engine.device)
        _, embeddings_NH = engine.module.embed(batch)
        keys = [node.key for node in data.tokenised.graphs[index].nodes]
        mine.update(zip(keys, embeddings_NH.cpu(), strict=True))
    gathered: list[dict[str, Tensor] | None] = [None] * world
    dist.all_gather_object(gathered, mine)
    return {key: value for part in gathered if part for key, value in part.items()}


class StepLog:
    """One line a step, appended to a JSON-lines file, and the same figures for TensorBoard."""

    def __init__(self, job: Job, *, start: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.recipe, self.total = job.recipe.name, total
        self.stream = Path(job.log).open("a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self.board = SummaryWriter(job.tensorboard, purge_step=start)  # type: ignore[no-untyped-call]
        self._line({"event": "start", "step": start, "steps": total})

    def _line(self, values: dict[str, Any]) -> None:
        self.stream.write(json.dumps({"stage": "distil", "recipe": self.recipe, "time": round(time.time(), 3), **values}) + "\n")
        self.stream.flush()

    def write(self, number: int, metrics: dict[str, float]) -> None:
        """`number` counts from 0."""
        self._line({"step": number, "steps": self.total, **{name: round(value, 8) for name, value in metrics.items()}})
        for name, value in metrics.items():
            self.board.add_scalar(name, value, number)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Flush and close both."""
        self.stream.close()
        self.board.close()  # type: ignore[no-untyped-call]

"""The training loop, as named steps on one worker. Knows torch.distributed and DeepSpeed; knows no Ray.

Where checkpoints go is the caller's business (`Checkpoints`), so a step can be run and timed on a bare machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from magdi_ray.agents.base import derive_seed
from magdi_ray.config.distil import CheckpointConfig
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts
from magdi_ray.distill.dataset import TokenStore, dev_questions
from magdi_ray.distill.forecast.cost import spent_flops
from magdi_ray.distill.job import Job, TrainState
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.plan import Step, plan_steps
from magdi_ray.distill.schedule import weights_at
from magdi_ray.distill.student import DistillModel, decoder_of, export_student, load_student, load_tokenizer
from magdi_ray.distill.units import MicroBatch, Reference, Units, ahead, feed
from magdi_ray.distill.watch.dev import DevExam, choose_questions, judge, measure_dev
from magdi_ray.distill.watch.steplog import StepLog, check_finite, peak_memory
from magdi_ray.distill.zero import build_engine, gathered_state, gradient_norm
from magdi_ray.errors import EngineError
from magdi_ray.graph.store import iter_questions
from magdi_ray.storage import delivered, fetched
from magdi_ray.tasks.load import load_task


class Checkpoints(Protocol):
    """Where the state of an unfinished training is kept. Every worker calls every method at the same steps."""

    def restore(self, engine: Any) -> TrainState:
        """Load the newest whole checkpoint into the engine; a fresh state where there is none."""
        ...

    def save(self, engine: Any, state: TrainState) -> None:
        """Keep where the training is."""
        ...

    def keep_best(self, weights: dict[str, Tensor] | None, state: TrainState) -> None:
        """Keep the best student so far, whose weights rank 0 brings, in place of the one before."""
        ...

    def load_best(self, state: TrainState) -> dict[str, Tensor] | None:
        """On rank 0 the weights that `keep_best` kept after `state.best_step`; None where they are gone, and on other ranks."""
        ...


@dataclass(slots=True)
class Training:
    """What every step works with; the same on every worker but for its share of the graphs."""

    job: Job
    engine: Any
    units: Units
    dev: Units | None
    exam: DevExam | None
    steps: tuple[Step, ...]
    path: str
    """How a graph goes through the student."""


def run_training(job: Job, tokens: Path, checkpoints: Checkpoints) -> dict[str, Any]:
    """Train a student on the graphs tokenised in `tokens` and write it to `job.output`.

    Returns the facts of the training, the same on every worker.
    """
    training = prepare(job, tokens)
    state = checkpoints.restore(training.engine)
    resumed = state.step
    state.resumed += resumed > 0
    log = StepLog(job, start=resumed, total=len(training.steps)) if dist.get_rank() == 0 else None
    losses = advance(training, state, checkpoints, log)
    finish(training, state, checkpoints)
    facts = summary(training, state, losses, resumed)
    if log is not None:
        log.end(state.step, facts)
    return facts


def prepare(job: Job, tokens: Path) -> Training:
    """Student and heads in a DeepSpeed engine, the units, and the plan of every step."""
    torch.manual_seed(derive_seed(job.seed, "heads"))
    model = DistillModel(load_student(job.student, job.model, train=job.train), job.recipe)
    path = prepare_attention(decoder_of(model.student), job.student.packing)
    store, tokenizer = TokenStore(tokens), load_tokenizer(job.model)
    units = Units(store, "train", job.recipe, tokenizer, path != "padded")
    dev = Units(store, "dev", job.recipe, tokenizer, path != "padded") if job.dev else None
    units.check()
    steps = tuple(plan_steps(units.sizes, job.train, seed=job.seed))
    engine = build_engine(model, job.train, deepspeed=job.deepspeed, steps=len(steps))
    if model.needs_reference:
        for part in (units, dev) if dev else (units,):
            part.reference = reference(engine, part)
    return Training(job, engine, units, dev, exam(job, dev), steps, path)


def exam(job: Job, dev: Units | None) -> DevExam | None:
    """What the student is asked on the way: questions of the dev graphs."""
    if job.dev is None or dev is None or not job.dev.accuracy_questions:
        return None
    wanted = dev_questions(job)  # also those of which this recipe learns nothing: all recipes are asked the same
    questions = [question for question in iter_questions(fetched(job.graphs)) if question.id in wanted]
    chosen = choose_questions(questions, job.dev, seed=job.seed)
    return DevExam(load_task(job.task), dev.tokenizer, chosen, job.dev.max_tokens)


def reference(engine: Any, units: Units) -> Reference:
    """What the untrained student makes of every node; computed once, before anything is restored or trained.

    The released MAGDi code takes its embeddings so; preference optimisation holds the student to these probabilities. The workers
    share the units; all take the same number of forward passes.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    count, frozen = len(units.sizes), engine.module.frozen
    keys, logps, embeddings = list[str](), list[Tensor](), list[Tensor]()
    engine.eval()
    for index in range(rank, count + -count % world, world):
        place = index if index < count else units.stand_in
        embeddings_NH, logps_N = engine.module.reference(units.batch((place,)).to(engine.device))
        if index < count:
            keys += [node.key for node in units.store.graph(units.split, index).nodes]
            logps.append(logps_N.float().cpu())
            embeddings += [embeddings_NH.cpu()] if frozen else []
    engine.train()
    # One tensor each, since a view would be sent with all it is a view of; over gloo, since a GPU's memory may not hold them.
    mine = (keys, torch.cat(logps) if logps else None, torch.cat(embeddings) if embeddings else None)
    parts: list[Any] = [None] * world
    group = dist.new_group(backend="gloo")
    dist.all_gather_object(parts, mine, group=group)
    dist.destroy_process_group(group)
    parts = [part for part in parts if part[0]]
    row = {key: number for number, key in enumerate(key for part in parts for key in part[0])}
    return Reference(row, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts]) if frozen else None)


def advance(training: Training, state: TrainState, checkpoints: Checkpoints, log: StepLog | None) -> list[float]:
    """Every step that is left, with the measurements and checkpoints between them. Returns the losses of this attempt."""
    job, losses, clock = training.job, list[float](), Clock(training.job.checkpoints)
    rank, workers = dist.get_rank(), dist.get_world_size()
    left = () if stopped_early(job, state) else training.steps[state.step :]
    source = feed(training.units, left, rank=rank, workers=workers, limit=job.train.tokens_per_micro_batch)
    if state.step == 0:
        measure(training, state, checkpoints, log)
    with ahead(source) as micro_batches:
        for step in left:
            figures = train_step(training, step, micro_batches, number=state.step)
            losses.append(figures["loss"])
            if log is not None:
                log.write(state.step, figures)
            check_finite(state.step, figures)
            _count(state, figures, workers)
            last = state.step == len(training.steps)
            stop = measure(training, state, checkpoints, log, last=last)
            if clock.due(state.step, training.engine.device) or ((last or stop) and clock.enabled):
                if log is not None:
                    log.flush()
                checkpoints.save(training.engine, state)
                clock.restart()
            if stop:
                break
    return losses


def train_step(training: Training, step: Step, micro_batches: Iterator[MicroBatch], *, number: int) -> dict[str, float]:
    """One optimiser step over this worker's share of the units. Returns global figures, the same on every worker."""
    started = time.perf_counter()
    engine, objectives = training.engine, training.job.recipe.objectives
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(derive_seed(training.job.seed, "step", number, rank))
    counts = Counts(step.taught or 1.0, step.nodes or 1.0, step.pairs or 1.0)
    weights = weights_at(objectives, number, len(training.steps))
    names = [objective.name for objective in objectives]
    sums = torch.zeros(2 + len(names), dtype=torch.float64)
    learning_rate = float(engine.get_lr()[0])
    norm: float | None = None
    engine.train()
    for micro in micro_batches:
        batch = micro.batch.to(engine.device)
        engine.set_gradient_accumulation_boundary(micro.last)
        loss, parts = weighted_sum(engine(batch), batch, objectives, counts, weights)
        engine.backward(loss * (micro.weight * world))  # DeepSpeed averages over workers; the shares have to be summed
        norm = gradient_norm(engine)
        engine.step()
        found = [float(loss.detach()), *(float(parts[name]) for name in names), float(batch.input_ids_BT.numel())]
        if micro.weight:
            sums += torch.tensor(found, dtype=torch.float64)
        if micro.last:
            break
    squares = engine.module.gradient_squares()
    sums = torch.cat([sums, torch.tensor([float(squares[name]) / world**2 for name in names], dtype=torch.float64)])
    sums = sums.to(engine.device)
    dist.all_reduce(sums)
    loss_sum, *shares, tokens = sums[: 2 + len(names)].tolist()
    figures = {"loss": loss_sum, **dict(zip(names, shares, strict=True)), "learning_rate": learning_rate}
    figures["grad_norm"] = float(engine.get_global_grad_norm()) if norm is None else norm
    norms = sums[2 + len(names) :].sqrt().tolist()
    figures |= {f"grad_norm/{name}": value for name, value in zip(names, norms, strict=True)}
    figures |= {f"weight/{o.name}": weights[o.name] for o in objectives if o.schedule.type != "constant"}
    counted = {"graphs": len(step.graphs), "tokens": step.supervised, "tokens_forwarded": tokens}
    return figures | {name: float(value) for name, value in counted.items()} | {"seconds": time.perf_counter() - started}


def measure(training: Training, state: TrainState, checkpoints: Checkpoints, log: StepLog | None, *, last: bool = False) -> bool:
    """Measure the dev graphs where it is time to; keep the student where it is the best so far. Returns whether to stop."""
    dev = training.job.dev
    if dev is None or training.dev is None or not (last or state.step % dev.every_steps == 0):
        return False
    figures = measure_dev(training.engine, training.dev, recipe=training.job.recipe, train=training.job.train, exam=training.exam)
    best, stop = judge(state, figures.loss, dev.patience)
    state.dev_accuracy = figures.accuracy
    state.seconds += figures.seconds
    state.worker_seconds += figures.seconds * dist.get_world_size()
    if log is not None:
        log.dev(state.step, figures)
    if best and dev.student == "best":
        checkpoints.keep_best(gathered_state(training.engine, rank=dist.get_rank()), state)
    return stop


def stopped_early(job: Job, state: TrainState) -> bool:
    """Whether a training that is taken up again had already ended for want of progress."""
    return job.dev is not None and job.dev.patience is not None and state.without_gain >= job.dev.patience


def finish(training: Training, state: TrainState, checkpoints: Checkpoints) -> None:
    """Write the student: the last weights, or those with the lowest dev loss."""
    job, rank = training.job, dist.get_rank()
    weights = gathered_state(training.engine, rank=rank)
    if job.dev is not None and job.dev.student == "best" and state.best_step not in (None, state.step):
        weights = checkpoints.load_best(state)
        if rank == 0 and weights is None:
            raise EngineError(
                f"The best student (after step {state.best_step}) is no longer on storage. Run again with "
                "distil.dev.student: last, or from the beginning."
            )
    if weights is not None:
        with delivered(job.output) as directory:
            export_student(training.engine.module, training.units.tokenizer, directory, state=weights)
    dist.barrier()


def summary(training: Training, state: TrainState, losses: list[float], resumed: int) -> dict[str, Any]:
    """What was trained, on what, and what it cost: the facts of the student's manifest."""
    job, held = training.job, training.units.store.facts
    parameters = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in training.engine.module.parameters()]
    peaks: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(peaks, peak_memory())
    supervised = sum(step.supervised for step in training.steps[: state.step])
    cuda = training.engine.device != torch.device("cpu") and torch.cuda.is_available()
    facts = {
        "workers": dist.get_world_size(),
        "gpus": dist.get_world_size() if cuda else 0,
        "zero_stage": job.deepspeed.zero_stage,
        "packing": training.path,
        "steps": state.step,
        "planned_steps": len(training.steps),
        "resumed_at_step": resumed,
        "resumed": state.resumed,
        "stopped_early": state.step < len(training.steps),
        "graphs": held.graphs,
        "nodes": held.nodes,
        "supervised_tokens": supervised,
        "tokens_forwarded": state.tokens,
        "skipped_nodes": held.skipped_nodes,
        "skipped_graphs": held.skipped_graphs,
        "notes": held.notes,
        "parameters": sum(size for _, size in parameters),
        "trained_parameters": sum(size for trained, size in parameters if trained),
        "flops": spent_flops(
            training.engine.module.student.config,
            job.student.tuning,
            forwarded=state.tokens,
            supervised=supervised,
            gradient_checkpointing=job.train.gradient_checkpointing,
        ),
        "seconds": round(state.seconds, 1),
        "worker_seconds": round(state.worker_seconds, 1),
        "peak_memory": peaks,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }
    if job.dev is None:
        return facts
    measured = {name: getattr(state, name) for name in ("dev_loss", "dev_accuracy", "best_loss", "best_step")}
    return facts | measured | {"result": job.dev.student, "dev_graphs": held.dev.graphs if held.dev else 0}


def _count(state: TrainState, figures: dict[str, float], workers: int) -> None:
    state.step += 1
    state.seconds += figures["seconds"]
    state.worker_seconds += figures["seconds"] * workers
    state.tokens += int(figures["tokens_forwarded"])


class Clock:
    """When the next checkpoint is due: the same on every worker, whose clocks differ."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self.enabled = config.every_steps is not None or config.every_minutes is not None
        self.restart()

    def restart(self) -> None:
        """A checkpoint was made just now."""
        self.since = time.monotonic()

    def due(self, done: int, device: torch.device | str) -> bool:
        """Whether to keep the state after `done` steps. Collective where minutes count."""
        steps, minutes = self.config.every_steps, self.config.every_minutes
        if steps is not None and done % steps == 0:
            return True
        if minutes is None:
            return False
        late = torch.tensor(float(time.monotonic() - self.since >= 60 * minutes), device=device)
        dist.broadcast(late, src=0)
        return bool(late)

"""What is measured on the way, on questions that are not learned from: the loss, and how many the student answers rightly.

Collective: every worker calls `measure_dev` at the same step and gets the same figures, whatever the number of workers. Leaves
weights, optimiser, random draws and the mode of the modules as they were. Knows torch.distributed and DeepSpeed; knows no Ray.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from magdi_ray.agents.base import Message
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.config.distil import DevConfig, TrainConfig
from magdi_ray.config.recipes import RecipeConfig
from magdi_ray.debate.reading import split_confidence
from magdi_ray.distill.batch import Counts, GraphBatch
from magdi_ray.distill.job import TrainState
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.plan import GraphSize, Step, share
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question, Task

ROWS = 32
"""Questions a worker answers at a time, at most."""


class DevGraphs(Protocol):
    """The dev graphs, tokenised; the same on every worker."""

    @property
    def sizes(self) -> Sequence[GraphSize]:
        """One a graph."""
        ...

    def batch(self, graphs: Sequence[int]) -> GraphBatch:
        """The tensors of some graphs, by position in `sizes`."""
        ...


@dataclass(frozen=True, slots=True)
class DevExam:
    """What the student is asked, and how its answers are read."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    questions: tuple[Question, ...]
    """Each has a gold answer (see `choose_questions`); the same on every worker."""
    max_tokens: int
    """Of one answer."""


@dataclass(frozen=True, slots=True)
class DevFigures:
    """One measurement; the same on every worker."""

    loss: float
    """The weighted sum of the objectives, by their configured weights: a schedule would move it without any learning."""
    parts: dict[str, float]
    """Each objective's own mean, unweighted."""
    accuracy: float | None
    """Of the questions asked; None where none was."""
    answered: int
    """Questions asked."""
    unread: int
    """Of them, those whose reply held no answer that could be read; they count as wrong."""
    seconds: float


def choose_questions(questions: Sequence[Question], config: DevConfig, *, seed: int) -> tuple[Question, ...]:
    """The same `accuracy_questions` of them every time: the first by a hash of their id, among those with a gold answer."""
    known = [question for question in questions if question.gold is not None]
    order = sorted(known, key=lambda question: hashlib.sha256(f"{seed}/{question.id}".encode()).digest())
    return tuple(order[: config.accuracy_questions])


def measure_dev(
    engine: Any, graphs: DevGraphs, *, recipe: RecipeConfig, train: TrainConfig, exam: DevExam | None = None
) -> DevFigures:
    """Measure the student as it is; an `exam` without questions is none.

    Raises:
        ConfigError: there is no dev graph.
    """
    if not graphs.sizes:
        raise ConfigError(
            "distil.dev wants a measurement, but there is no dev graph that can be learned from. Let distil.dev.graphs hold some "
            "training graphs out, give the task dev questions that are debated, or leave distil.dev out."
        )
    started = time.perf_counter()
    was_training = engine.module.training  # DeepSpeed's own flag does not follow eval()
    engine.eval()
    try:
        with torch.no_grad():  # inference_mode would make what ZeRO-3 gathers useless to the next backward pass
            loss, parts = _loss(engine, graphs, recipe, train)
            right, unread = _answers(engine, exam) if exam and exam.questions else (0, 0)
    finally:
        engine.train(was_training)
    asked = len(exam.questions) if exam else 0
    return DevFigures(
        loss=loss,
        parts=parts,
        accuracy=right / asked if asked else None,
        answered=asked,
        unread=unread,
        seconds=time.perf_counter() - started,
    )


def judge(state: TrainState, loss: float, patience: int | None) -> tuple[bool, bool]:
    """Enter a dev loss measured after `state.step` steps. Returns whether it is the lowest so far, and whether to stop.

    A loss that is not a number is never the lowest. Measuring the best step again, as a resumed training does, changes nothing.
    """
    state.dev_loss = loss
    if state.best_step == state.step:
        return False, False
    best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    if best:
        state.best_loss, state.best_step, state.without_gain = loss, state.step, 0
    else:
        state.without_gain += 1
    return best, patience is not None and state.without_gain >= patience


def _loss(engine: Any, graphs: DevGraphs, recipe: RecipeConfig, train: TrainConfig) -> tuple[float, dict[str, float]]:
    """Means over all dev graphs: every share is divided by the counts of the whole, as in a training step."""
    rank, world = dist.get_rank(), dist.get_world_size()
    sizes = graphs.sizes
    whole = [sum(values) for values in zip(*((size.supervised, size.nodes, size.pairs) for size in sizes), strict=True)]
    counts = Counts(*(max(1, count) for count in whole))
    names = [objective.name for objective in recipe.objectives]
    sums = torch.zeros(1 + len(names), dtype=torch.float64)
    for portion in _portions(sizes, train.tokens_per_step):
        for hand in share(portion, sizes, workers=world, limit=train.tokens_per_micro_batch)[rank]:
            # A worker without graphs still takes part in the collective operations of ZeRO-3.
            batch = graphs.batch(hand or (0,)).to(engine.device)
            loss, parts = weighted_sum(engine(batch), batch, recipe.objectives, counts)
            if hand:
                sums += torch.tensor([float(loss), *(float(parts[name]) for name in names)], dtype=torch.float64)
    sums = sums.to(engine.device)
    dist.all_reduce(sums)
    return float(sums[0]), {name: float(value) for name, value in zip(names, sums[1:], strict=True)}


def _portions(sizes: Sequence[GraphSize], tokens: int) -> Iterator[Step]:
    """The graphs in order, about as many at a time as a training step holds: what fits there fits here."""
    taken: list[int] = []
    supervised = 0
    for graph, size in enumerate(sizes):
        taken.append(graph)
        supervised += size.supervised
        if supervised >= tokens or graph + 1 == len(sizes):
            yield Step(tuple(taken), supervised, 0, 0)  # `share` reads no counts
            taken, supervised = [], 0


def _answers(engine: Any, exam: DevExam) -> tuple[int, int]:
    """How many answers are right, and how many could not be read, over all workers."""
    rank, world = dist.get_rank(), dist.get_world_size()
    student = engine.module.student
    partitioned = engine.zero_optimization_stage() == 3
    asked = [(q, encode_prompt(exam.tokenizer, [Message("user", exam.task.prompt(q))])) for q in exam.questions]
    context = getattr(student.config.get_text_config(), "max_position_embeddings", None) or math.inf
    fitting = [(question, ids) for question, ids in asked if len(ids) < context]
    fitting.sort(key=lambda pair: len(pair[1]))  # neighbours are padded least
    right, unread = 0, len(asked) - len(fitting)
    if rank:  # what does not fit is counted once
        unread = 0
    with _greedy(student, exam.tokenizer) as settings:
        for hand in _hands(len(fitting), world=world, rank=rank):
            rows = [fitting[i] for i in hand]
            if not rows and not partitioned:
                continue
            # Under ZeRO-3 every worker has to pass through the model together: one without questions repeats another's.
            prompts = [ids for _, ids in rows or fitting[:1]]
            room = context - max(map(len, prompts))
            replies = _generate(student, prompts, settings, int(min(exam.max_tokens, room)), engine.device, partitioned)
            for (question, _), ids in zip(rows, replies, strict=False):
                text = split_confidence(exam.tokenizer.decode(ids, skip_special_tokens=True)).text
                answer = exam.task.extract(question, text)
                unread += answer is None
                right += exam.task.same(answer, question.gold)
    totals = torch.tensor([right, unread], dtype=torch.long, device=engine.device)
    dist.all_reduce(totals)
    return int(totals[0]), int(totals[1])


def _hands(count: int, *, world: int, rank: int) -> list[range]:
    """Positions of what one worker answers, a batch each; as many batches on every worker, the last perhaps empty."""
    rows = max(1, min(ROWS, math.ceil(count / world)))
    starts = range(0, count, rows)
    batches = [range(start, min(start + rows, count)) for start in starts]
    batches += [range(0)] * (-len(batches) % world)
    return batches[rank::world]


def _generate(
    student: Any, prompts: Sequence[list[int]], settings: GenerationConfig, max_tokens: int, device: Any, synced: bool
) -> list[list[int]]:
    """What the student writes to each prompt, greedily; padded on the left, so that every next token is in the last column."""
    width = max(map(len, prompts))
    pad = settings.pad_token_id
    input_ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
    attention_mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    settings.max_new_tokens = max_tokens
    written: Tensor = student.generate(
        input_ids=input_ids_BT, attention_mask=attention_mask_BT, generation_config=settings, synced_gpus=synced
    )
    ends = set(settings.eos_token_id)
    replies: list[list[int]] = []
    for row in written[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        replies.append(row[:end])
    return replies


@contextmanager
def _greedy(student: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[GenerationConfig]:
    """Greedy settings, and nothing of the model's own but the ids of its special tokens, for as long as the student answers.

    What `generate` is not told, it takes from the model's own settings (a penalty, a temperature), so those step aside, too; they
    are exported with the student and have to come back.
    """
    causal = student.get_base_model() if hasattr(student, "get_base_model") else student
    holders = [student] if causal is student else [student, causal]
    own = [holder.generation_config for holder in holders]
    known = own[-1].eos_token_id
    ends = {*(known if isinstance(known, list) else [known]), tokenizer.eos_token_id} - {None}
    pads = [own[-1].pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id]
    settings = GenerationConfig(
        do_sample=False,
        use_cache=True,
        disable_compile=True,
        bos_token_id=own[-1].bos_token_id,
        eos_token_id=sorted(ends),
        pad_token_id=next(token for token in pads if token is not None),
    )
    try:
        for holder in holders:
            holder.generation_config = settings
        yield settings
    finally:
        for holder, before in zip(holders, own, strict=True):
            holder.generation_config = before

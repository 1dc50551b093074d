"""DeepSpeed over two gloo ranks, without Ray: ZeRO 0 = 1 = 2 = 3 and one rank = two, on packed rows with the chunked head."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from magdi_ray.config.distil import DeepSpeedConfig, LoraTuning, TrainConfig
from magdi_ray.config.recipes import Interaction, RecipeConfig, resolve_recipe
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.student import DistillModel, add_lora, decoder_of
from magdi_ray.distill.zero import build_engine, gathered_state

from .test_packing import GRAPHS, SHAPE

pytestmark = pytest.mark.cluster

STEPS = 6
HANDS = (GRAPHS, GRAPHS[1::-1])
"""What each of two ranks holds; one rank takes both, one after the other."""


@dataclass(frozen=True)
class Student:
    """What is trained."""

    targets: tuple[str, ...] = ()
    """Of LoRA; none: full tuning."""
    tied: bool = False
    checkpointing: bool = False


STUDENTS = {
    "full": Student(),
    "full, tied head": Student(tied=True),
    "full, checkpointing": Student(checkpointing=True),
    "lora": Student(("q_proj", "v_proj")),
    "lora, checkpointing": Student(("q_proj", "v_proj"), checkpointing=True),
    "lora on the head": Student(("q_proj", "lm_head")),
}


def recipe() -> RecipeConfig:
    """Level 4 without dropout, so that ranks draw nothing at random."""
    chosen = resolve_recipe("level4")
    objectives = (o.model_copy(update={"dropout": 0.0}) if isinstance(o, Interaction) else o for o in chosen.objectives)
    return chosen.model_copy(update={"objectives": tuple(objectives)})


def model_of(student: Student) -> DistillModel:
    torch.manual_seed(0)
    causal: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=student.tied))
    if student.checkpointing:
        causal.gradient_checkpointing_enable()
        causal.enable_input_require_grads()
    if student.targets:
        causal = add_lora(causal, LoraTuning(type="lora", r=4, dropout=0.0, target_modules=student.targets))
    prepare_attention(decoder_of(causal), "auto", device="cpu")
    return DistillModel(causal, recipe())


def train(student: Student, stage: Any, rank: int, world: int) -> tuple[list[float], dict[str, Tensor] | None]:
    """A few steps: the loss of each, and the weights on rank 0."""
    config = TrainConfig(max_steps=STEPS, learning_rate=1e-2, warmup_steps=1)
    engine = build_engine(model_of(student), config, deepspeed=DeepSpeedConfig(zero_stage=stage), steps=STEPS)
    whole = [collate(hand, pad_id=0, packed=True) for hand in HANDS]
    sizes = [(len(batch.targets_M), len(batch.correct_N), batch.pairs_2P.shape[1]) for batch in whole]
    counts = Counts(*(sum(part) for part in zip(*sizes, strict=True)))
    mine = whole if world == 1 else [whole[rank]]
    losses: list[float] = []
    for _ in range(STEPS):
        total = torch.zeros(())
        for number, batch in enumerate(mine):
            engine.set_gradient_accumulation_boundary(number == len(mine) - 1)
            loss, _ = weighted_sum(engine(batch), batch, recipe().objectives, counts)
            engine.backward(loss * world)
            engine.step()
            total += loss.detach()
        dist.all_reduce(total)
        losses.append(float(total))
    return losses, gathered_state(engine, rank=rank)


def work(rank: int, world: int, port: int, directory: Path) -> None:
    """One rank: every student under every stage, in one process because starting takes longest."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "CUDA_VISIBLE_DEVICES": ""}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    results = {
        (name, world, stage): train(student, stage, rank, world)
        for name, student in STUDENTS.items()
        for stage in ((0, 1, 2, 3) if world > 1 else (0,))
    }
    if rank == 0:
        torch.save(results, directory / f"{world}.pt")
    dist.barrier()
    dist.destroy_process_group()


Results = dict[tuple[str, int, int], tuple[list[float], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """(student, ranks, stage) -> losses and weights."""
    directory = tmp_path_factory.mktemp("zero")
    found: Results = {}
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(work, (world, port, directory), nprocs=world)
        found |= torch.load(directory / f"{world}.pt")
    return found


def assert_equal(results: Results, one: tuple[str, int, int], other: tuple[str, int, int]) -> None:
    (losses, weights), (expected, theirs) = results[one], results[other]
    assert losses == pytest.approx(expected, abs=1e-5)
    assert losses[-1] < losses[0] - 0.5
    assert weights.keys() == theirs.keys()
    for name, weight in weights.items():
        # AdamW divides by the gradient's size, so a weight of almost no gradient moves by its rounding.
        torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_gives_the_losses_and_weights_of_stage_0(results: Results, student: str, stage: int) -> None:
    assert_equal(results, (student, 2, stage), (student, 2, 0))


@pytest.mark.parametrize("student", STUDENTS)
def test_two_ranks_give_the_losses_and_weights_of_one(results: Results, student: str) -> None:
    assert_equal(results, (student, 2, 0), (student, 1, 0))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_gradient_checkpointing_changes_nothing(results: Results, tuning: str) -> None:
    assert_equal(results, (f"{tuning}, checkpointing", 2, 3), (tuning, 2, 3))

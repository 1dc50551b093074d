"""DeepSpeed over two gloo ranks, without Ray: ZeRO 0 = 1 = 2 = 3 and one rank = two, on packed rows with the chunked head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from magdi_ray.config.distil import DeepSpeedConfig, LoraTuning, TrainConfig
from magdi_ray.config.recipes import Interaction, Preference, RecipeConfig, resolve_recipe
from magdi_ray.distill import head, zero
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, GraphBatch, collate
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.student import DistillModel, add_lora, decoder_of
from magdi_ray.distill.zero import build_engine, deepspeed_settings, gathered_state, parameter_groups

from .ranks import start
from .test_packing import GRAPHS, SHAPE

STEPS = 4
RATE = 1e-2
HANDS = (GRAPHS, GRAPHS[:1])
"""What each of two ranks holds; one rank takes both, one after the other."""


@dataclass(frozen=True)
class Student:
    """What is trained, and how."""

    targets: tuple[str, ...] = ()
    """Of LoRA; none: full tuning."""
    tied: bool = False
    checkpointing: bool = False
    preference: bool = False
    heads_rate: float | None = None
    bf16: bool = False
    setups: tuple[str, ...] = ("0", "3")
    """On two ranks."""


STUDENTS = {
    "full": Student(setups=("0", "1", "2", "3", "2, offloaded", "3, offloaded")),
    "full, tied head": Student(tied=True, setups=("0", "2", "3")),
    "full, checkpointing": Student(checkpointing=True),
    "lora": Student(("q_proj", "v_proj"), setups=("0", "1", "2", "3", "2, offloaded", "3, offloaded")),
    "lora, checkpointing": Student(("q_proj", "v_proj"), checkpointing=True),
    "lora on the head": Student(("q_proj", "lm_head"), setups=("0", "2", "3")),
    "preference": Student(preference=True, setups=("0", "1", "2", "3")),
    "preference, tied head": Student(preference=True, tied=True),
    "preference, lora": Student(("q_proj", "v_proj"), preference=True),
    "preference, lora on the head": Student(("q_proj", "lm_head"), preference=True),
    "heads at another rate": Student(heads_rate=RATE / 10, setups=("0", "1", "2", "3")),
}
HALF = {"bf16": Student(bf16=True, setups=("0", "2", "3"))}
SETUPS = {
    **{str(stage): DeepSpeedConfig(zero_stage=stage) for stage in (0, 1, 2, 3)},  # type: ignore[arg-type]
    "2, offloaded": DeepSpeedConfig(zero_stage=2, offload_optimizer="cpu"),
    "3, offloaded": DeepSpeedConfig(zero_stage=3, offload_optimizer="cpu", offload_param="cpu"),
}
SPREAD = [(name, setup) for name, student in STUDENTS.items() for setup in student.setups[1:]]


def recipe(student: Student) -> RecipeConfig:
    """Level 4 without dropout, so that ranks draw nothing at random."""
    chosen = resolve_recipe("level4")
    objectives = tuple(o.model_copy(update={"dropout": 0.0}) if isinstance(o, Interaction) else o for o in chosen.objectives)
    extra = (Preference(name="preference"),) if student.preference else ()
    return chosen.model_copy(update={"objectives": (*objectives, *extra)})


def model_of(student: Student) -> DistillModel:
    torch.manual_seed(0)
    causal: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=student.tied))
    if student.checkpointing:
        causal.gradient_checkpointing_enable()
        causal.enable_input_require_grads()
    if student.targets:
        causal = add_lora(causal, LoraTuning(type="lora", r=4, dropout=0.0, target_modules=student.targets))
    prepare_attention(decoder_of(causal), "auto", device="cpu")
    return DistillModel(causal, recipe(student))


class Trained(NamedTuple):
    """What must not depend on how the work is spread."""

    losses: list[float]
    """Of each step."""
    norms: dict[str, float]
    """Of each objective's gradient, at the first step."""
    weights: dict[str, Tensor]
    rates: list[float]


def batches(engine: Any, student: Student, hands: Any) -> list[GraphBatch]:
    """What one rank holds, with the untrained student's log-probabilities."""
    held: list[GraphBatch] = []
    engine.eval()
    for hand in hands:
        batch = collate(hand, pad_id=0, packed=True, replies=student.preference)
        held.append(replace(batch, reference_N=engine.module.reference(batch)[1]))
    engine.train()
    return held


def train(student: Student, setup: str, rank: int, world: int) -> Trained:
    """A few steps; the weights are whole on rank 0 only."""
    config = TrainConfig(
        max_steps=STEPS, learning_rate=RATE, heads_learning_rate=student.heads_rate, warmup_steps=1, bf16=student.bf16
    )
    engine = build_engine(model_of(student), config, deepspeed=SETUPS[setup], steps=STEPS)
    whole = [collate(hand, pad_id=0) for hand in HANDS]
    sizes = [(len(batch.targets_M), len(batch.correct_N), batch.pairs_2P.shape[1]) for batch in whole]
    counts = Counts(*(sum(part) for part in zip(*sizes, strict=True)))
    mine = batches(engine, student, HANDS if world == 1 else [HANDS[rank]])
    losses: list[float] = []
    norms: dict[str, float] = {}
    for _ in range(STEPS):
        total = torch.zeros(())
        for number, batch in enumerate(mine):
            engine.set_gradient_accumulation_boundary(number == len(mine) - 1)
            loss, _ = weighted_sum(engine(batch), batch, recipe(student).objectives, counts)
            engine.backward(loss * world)
            engine.step()
            total += loss.detach()
        squares = engine.module.gradient_squares()
        for square in (total, *squares.values()):
            dist.all_reduce(square)
        norms = norms or {name: float(square.sqrt()) / world for name, square in squares.items()}
        losses.append(float(total))
    return Trained(losses, norms, gathered_state(engine, rank=rank) or {}, engine.get_lr())


def work(rank: int, world: int, directory: Path) -> None:
    """One rank: every student under every setup, in one process because starting takes longest."""
    head.CHUNK = 5  # several chunks, and not equally many on both ranks
    zero.deepspeed_settings = cut_up
    results = {
        (name, world, setup): tuple(train(student, setup, rank, world))
        for name, student in (STUDENTS | HALF).items()
        for setup in (student.setups if world > 1 else ("0",))
    }
    if rank == 0:
        torch.save(results, directory / f"{world}.pt")


def cut_up(config: DeepSpeedConfig, train: TrainConfig) -> dict[str, Any]:
    """Settings under which ZeRO-3 leaves no weight whole, as it would weights as small as these."""
    settings = deepspeed_settings(config, train)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


Results = dict[tuple[str, int, str], Trained]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """(student, ranks, setup) -> what came of it."""
    directory = tmp_path_factory.mktemp("zero")
    found: Results = {}
    for world in (1, 2):
        start(work, world, directory)
        found |= {key: Trained(*values) for key, values in torch.load(directory / f"{world}.pt").items()}
    return found


def assert_equal(results: Results, one: tuple[str, int, str], other: tuple[str, int, str]) -> None:
    found, expected = results[one], results[other]
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert found.losses[-1] < found.losses[0] - 0.5
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in found.weights.items():
        # AdamW divides by the gradient's size, so a weight of almost no gradient moves by its rounding.
        torch.testing.assert_close(weight, expected.weights[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("student", "setup"), SPREAD)
def test_every_zero_stage_and_offloading_give_the_losses_and_weights_of_stage_0(
    results: Results, student: str, setup: str
) -> None:
    assert_equal(results, (student, 2, setup), (student, 2, "0"))


@pytest.mark.parametrize("student", STUDENTS)
def test_two_ranks_give_the_losses_and_weights_of_one(results: Results, student: str) -> None:
    assert_equal(results, (student, 2, "0"), (student, 1, "0"))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_gradient_checkpointing_changes_nothing(results: Results, tuning: str) -> None:
    assert_equal(results, (f"{tuning}, checkpointing", 2, "3"), (tuning, 2, "3"))


def test_every_objective_has_a_gradient_norm_of_its_own(results: Results) -> None:
    norms = results["preference", 2, "3"].norms
    assert norms.keys() == {"next_token", "interaction", "contrast", "preference"}
    assert len({round(norm, 6) for norm in norms.values()}) == 4
    assert min(norms.values()) > 1e-4


@pytest.mark.parametrize("setup", ["0", "2", "3"])
def test_bfloat16_trains_along_the_losses_of_float32(results: Results, setup: str) -> None:
    half, full = results["bf16", 2, setup].losses, results["full", 2, "0"].losses
    assert half[-1] < half[0] - 0.5
    assert half[0] == pytest.approx(full[0], rel=0.01)
    assert half == pytest.approx(full, rel=0.1)
    assert half != pytest.approx(full, rel=1e-5)
    assert half == pytest.approx(results["bf16", 2, "2"].losses, rel=0.01)


@pytest.mark.parametrize("setup", ["0", "1", "2", "3"])
def test_heads_move_at_their_own_rate_and_the_student_at_its_own(results: Results, setup: str) -> None:
    slow, even = results["heads at another rate", 2, setup], results["full", 2, setup]
    assert slow.rates[0] == even.rates[0] == pytest.approx(10 * slow.rates[1])
    start = dict(model_of(Student()).named_parameters())
    for name, part in (("scorer.layers.0.weight", 10.0), ("student.lm_head.weight", 1.0)):
        ways = [float((run.weights[name] - start[name]).norm()) for run in (even, slow)]
        assert ways[0] / ways[1] == pytest.approx(part, rel=0.5), name


def test_without_a_rate_for_the_heads_there_is_one_group_and_without_heads_too() -> None:
    with_rate = TrainConfig(max_steps=1, heads_learning_rate=1e-3)
    heads, no_heads = model_of(Student()), DistillModel(model_of(Student()).student, resolve_recipe("level2"))
    groups = [parameter_groups(model, train) for model, train in ((heads, TrainConfig(max_steps=1)), (no_heads, with_rate))]
    assert [len(found) for found in groups] == [1, 1]
    student, others = parameter_groups(heads, with_rate)
    assert {id(p) for p in student["params"]} == {id(p) for p in heads.student.parameters()}
    assert len(student["params"]) + len(others["params"]) == len(list(heads.parameters()))

"""A training saved under one number of ranks and ZeRO stage goes on under another as if nothing had happened. Without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from magdi_ray.config.distil import DeepSpeedConfig, TrainConfig
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.checkpoint.masters import masters_of
from magdi_ray.distill.checkpoint.state import INDEX, is_whole, load_state, load_tensors, save_state, save_tensors
from magdi_ray.distill.job import TrainState
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.zero import build_engine, gathered_state
from magdi_ray.errors import EngineError

from .ranks import start
from .test_zero import HANDS, STUDENTS, model_of, recipe

STEPS, SAVED = 6, 3
BF16 = "bf16"
LEFT = {"full, tied head": ((1, 0), (2, 0), (2, 2), (2, 3)), "lora": ((1, 0), (2, 0), (2, 3)), BF16: ((2, 2),)}
"""Student -> the (ranks, stage) it is saved under."""
OFFLOADED = 12
"""Stage 2 with the optimiser on the CPU."""
MOVES = [
    ("full, tied head", (2, 0), (2, 3)),
    ("full, tied head", (2, 3), (2, 0)),
    ("full, tied head", (2, 2), (2, 1)),
    ("full, tied head", (2, 2), (2, OFFLOADED)),
    ("full, tied head", (2, 2), (1, 0)),
    ("full, tied head", (2, 3), (1, 2)),
    ("full, tied head", (1, 0), (2, 2)),
    ("lora", (2, 0), (2, 3)),
    ("lora", (2, 3), (1, 0)),
    ("lora", (1, 0), (2, 3)),
    (BF16, (2, 2), (2, 2)),
    (BF16, (2, 2), (2, 3)),
    (BF16, (2, 2), (2, 0)),
    (BF16, (2, 2), (1, 2)),
]


@dataclass(frozen=True)
class Curve:
    """What a training leaves."""

    losses: list[float]
    restored: dict[str, Tensor] | None
    """Weights after loading, before any step."""
    weights: dict[str, Tensor] | None


def engine_of(student: str, stage: int) -> Any:
    model = model_of(STUDENTS["full" if student == BF16 else student])
    config = TrainConfig(max_steps=STEPS, learning_rate=1e-2, warmup_steps=1, bf16=student == BF16)
    offload = "cpu" if stage == OFFLOADED else "none"
    deepspeed = DeepSpeedConfig(zero_stage=stage % 10, offload_optimizer=offload)
    return build_engine(model.bfloat16() if student == BF16 else model, config, deepspeed=deepspeed, steps=STEPS)


def go_on(engine: Any, start: int, rank: int, world: int, save: Path | None = None, sabotage: Callable | None = None) -> Curve:
    """Train from a step to the end; `save` is where the state goes after `SAVED` steps, in files of about 20 kB."""
    if sabotage:
        sabotage(engine)
    restored = gathered_state(engine, rank=rank)
    whole = [collate(hand, pad_id=0, packed=True) for hand in HANDS]
    sizes = [(len(batch.targets_M), len(batch.correct_N), batch.pairs_2P.shape[1]) for batch in whole]
    counts = Counts(*(sum(part) for part in zip(*sizes, strict=True)))
    mine = whole if world == 1 else [whole[rank]]
    losses: list[float] = []
    for step in range(start, STEPS):
        total = torch.zeros(())
        for number, batch in enumerate(mine):
            engine.set_gradient_accumulation_boundary(number == len(mine) - 1)
            loss, _ = weighted_sum(engine(batch), batch, recipe(STUDENTS["full"]).objectives, counts)
            engine.backward(loss * world)
            engine.step()
            total += loss.detach()
        dist.all_reduce(total)
        losses.append(float(total))
        if save is not None and step + 1 == SAVED:
            save_state(engine, save / f"of-{rank}", TrainState(step=SAVED, tokens=7), limit=20_000)
            merge(save, rank)
    return Curve(losses, restored, gathered_state(engine, rank=rank))


def merge(save: Path, rank: int) -> None:
    """What an upload does: the files of all ranks in one directory, in any order."""
    (save / "merged").mkdir(exist_ok=True)
    for path in sorted((save / f"of-{rank}").iterdir()):
        path.rename(save / "merged" / path.name)
    dist.barrier()


def forget_moments(engine: Any) -> None:
    """Negative control."""
    masters = masters_of(engine)
    for parameter in engine.module.parameters():
        masters.write(parameter, "exp_avg", torch.zeros_like(parameter))
        masters.write(parameter, "exp_avg_sq", torch.zeros_like(parameter))


def forget_counters(engine: Any) -> None:
    """Negative control."""
    masters_of(engine).write_steps(dict.fromkeys(engine.module.parameters(), 0))


def forget_schedule(engine: Any) -> None:
    """Negative control."""
    for group in engine.lr_scheduler.optimizer.param_groups:
        group["lr"] = 1e-2


SABOTAGE = {"moments": forget_moments, "counters": forget_counters, "learning rate": forget_schedule}


def work(rank: int, world: int, directory: Path) -> None:
    """One rank. The group of one and the group of two run at the same time and wait for each other's checkpoints."""
    results: dict[Any, Any] = {}
    for student, lefts in LEFT.items():
        for ranks, stage in lefts:
            if ranks == world:
                save = directory / f"{student}-{ranks}-{stage}"
                save.mkdir(exist_ok=True)
                results[student, (ranks, stage)] = go_on(engine_of(student, stage), 0, rank, world, save)

    def resumed(student: str, source: tuple[int, int], stage: int, sabotage: Callable | None = None) -> Curve:
        merged = directory / f"{student}-{source[0]}-{source[1]}" / "merged"
        while not is_whole(merged):
            time.sleep(0.2)
        engine = engine_of(student, stage)
        state = load_state(engine, merged)
        assert (state.step, state.tokens) == (SAVED, 7)
        return go_on(engine, state.step, rank, world, sabotage=sabotage)

    for student, source, (ranks, stage) in MOVES:
        if ranks == world:
            results[student, source, (ranks, stage)] = resumed(student, source, stage)
    if world == 1:
        results |= {name: resumed("full, tied head", (1, 0), 0, sabotage) for name, sabotage in SABOTAGE.items()}
        with pytest.raises(EngineError) as refused:
            load_state(engine_of("lora", 0), directory / "full, tied head-1-0" / "merged")
        results["another model"] = str(refused.value)
    if rank == 0:
        torch.save(results, directory / f"{world}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Whole trainings by (student, where), continued ones by (student, saved where, continued where)."""
    directory = tmp_path_factory.mktemp("checkpoints")
    groups = [start(work, world, directory, join=False) for world in (1, 2)]
    for group in groups:
        while not group.join():
            pass
    return {key: value for world in (1, 2) for key, value in torch.load(directory / f"{world}.pt", weights_only=False).items()}


@pytest.mark.parametrize(("student", "source", "target"), MOVES)
def test_a_training_goes_on_elsewhere_as_if_undisturbed(results, student, source, target) -> None:
    whole, rest = results[student, source], results[student, source, target]
    loose = student == BF16  # ranks and stages round bfloat16 gradients differently
    assert rest.losses == pytest.approx(whole.losses[SAVED:], abs=2e-2 if loose else 1e-5)
    assert abs(rest.losses[-1] - whole.losses[SAVED - 1]) > 0.05
    for name, weight in rest.weights.items():
        torch.testing.assert_close(weight, whole.weights[name], atol=3e-2 if loose else 1e-4, rtol=0)


def test_bfloat16_weights_come_from_the_masters_bit_by_bit(results) -> None:
    restored = [results[BF16, (2, 2), target].restored for target in ((2, 2), (2, 3), (2, 0), (1, 2))]
    for name, weight in restored[0].items():
        assert all(torch.equal(weight, other[name]) for other in restored)
    rest, whole = results[BF16, (2, 2), (2, 2)], results[BF16, (2, 2)]
    assert rest.losses == whole.losses[SAVED:]


@pytest.mark.parametrize("forgotten", SABOTAGE)
def test_forgetting_any_part_of_the_optimiser_changes_the_curve(results, forgotten) -> None:
    whole, rest = results["full, tied head", (1, 0)], results[forgotten]
    assert max(abs(a - b) for a, b in zip(rest.losses, whole.losses[SAVED:], strict=True)) > 1e-3


def test_a_checkpoint_of_another_model_is_refused(results) -> None:
    assert "is of another model" in results["another model"]


def test_tensors_are_spread_over_files_of_bounded_size_and_read_back(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(10, 10) for i in range(7)}
    save_tensors(tmp_path, tensors, limit=1000)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    found = load_tensors(tmp_path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("damage", ["missing file", "cut file", "cut index", "no index"])
def test_a_half_copy_is_recognised(tmp_path: Path, damage: str) -> None:
    save_tensors(tmp_path, {"a": torch.ones(9), "b": torch.ones(9)}, limit=40)
    assert is_whole(tmp_path)
    name = INDEX if "index" in damage else "tensors-00001.safetensors"
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if "cut" in damage:
        (tmp_path / name).write_bytes(content[:-3])
    assert not is_whole(tmp_path)
    with pytest.raises(EngineError, match="whole checkpoint"):
        load_tensors(tmp_path)


def test_an_absent_directory_is_no_checkpoint(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "nowhere")

"""DeepSpeed, configured from typed fields: nothing is tuned in a second file. Imports deepspeed only when an engine is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from magdi_ray.config.distil import DeepSpeedConfig, TrainConfig

SHARED_MEMORY_OP = "deepspeed_shm_comm"


def deepspeed_settings(config: DeepSpeedConfig, train: TrainConfig) -> dict[str, Any]:
    """The dictionary DeepSpeed wants. Accumulation is ours (steps are counted in tokens), so its own is 1."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": config.offload_optimizer}
    if config.offload_param != "none":
        zero["offload_param"] = {"device": config.offload_param}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": train.bf16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def learning_rate_factor(train: TrainConfig, steps: int) -> Callable[[int], float]:
    """Step (0-based) -> share of the learning rate: linear warm-up, then constant, linear or cosine decay."""

    def factor(step: int) -> float:
        if step < train.warmup_steps:
            return (step + 1) / train.warmup_steps
        if train.lr_scheduler_type == "constant":
            return 1.0
        progress = min(1.0, (step - train.warmup_steps) / max(1, steps - train.warmup_steps))
        decay = 1.0 - progress if train.lr_scheduler_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return train.min_lr_ratio + (1.0 - train.min_lr_ratio) * decay

    return factor


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """What is trained, for an optimizer: the student, and the heads in a second group where they learn at a rate of their own."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if train.heads_learning_rate is None:
        return [{"params": [parameter for _, parameter in trained]}]
    student = [parameter for name, parameter in trained if name.startswith("student.")]
    heads = [parameter for name, parameter in trained if not name.startswith("student.")]
    groups: list[dict[str, Any]] = [{"params": student}, {"params": heads, "lr": train.heads_learning_rate}]
    return [group for group in groups if group["params"]]


def build_engine(model: nn.Module, train: TrainConfig, *, deepspeed: DeepSpeedConfig, steps: int) -> Any:
    """A DeepSpeed engine around the model, with AdamW and the schedule. torch.distributed must be initialised."""
    import deepspeed as ds

    # DeepSpeed would compile a shared-memory collective of its own for CPUs: that takes a compiler and most of a minute in every
    # new environment, and gloo does the same.
    ds.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    for module in model.modules():
        for borrowed in getattr(module, "borrowed", tuple)():
            ds.zero.register_external_parameter(module, borrowed)  # else ZeRO-3 would leave it empty there
    groups = parameter_groups(model, train)
    optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.adam_betas, weight_decay=train.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(train, steps))
    engine, *_ = ds.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_settings(deepspeed, train),
        dist_init_required=False,
    )
    if train.bf16 and deepspeed.zero_stage == 0:
        _undo_first_step(engine.optimizer)
    return engine


def _undo_first_step(optimizer: Any) -> None:
    """Take back the step without gradients by which DeepSpeed's optimizer for bfloat16 without ZeRO makes its state.

    Left in, Adam would correct for one step more than it has seen, and the first steps would be a quarter smaller.
    """
    for state in optimizer.optimizer.state.values():
        state["step"].zero_()
    for halves, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for half, master in zip(halves, masters, strict=True):
            master.data.copy_(half.data)


def gathered_state(engine: Any, *, rank: int) -> dict[str, Tensor] | None:
    """The trained weights on rank 0, None elsewhere. Every rank must call it: under ZeRO-3 gathering is collective.

    Weights are gathered one at a time, so that no GPU ever holds the whole model; the frozen ones under LoRA are left out.
    """
    import deepspeed as ds

    state: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        with ds.zero.GatheredParameters([parameter]):  # does nothing below ZeRO-3
            if rank == 0:
                state[name] = parameter.detach().cpu().clone()
    return state if rank == 0 else None


def gradient_norm(engine: Any) -> float | None:
    """Norm of the whole gradient before clipping. DeepSpeed keeps it from ZeRO-1 on; without ZeRO it is taken here.

    To be called between `backward` at the step's last micro-batch and `step`; None where DeepSpeed computes it in `step`.
    """
    if engine.zero_optimization_stage() > 0:
        return None
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    # In float32: bfloat16 would leave two digits of the sum.
    return float(torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]).norm())

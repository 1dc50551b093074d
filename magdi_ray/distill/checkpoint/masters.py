"""AdamW's float32 view of each parameter (master weight, two moments, step counter), wherever DeepSpeed keeps it.

Stage 0 keeps it whole on every rank; stages 1 and 2 keep a slice of one flat vector of all parameters on each rank; stage 3 keeps
an equal slice of every parameter on each rank. One class each, with the same methods. Knows nothing of files.

A moment that no step has made yet is made here as zeros with a step counter of 0, as `torch.optim.AdamW` itself does at its first
step. (A step at learning rate 0 would do too, but it needs gradients that a fresh engine does not have.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class Masters(Protocol):
    """The float32 state of an engine's trained parameters. `kind` is "weight" or one of `MOMENTS`."""

    def read(self, parameter: nn.Parameter, kind: str, *, owner: int) -> Tensor:
        """The whole float32 tensor, at least on rank `owner`; elsewhere of no use. Collective."""
        ...

    def keeps(self, parameter: nn.Parameter) -> bool:
        """Whether this rank holds any of it, and so must be given it."""
        ...

    def write(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Set it from the whole tensor, the same on all ranks."""
        ...

    def read_step(self, parameter: nn.Parameter) -> int:
        """Steps the optimiser has taken with it."""
        ...

    def write_steps(self, steps: Mapping[nn.Parameter, int]) -> None:
        """Set the counters; Adam's bias correction depends on them."""
        ...

    def refresh(self) -> None:
        """Bring the weights the model computes with in line with the masters. Collective."""
        ...


def masters_of(engine: Any) -> Masters:
    """The float32 state of a DeepSpeed engine that was built with `torch.optim.AdamW`."""
    stage = engine.zero_optimization_stage()
    kind = WholeMasters if stage == 0 else SplitMasters if stage == 3 else FlatMasters
    return kind(engine.optimizer)


def trained_shape(parameter: nn.Parameter) -> torch.Size:
    """The whole shape; under ZeRO-3 the parameter itself is empty between its uses."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _awaken(optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor]) -> None:
    """Make AdamW's state where no step has made it."""
    for tensor in tensors:
        if not optimizer.state[tensor]:
            moments = {kind: torch.zeros_like(tensor, memory_format=torch.preserve_format) for kind in MOMENTS}
            optimizer.state[tensor].update(step=torch.tensor(0.0), **moments)


class WholeMasters:
    """Stage 0: AdamW works on the parameters themselves or, in bfloat16, on float32 copies of them."""

    def __init__(self, optimizer: Any) -> None:
        self.base = getattr(optimizer, "optimizer", optimizer)
        low = getattr(optimizer, "fp16_groups", [group["params"] for group in self.base.param_groups])
        high = [group["params"] for group in self.base.param_groups]
        self.pairs = {p: m for ps, ms in zip(low, high, strict=True) for p, m in zip(ps, ms, strict=True)}
        _awaken(self.base, self.pairs.values())

    def _tensor(self, parameter: nn.Parameter, kind: str) -> Tensor:
        master = self.pairs[parameter]
        return master if kind == "weight" else self.base.state[master][kind]

    def read(self, parameter: nn.Parameter, kind: str, *, owner: int) -> Tensor:  # noqa: ARG002 - one signature a family
        """Every rank has it whole."""
        return self._tensor(parameter, kind).detach()

    def keeps(self, parameter: nn.Parameter) -> bool:  # noqa: ARG002 - one signature a family
        """Always."""
        return True

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Copied in place."""
        self._tensor(parameter, kind).copy_(value)

    def read_step(self, parameter: nn.Parameter) -> int:
        """A parameter has a counter of its own."""
        return int(self.base.state[self.pairs[parameter]]["step"])

    def write_steps(self, steps: Mapping[nn.Parameter, int]) -> None:
        """Each its own."""
        for parameter, step in steps.items():
            self.base.state[self.pairs[parameter]]["step"].fill_(step)

    @torch.no_grad()
    def refresh(self) -> None:
        """In float32 master and weight are one tensor."""
        for parameter, master in self.pairs.items():
            if parameter is not master:
                parameter.copy_(master)


class _Partitioned:
    """What stages 1 to 3 share: AdamW works on flat partitions, so counters belong to partitions."""

    def __init__(self, optimizer: Any, flats: list[Tensor]) -> None:
        self.optimizer, self.flats = optimizer, flats
        _awaken(optimizer.optimizer, flats)

    def read_step(self, parameter: nn.Parameter) -> int:  # noqa: ARG002 - one signature a family
        """All partitions have taken the same steps."""
        return max(int(self.optimizer.optimizer.state[flat]["step"]) for flat in self.flats)

    def write_steps(self, steps: Mapping[nn.Parameter, int]) -> None:
        """The most of any parameter: one that got no gradient yet has moments of zero."""
        for flat in self.flats:
            self.optimizer.optimizer.state[flat]["step"].fill_(max(steps.values()))


class FlatMasters(_Partitioned):
    """Stages 1 and 2, with or without the optimiser on the CPU: through DeepSpeed's access to full tensors."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer, [group["params"][0] for group in optimizer.optimizer.param_groups])
        # DeepSpeed ties its parameters to the moments after its first step; here they are needed before it. Does nothing later.
        optimizer._lazy_init_hp_params_optimizer_state()

    def read(self, parameter: nn.Parameter, kind: str, *, owner: int) -> Tensor:  # noqa: ARG002 - one signature a family
        """Summed over ranks of which each fills in its part."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        return safe_get_full_fp32_param(parameter) if kind == "weight" else safe_get_full_optimizer_state(parameter, kind)

    def keeps(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter reaches into this rank's partition."""
        return parameter._hp_mapping is not None  # type: ignore[attr-defined]

    def write(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """DeepSpeed takes this rank's part of it."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if kind == "weight":
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)

    def refresh(self) -> None:
        """As DeepSpeed does after each step."""
        self.optimizer.update_lp_params()


class SplitMasters(_Partitioned):
    """Stage 3, with or without offload: by this rank's slice of each parameter.

    DeepSpeed's setters for full tensors do not pad, and fail where a parameter does not divide by the number of ranks.
    """

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer, optimizer.fp32_partitioned_groups_flat)

    def read(self, parameter: nn.Parameter, kind: str, *, owner: int) -> Tensor:
        """Gathered on `owner` alone."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        part = safe_get_local_fp32_param(parameter) if kind == "weight" else safe_get_local_optimizer_state(parameter, kind)
        part = part.detach().contiguous()
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())] if dist.get_rank() == owner else None
        dist.gather(part, parts, dst=owner)
        if parts is None:
            return part
        shape = trained_shape(parameter)
        return torch.cat(parts)[: shape.numel()].view(shape)

    def keeps(self, parameter: nn.Parameter) -> bool:  # noqa: ARG002 - one signature a family
        """Always: every rank has a slice, if only of padding."""
        return True

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """The slice of the master or moment and, for a weight, what the model computes with."""
        import deepspeed
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = torch.zeros(size * dist.get_world_size(), dtype=torch.float32)
        padded[: value.numel()] = value.flatten()
        part = padded.narrow(0, size * dist.get_rank(), size)
        if kind != "weight":
            safe_set_local_optimizer_state(parameter, part, kind)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
        safe_set_local_fp32_param(parameter, part)

    def refresh(self) -> None:
        """Done by `write`, which is collective here."""

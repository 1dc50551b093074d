"""How large each objective's gradient is where all of them meet: at the student's last hidden states.

Every objective reads an alias of those states. In the one backward pass that is taken anyway, what arrives at an alias is that
objective's own gradient; its squared norm is kept, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor


class GradientTaps:
    """Sums of squared gradient norms by objective, in float32."""

    def __init__(self, objectives: Iterable[str]) -> None:
        self._squares: dict[str, Tensor | None] = dict.fromkeys(objectives)

    def alias(self, objective: str, hidden_SH: Tensor) -> Tensor:
        """The same states, measured where the objective is among those asked for and there is a gradient to come."""
        if objective not in self._squares or not (torch.is_grad_enabled() and hidden_SH.requires_grad):
            return hidden_SH
        alias_SH = hidden_SH.view_as(hidden_SH)
        alias_SH.register_hook(partial(self._add, objective))  # type: ignore[no-untyped-call]
        return alias_SH

    def _add(self, objective: str, gradient_SH: Tensor) -> None:
        square = torch.linalg.vector_norm(gradient_SH.detach(), dtype=torch.float32).square()
        before = self._squares[objective]
        self._squares[objective] = square if before is None else before + square

    def read(self, device: torch.device) -> dict[str, Tensor]:
        """The sums, which start again from zero."""
        found = {name: torch.zeros((), device=device) if square is None else square for name, square in self._squares.items()}
        self._squares = dict.fromkeys(self._squares)
        return found

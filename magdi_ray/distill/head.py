"""The loss of chosen tokens, summed or each for itself, without ever holding their logits at once. Knows the LM head only.

With M supervised tokens and a vocabulary of V, [M, V] logits and their gradient are the largest tensors of a training step. They
are made for 512 tokens at a time, and their gradient is taken on the spot, where a second pass would have to make them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from magdi_ray.errors import ConfigError

CHUNK = 512
"""Tokens whose logits are held at once."""


class LogitShape(NamedTuple):
    """What an architecture does to the head's output: `v = cap * tanh(scale * u / cap)`."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits_MV: Tensor) -> Tensor:
        """Logits as the model itself would give them, in float32."""
        logits_MV = logits_MV.float()
        if self.scale != 1.0:
            logits_MV = logits_MV * self.scale
        return logits_MV if self.cap is None else torch.tanh(logits_MV / self.cap) * self.cap


PLAIN = LogitShape()


UNKNOWN_SHAPES = ("logits_soft_cap", "output_logit_soft_cap", "lm_head_multiplier")
"""Settings of models whose logits come from the hidden states in a way that is not written here."""

OTHER_HEADS = ("hyperclovax", "modernbert-decoder")
"""Models that mean something else by the same settings, or change the hidden states before their head."""


def logit_shape(config: Any) -> LogitShape:
    """The scaling and soft cap in a model's configuration.

    Raises:
        ConfigError: the model makes its logits in another way; its loss would be silently wrong.
    """
    found = [name for name in UNKNOWN_SHAPES if getattr(config, name, None) is not None]
    if found or config.model_type in OTHER_HEADS:
        why = f"its configuration has {', '.join(found)}" if found else "its head differs from that of other models"
        raise ConfigError(f"A student of type {config.model_type!r} cannot be taught: {why}. Choose another architecture.")
    scale = 1.0
    if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
        scale *= factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        scale /= divisor
    return LogitShape(scale, getattr(config, "final_logit_softcapping", None))  # Gemma 2


class Borrower(nn.Module):
    """Something that reads a student's own LM head.

    The head stays the student's: it is borrowed, not registered, so that its weights have one name and are saved once.
    """

    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__()
        self._head: tuple[nn.Module] = (student.get_output_embeddings(),)
        self.shape = logit_shape(student.config.get_text_config())

    @property
    def head(self) -> nn.Module:
        """The student's LM head."""
        return self._head[0]

    def borrowed(self) -> Iterator[nn.Parameter]:
        """Weights read here that belong to another module: ZeRO-3 must be told, to gather them for this one's passes.

        They are gathered once a pass, and not once a chunk.
        """
        yield from self.head.parameters()


class TokenLoss(Borrower):
    """`sum_m times_m * -log p(target_m | hidden_m)` under a student's own LM head."""

    def forward(self, hidden_MH: Tensor, targets_M: Tensor, times_M: Tensor | None = None) -> Tensor:
        """The sum, in float32; zero, with every weight still in the graph, where there is no token."""
        head = self.head
        if type(head) is not nn.Linear:
            return module_loss(head, self.shape, hidden_MH, targets_M, times_M)
        return linear_loss(hidden_MH, head.weight, head.bias, targets_M, times_M, self.shape)


class NodeLogps(Borrower):
    """`log p(reply | prompt)` of whole nodes: the sum over a node's tokens of `log p(target_r | hidden_r)`."""

    def forward(self, hidden_RH: Tensor, targets_R: Tensor, node_R: Tensor, nodes: int) -> Tensor:
        """[N], in float32; `node_R` is the node each token belongs to. A node without a token has log-probability 0."""
        losses_R = token_losses(self.head, self.shape, hidden_RH, targets_R)
        return losses_R.new_zeros(nodes).index_add(0, node_R, -losses_R)


def token_losses(head: nn.Module, shape: LogitShape, hidden_MH: Tensor, targets_M: Tensor) -> Tensor:
    """`-log p(target_m | hidden_m)` [M] under any head, each token's for itself."""
    if type(head) is nn.Linear and not any(weight.requires_grad for weight in head.parameters()):
        return _FrozenLosses.apply(hidden_MH, head.weight, head.bias, targets_M, shape)  # type: ignore[no-any-return, no-untyped-call]
    return module_losses(head, shape, hidden_MH, targets_M)


def linear_loss(
    hidden_MH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_M: Tensor,
    times_M: Tensor | None = None,
    shape: LogitShape = PLAIN,
) -> Tensor:
    """The summed loss under a plain linear head."""
    if not torch.is_grad_enabled():
        weight_VH, bias_V = weight_VH.detach(), None if bias_V is None else bias_V.detach()
    return _LinearLoss.apply(hidden_MH, weight_VH, bias_V, targets_M, times_M, shape)  # type: ignore[no-any-return, no-untyped-call]


class _LinearLoss(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks: three matrix products a chunk, two where the head is frozen.

    Taking gradients again in the backward pass would cost one product more, and need the head's weight, which ZeRO-3 has let go.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_M: Tensor,
        times_M: Tensor | None,
        shape: LogitShape,
    ) -> Tensor:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        total = hidden_MH.new_zeros((), dtype=torch.float32)
        grad_hidden_MH = torch.zeros_like(hidden_MH) if wants_hidden else None
        # In float32: bfloat16 sums over many chunks lose their last additions.
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if wants_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and wants_bias else None
        for start in range(0, len(targets_M), CHUNK):
            rows = slice(start, start + CHUNK)
            logits_CV = F.linear(hidden_MH[rows], weight_VH, bias_V)
            losses_C, grad_CV = _chunk(logits_CV, targets_M[rows], None if times_M is None else times_M[rows], shape)
            total += losses_C.sum()
            grad_CV = grad_CV.to(weight_VH.dtype)
            if grad_hidden_MH is not None:
                grad_hidden_MH[rows] = grad_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH += grad_CV.T @ hidden_MH[rows]
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(0)
        ctx.save_for_backward(grad_hidden_MH, grad_weight_VH, grad_bias_V)
        ctx.dtype = weight_VH.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_MH, *of_weights = ctx.saved_tensors
        hidden = None if grad_hidden_MH is None else grad_hidden_MH * grads[0].to(grad_hidden_MH.dtype)
        return hidden, *(None if g is None else (g * grads[0]).to(ctx.dtype) for g in of_weights), None, None, None


class _FrozenLosses(torch.autograd.Function):
    """Each token's own loss under a plain head that is not trained, and the gradient of each by its own hidden state.

    What each loss is multiplied with later is not known yet, but it multiplies that token's gradient too. A trained head's
    gradient is a sum over tokens, for which it would have to be known.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_M: Tensor, shape: LogitShape
    ) -> Tensor:
        losses_M = hidden_MH.new_zeros(len(targets_M), dtype=torch.float32)
        grad_hidden_MH = torch.zeros_like(hidden_MH) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets_M), CHUNK):
            rows = slice(start, start + CHUNK)
            losses_M[rows], grad_CV = _chunk(F.linear(hidden_MH[rows], weight_VH, bias_V), targets_M[rows], None, shape)
            if grad_hidden_MH is not None:
                grad_hidden_MH[rows] = grad_CV.to(weight_VH.dtype) @ weight_VH
        ctx.save_for_backward(grad_hidden_MH)
        return losses_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_hidden_MH,) = ctx.saved_tensors
        hidden = None if grad_hidden_MH is None else (grads[0][:, None] * grad_hidden_MH).to(grad_hidden_MH.dtype)
        return hidden, None, None, None, None


def _chunk(logits_CV: Tensor, targets_C: Tensor, times_C: Tensor | None, shape: LogitShape) -> tuple[Tensor, Tensor]:
    """The losses [C] of some tokens, and the gradient of their sum by the head's output."""
    logits_CV = shape(logits_CV)
    normaliser_C1 = logits_CV.logsumexp(dim=-1, keepdim=True)
    losses_C = normaliser_C1[:, 0] - logits_CV.gather(1, targets_C[:, None])[:, 0]
    slope_CV = None if shape.cap is None else 1 - (logits_CV / shape.cap).square()
    grad_CV = (logits_CV - normaliser_C1).exp_()
    grad_CV[torch.arange(len(targets_C), device=grad_CV.device), targets_C] -= 1
    if times_C is not None:
        losses_C, grad_CV = losses_C * times_C, grad_CV.mul_(times_C[:, None])
    if slope_CV is not None:
        grad_CV *= slope_CV
    return losses_C, grad_CV if shape.scale == 1.0 else grad_CV.mul_(shape.scale)


def module_loss(head: nn.Module, shape: LogitShape, hidden_MH: Tensor, targets_M: Tensor, times_M: Tensor | None) -> Tensor:
    """The summed loss under any head, such as one with an adapter."""
    losses_M = module_losses(head, shape, hidden_MH, targets_M)
    return (losses_M if times_M is None else losses_M * times_M).sum()


def module_losses(head: nn.Module, shape: LogitShape, hidden_MH: Tensor, targets_M: Tensor) -> Tensor:
    """Each token's loss [M] under any head: chunk by chunk, the logits made again in the backward pass."""

    def losses(hidden_CH: Tensor, targets_C: Tensor) -> Tensor:
        return F.cross_entropy(shape(head(hidden_CH)), targets_C, reduction="none")

    parts: list[Tensor] = []
    for start in range(0, CHUNK * _chunks(head, hidden_MH), CHUNK):
        rows = slice(start, start + CHUNK)
        # ZeRO-3 lets go of weights between the passes, so their shapes may differ: nothing to check.
        parts.append(checkpoint(losses, hidden_MH[rows], targets_M[rows], use_reentrant=False, determinism_check="none"))
    return torch.cat(parts)


def _chunks(head: nn.Module, hidden_MH: Tensor) -> int:
    """How often the head is called: at least once, and under ZeRO-3 equally often on all ranks.

    There every call of a module may be a collective operation, and ranks that make different ones wait for each other for ever.
    """
    count = max(1, -(-len(hidden_MH) // CHUNK))
    if not any(hasattr(weight, "ds_id") for weight in head.parameters()):
        return count
    most = torch.tensor(count, device=hidden_MH.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)

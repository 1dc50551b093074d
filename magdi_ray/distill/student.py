"""The student: a causal LM with full or LoRA tuning, and the two training heads that are thrown away or kept in a sidecar.

`f` alone is the product (method.md section 3): the graph network `g` and the scorer `s` exist only in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch_geometric.nn import GCNConv
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.distil import LoraTuning, StudentConfig, TrainConfig
from magdi_ray.config.recipes import Contrast, Interaction, RecipeConfig
from magdi_ray.distill.attention import NAMES, unused_mask
from magdi_ray.distill.batch import GraphBatch
from magdi_ray.distill.head import TokenLoss
from magdi_ray.distill.objectives import Outputs, pool
from magdi_ray.errors import ConfigError

HEADS = "training_heads.safetensors"


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; it must know how to end a sequence."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve_model(model))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"The student {model!r} has no usable tokenizer: {error}. Save one beside its weights.") from None
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"The tokenizer of {model!r} has no end-of-sequence token; without one a student never learns to stop.")
    return tokenizer


def load_student(config: StudentConfig, model: str, *, train: TrainConfig | None = None) -> PreTrainedModel:
    """The student's weights, tuned as configured. Safetensors only; remote code is never run."""
    dtype = torch.bfloat16 if train and train.bf16 else torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(resolve_model(model), dtype=dtype, use_safetensors=True)
    if train and train.gradient_checkpointing:
        loaded.gradient_checkpointing_enable()
        loaded.enable_input_require_grads()
    if not isinstance(config.tuning, LoraTuning):
        return loaded  # type: ignore[no-any-return]
    return add_lora(loaded, config.tuning)


def add_lora(model: PreTrainedModel, tuning: LoraTuning) -> Any:
    """Wrap a model in PEFT's LoRA.

    Raises:
        ConfigError: no module of the model carries one of the target names.
    """
    from peft import LoraConfig, get_peft_model

    targets = tuning.target_modules if isinstance(tuning.target_modules, str) else list(tuning.target_modules)
    lora = LoraConfig(
        r=tuning.r, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        linear = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise ConfigError(
            f"LoRA target_modules {targets} do not fit the student: {error} Its linear modules: {linear}."
        ) from None


def decoder_of(student: Any) -> Any:
    """The student without its LM head, under whatever wraps it."""
    causal = student.get_base_model() if hasattr(student, "get_base_model") else student
    return causal.get_decoder()


class Scorer(nn.Module):
    """`z = tanh(s(e))`, `s` = Linear-ReLU-Linear(1)."""

    def __init__(self, width: int, config: Contrast) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    def forward(self, embeddings_NH: Tensor) -> Tensor:
        """Scores [N] in (-1, 1)."""
        return torch.tanh(self.layers(embeddings_NH).squeeze(-1))


class GraphNetwork(nn.Module):
    """A two-layer GCN that predicts each node's label from the embeddings and the edges."""

    def __init__(self, width: int, config: Interaction) -> None:
        super().__init__()
        self.first = GCNConv(width, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.second = GCNConv(config.hidden, 2)

    def forward(self, embeddings_NH: Tensor, edges_2E: Tensor) -> Tensor:
        """Logits [N, 2] for incorrect and correct."""
        hidden_NF = self.dropout(torch.relu(self.first(embeddings_NH, edges_2E)))
        return self.second(hidden_NF, edges_2E)  # type: ignore[no-any-return]


class DistillModel(nn.Module):
    """Student and heads as one module, so that one engine forward covers everything that is trained.

    A head exists only where the recipe has its objective; without it, its output is zero.
    """

    def __init__(self, student: PreTrainedModel, recipe: RecipeConfig) -> None:
        super().__init__()
        self.student = student
        self.token_loss = TokenLoss(student)
        width = student.config.get_text_config().hidden_size
        chosen = {objective.name: objective for objective in recipe.objectives}
        contrast, interaction = chosen.get("contrast"), chosen.get("interaction")
        self.scorer = Scorer(width, contrast) if isinstance(contrast, Contrast) else None
        self.graph = GraphNetwork(width, interaction) if isinstance(interaction, Interaction) else None
        self.frozen = isinstance(interaction, Interaction) and interaction.embeddings == "frozen"

    def embed(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Last hidden states [S, H] of the flat tokens and node embeddings [N, H]; every token passes through once."""
        decoder = decoder_of(self.student)
        rows: dict[str, Any] = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
        if batch.layout is not None:
            if decoder.config._attn_implementation not in NAMES.values():
                raise ConfigError("A packed batch was given to a student that reads padded rows; see `prepare_attention`.")
            mask = unused_mask(batch.input_ids_BT.device)
            rows |= {"position_ids": batch.position_ids_BT, "attention_mask": mask, "layout": batch.layout}
        hidden_SH = decoder(use_cache=False, **rows).last_hidden_state.flatten(0, 1)
        return hidden_SH, pool(hidden_SH, batch)

    def forward(self, batch: GraphBatch) -> Outputs:
        """The loss of the supervised tokens, and what the heads make of the node embeddings."""
        hidden_SH, embeddings_NH = self.embed(batch)
        zeros_N = embeddings_NH[:, 0] * 0.0
        graph_input_NH = batch.frozen_NH if self.frozen and batch.frozen_NH is not None else embeddings_NH
        return Outputs(
            next_token_sum=self.token_loss(hidden_SH[batch.predict_M], batch.targets_M, batch.times_M),
            embeddings_NH=embeddings_NH,
            scores_N=self.scorer(_as(self.scorer, embeddings_NH)) if self.scorer else zeros_N,
            node_logits_N2=self.graph(_as(self.graph, graph_input_NH), batch.edges_2E)
            if self.graph
            else torch.stack([zeros_N, zeros_N], 1),
        )


def _as(head: nn.Module, embeddings_NH: Tensor) -> Tensor:
    """Embeddings in the precision of a head, which DeepSpeed may have lowered."""
    return embeddings_NH.to(next(head.parameters()).dtype)


def export_student(
    model: DistillModel, tokenizer: PreTrainedTokenizerBase, directory: Path, *, state: dict[str, Tensor] | None = None
) -> None:
    """Write a plain Hugging Face directory (full weights or adapter, tokenizer), and the heads in a file of their own.

    `state`: gathered weights, where the module itself holds only a part of each (ZeRO-3); for LoRA the trained ones suffice.
    """
    weights = state if state is not None else {name: tensor.detach() for name, tensor in model.state_dict().items()}
    student = {name.removeprefix("student."): t.cpu().contiguous() for name, t in weights.items() if name.startswith("student.")}
    model.student.save_pretrained(directory, state_dict=student, safe_serialization=True)
    tokenizer.save_pretrained(directory)
    heads = {name: t.float().cpu().contiguous() for name, t in weights.items() if not name.startswith("student.")}
    if heads:
        save_file(heads, directory / HEADS)

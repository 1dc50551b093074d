"""The student: a causal LM with full, LoRA or QLoRA tuning, and the two training heads that are thrown away or kept in a sidecar.

`f` alone is the product (method.md section 3): the graph network `g` and the scorer `s` exist only in training.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.distil import DeepSpeedConfig, LoraTuning, QloraTuning, StudentConfig, TrainConfig
from magdi_ray.config.recipes import REPLIES, Interaction, Reading, RecipeConfig
from magdi_ray.distill.attention import NAMES, unused_mask
from magdi_ray.distill.batch import GraphBatch
from magdi_ray.distill.gradients import GradientTaps
from magdi_ray.distill.head import NodeLogps, TokenLoss
from magdi_ray.distill.heads import make_heads, save_heads
from magdi_ray.distill.job import HEADS
from magdi_ray.distill.objectives import Outputs, pool
from magdi_ray.errors import ConfigError, GraphError


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; it must know how to end a sequence."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve_model(model), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"The student {model!r} has no usable tokenizer: {error}. Save one beside its weights.") from None
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"The tokenizer of {model!r} has no end-of-sequence token; without one a student never learns to stop. "
            "Set its eos_token and save it again."
        )
    return tokenizer


def check_tuning(config: StudentConfig, deepspeed: DeepSpeedConfig) -> None:
    """Refuse what a tuning cannot be combined with, before any weights are loaded.

    Raises:
        ConfigError: 4-bit weights are to be partitioned, or the package that makes them is missing.
    """
    if not isinstance(config.tuning, QloraTuning):
        return
    if deepspeed.zero_stage == 3:
        raise ConfigError(
            "distil.student.tuning `qlora` cannot be combined with distil.deepspeed.zero_stage 3: ZeRO-3 would cut up the packed "
            "4-bit weights without the tables they are read with. Set zero_stage to 0, 1 or 2, or the tuning to lora."
        )
    _need_bitsandbytes()


def _need_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "distil.student.tuning `qlora` needs the package bitsandbytes, which is not installed: "
            'pip install "magdi-ray[qlora]", on every machine that trains'
        )


def load_student(config: StudentConfig, model: str, *, train: TrainConfig | None = None) -> PreTrainedModel:
    """The student's weights, tuned as configured. Safetensors only; remote code is never run."""
    dtype = torch.bfloat16 if train and train.bf16 else torch.float32
    tuning = config.tuning
    options = four_bits(tuning, dtype) if isinstance(tuning, QloraTuning) else {}
    loaded = AutoModelForCausalLM.from_pretrained(
        resolve_model(model), dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
    )
    if train and train.gradient_checkpointing:
        loaded.gradient_checkpointing_enable()
        loaded.enable_input_require_grads()
    return add_lora(loaded, tuning) if isinstance(tuning, LoraTuning | QloraTuning) else loaded  # type: ignore[no-any-return]


def four_bits(tuning: QloraTuning, dtype: torch.dtype) -> dict[str, Any]:
    """What makes transformers hold linear layers in 4 bits and compute in `dtype`; embeddings and LM head stay as they are.

    PEFT's `prepare_model_for_kbit_training` is left out: it raises everything else to float32, which DeepSpeed sets back to the
    precision of the training, and switches on gradient checkpointing, which is a choice of its own here.
    """
    _need_bitsandbytes()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=tuning.quant_type,
        bnb_4bit_use_double_quant=tuning.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": quantization, "device_map": {"": device}}


def add_lora(model: PreTrainedModel, tuning: LoraTuning | QloraTuning) -> Any:
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
            f"LoRA target_modules {targets} do not fit the student: {error} Name some of its linear modules: {linear}."
        ) from None


def check_layers(layers: int, readings: Iterable[Reading]) -> None:
    """Refuse a head that is to read a layer which a student of so many does not have.

    Raises:
        ConfigError: names the layers there are.
    """
    if beyond := sorted({reading.layer for reading in readings if reading.layer and reading.layer > layers}):
        raise ConfigError(
            f"An objective's reading.layer asks for layer {beyond[0]}, but the student has {layers}. Name one of 1 to {layers}."
        )


def decoder_of(student: Any) -> Any:
    """The student without its LM head, under whatever wraps it."""
    causal = student.get_base_model() if hasattr(student, "get_base_model") else student
    return causal.get_decoder()


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
        interaction = chosen.get("interaction")
        self.recipe = recipe
        heads = make_heads(width, recipe)
        check_layers(student.config.get_text_config().num_hidden_layers, heads.readings)
        self.scorer, self.graph, self.verifier = heads
        self._layers = {reading.layer for reading in heads.readings} - {None}
        self.frozen = isinstance(interaction, Interaction) and interaction.embeddings == "frozen"
        self.compares = next(iter(REPLIES & chosen.keys()), "")
        """The objective that looks at the log-probabilities of whole replies: a recipe has at most one; "" for none."""
        self.node_logps = NodeLogps(student) if self.compares else None
        self.needs_reference = self.frozen or self.compares == "preference"
        """Whether an objective looks at what the untrained student makes of the nodes."""
        self._taps = GradientTaps(chosen)

    def embed(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Last hidden states [S, H] of the flat tokens and node embeddings [N, H]; every token passes through once."""
        hidden_SH = self.hidden(batch)[None]
        return hidden_SH, pool(hidden_SH, batch)

    def hidden(self, batch: GraphBatch) -> dict[int | None, Tensor]:
        """Hidden states [S, H] of the flat tokens: under None the last, and those after each layer that a head reads."""
        decoder = decoder_of(self.student)
        rows: dict[str, Any] = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
        if batch.layout is not None:
            if decoder.config._attn_implementation not in NAMES.values():
                raise ConfigError("A packed batch was given to a student that reads padded rows; see `prepare_attention`.")
            mask = unused_mask(batch.input_ids_BT.device)
            rows |= {"position_ids": batch.position_ids_BT, "attention_mask": mask, "layout": batch.layout}
        found = decoder(use_cache=False, output_hidden_states=bool(self._layers), **rows)
        states: dict[int | None, Tensor] = {layer: found.hidden_states[layer].flatten(0, 1) for layer in self._layers}
        return states | {None: found.last_hidden_state.flatten(0, 1)}

    def forward(self, batch: GraphBatch) -> Outputs:
        """The loss of the supervised tokens, and what the heads make of the node embeddings."""
        states = self.hidden(batch)
        hidden_SH = states[None]
        frozen_NH = batch.frozen_NH if self.frozen else None
        # Pooled for each objective by itself, so that each one's gradient can be told from the other's.
        scored_NH = self._embeddings("contrast", self.scorer, states, batch)
        linked_NH = self._embeddings("interaction", self.graph, states, batch) if frozen_NH is None else frozen_NH
        judged_NH = self._embeddings("verify", self.verifier, states, batch)
        embeddings_NH = next((found for found in (linked_NH, scored_NH) if found is not None), None)
        if embeddings_NH is None:
            embeddings_NH = pool(hidden_SH, batch)
        zeros_N = embeddings_NH[:, 0] * 0.0 + hidden_SH[0, 0] * 0.0
        taught_MH = self._taps.alias("next_token", hidden_SH)[batch.predict_M]
        return Outputs(
            next_token_sum=self.token_loss(taught_MH, batch.targets_M, batch.times_M),
            embeddings_NH=embeddings_NH,
            scores_N=zeros_N if self.scorer is None or scored_NH is None else self.scorer(_as(self.scorer, scored_NH)),
            node_logits_N2=torch.stack([zeros_N, zeros_N], 1)
            if self.graph is None or linked_NH is None
            else self.graph(_as(self.graph, linked_NH), batch.edges_2E, batch.types_E),
            node_logps_N=self._reply_logps(hidden_SH, batch) if self.node_logps else zeros_N,
            verdicts_N=zeros_N if self.verifier is None or judged_NH is None else self.verifier(_as(self.verifier, judged_NH)),
        )

    def _embeddings(self, objective: str, head: Any, states: dict[int | None, Tensor], batch: GraphBatch) -> Tensor | None:
        """What a head reads of every node; None where there is no such head."""
        if head is None:
            return None
        read_SH = states[head.reading.layer]
        read_SH = read_SH.detach() if head.reading.stop else self._taps.alias(objective, read_SH)
        return pool(read_SH, batch, over=head.reading.over)

    def _reply_logps(self, hidden_SH: Tensor, batch: GraphBatch) -> Tensor:
        if batch.replies_3R is None:
            raise GraphError(f"{self.compares!r} needs the reply tokens of all nodes; the batch was collated without them.")
        predict_R, targets_R, node_R = batch.replies_3R
        replies_RH = self._taps.alias(self.compares, hidden_SH)[predict_R]
        return self.node_logps(replies_RH, targets_R, node_R, len(batch.correct_N))  # type: ignore[misc, no-any-return]

    @torch.no_grad()
    def reference(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Node embeddings [N, H] and log-probabilities [N] under the weights as they are now, of every tuning and ZeRO stage.

        One whole forward pass, on every rank alike: ZeRO-3 gathers weights by it.
        """
        outputs: Outputs = self(batch)
        return outputs.embeddings_NH, outputs.node_logps_N

    def gradient_squares(self) -> dict[str, Tensor]:
        """By objective, the squared norm of its weighted gradient by the last hidden states, summed since the last call.

        What went into `backward` counts, its factors included. Tokens of different micro-batches and ranks are different
        ones, so their squares add up to the square of the whole step's norm.
        """
        return self._taps.read(next(self.parameters()).device)


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
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in; `magdi export` writes the card
    tokenizer.save_pretrained(directory)
    heads = {name: t.float().cpu().contiguous() for name, t in weights.items() if not name.startswith("student.")}
    save_heads(heads, model.recipe, directory / HEADS)

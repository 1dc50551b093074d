"""A student's shape: the numbers that say how many weights it has and where, found without loading a single one.

    shape = published("mistralai/Mistral-7B-Instruct-v0.2")
    shape.parameters                                                7_241_732_096
    lora_parameters(shape, r=16, targets=("q_proj", "v_proj"))          6_815_744

Knows decoders built like Llama's: Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from magdi_ray.agents.weights import HUB_NAME, resolve_model
from magdi_ray.config.distil import ScratchModel
from magdi_ray.errors import ConfigError

Targets = Sequence[str] | Literal["all-linear"]


@dataclass(frozen=True, slots=True)
class StudentShape:
    """The architecture of a student. Field names are short for those of `transformers.LlamaConfig`."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    """The LM head is the embedding table."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """Queries and keys are normalised, each head with the same `head_dim` weights (Qwen 3, Gemma 3)."""
    layer_norms: int = 2
    """Norms over the hidden states in a layer; Gemma 2 and 3 have four."""
    source: str = ""
    """Where these numbers come from, for a person."""

    @property
    def attention_width(self) -> int:
        """Of all heads together."""
        return self.heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer -> (inputs, outputs)."""
        kv = self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.hidden, self.attention_width),
            "self_attn.k_proj": (self.hidden, kv),
            "self_attn.v_proj": (self.hidden, kv),
            "self_attn.o_proj": (self.attention_width, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate),
            "mlp.up_proj": (self.hidden, self.intermediate),
            "mlp.down_proj": (self.intermediate, self.hidden),
        }

    @property
    def matrices(self) -> int:
        """Weights every token is multiplied with: the linear modules of all layers, neither embeddings nor LM head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def head(self) -> int:
        """Weights of the LM head; where it is tied, they are the embedding table's."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, a tied table counted once."""
        kv = self.kv_heads * self.head_dim
        biases = self.qkv_bias * (self.attention_width + 2 * kv) + self.output_bias * self.hidden
        biases += self.mlp_bias * (2 * self.intermediate + self.hidden)
        norms = self.layer_norms * self.hidden + self.qk_norm * 2 * self.head_dim
        return self.matrices + self.layers * (biases + norms) + self.hidden + self.head * (1 if self.tied else 2)


def adapted(shape: StudentShape, targets: Targets) -> dict[str, tuple[int, int]]:
    """Every module that gets an adapter -> (inputs, outputs), by PEFT's rule: the whole name, or its end behind a dot.

    `all-linear` is every linear module but the LM head.

    Raises:
        ConfigError: no module has one of these names.
    """
    modules = {f"model.layers.{i}.{name}": sizes for i in range(shape.layers) for name, sizes in shape.linears.items()}
    if targets == "all-linear":
        return modules
    modules |= {"model.embed_tokens": (shape.vocab, shape.hidden), "lm_head": (shape.hidden, shape.vocab)}
    found = {name: sizes for name, sizes in modules.items() if any(name == t or name.endswith(f".{t}") for t in targets)}
    if not found:
        known = ", ".join(sorted(name.rpartition(".")[2] for name in shape.linears))
        raise ConfigError(
            f"LoRA target_modules {list(targets)} name no module of the student. Name some of its linear modules: {known}."
        )
    return found


def lora_parameters(shape: StudentShape, *, r: int, targets: Targets) -> int:
    """Weights of the adapters: `r x (inputs + outputs)` a module (arXiv 2106.09685, section 4.1)."""
    return r * sum(inputs + outputs for inputs, outputs in adapted(shape, targets).values())


def from_config(config: Any, *, source: str) -> StudentShape:
    """The shape in a `transformers` configuration.

    Raises:
        ConfigError: an architecture that is not built like those known here.
    """
    config = config.get_text_config()
    kind = config.model_type
    if kind not in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"):
        raise ConfigError(f"the weights of a student of type {kind!r} cannot be counted here. Measure a short run of it instead.")
    biased = bool(getattr(config, "attention_bias", False)) or kind == "qwen2"
    return StudentShape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocab=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        qkv_bias=biased,
        output_bias=biased and kind != "qwen2",
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        qk_norm=kind in ("qwen3", "gemma3_text"),
        layer_norms=4 if kind in ("gemma2", "gemma3_text") else 2,
        source=source,
    )


_LLAMA_2_7B = StudentShape(4096, 11008, 32, 32, 32, 128, 32000)
_LLAMA_2_13B = StudentShape(5120, 13824, 40, 40, 40, 128, 32000)
_LLAMA_3_8B = StudentShape(4096, 14336, 32, 32, 8, 128, 128256)
_LLAMA_32_1B = StudentShape(2048, 8192, 16, 32, 8, 64, 128256, tied=True)
_LLAMA_32_3B = StudentShape(3072, 8192, 28, 24, 8, 128, 128256, tied=True)
_MISTRAL_7B = StudentShape(4096, 14336, 32, 32, 8, 128, 32000)

PUBLISHED: dict[str, StudentShape] = {
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B,
    "mistralai/Mistral-7B-Instruct-v0.1": _MISTRAL_7B,
    "mistralai/Mistral-7B-Instruct-v0.2": _MISTRAL_7B,
    "meta-llama/Llama-2-7b-hf": _LLAMA_2_7B,
    "meta-llama/Llama-2-7b-chat-hf": _LLAMA_2_7B,
    "meta-llama/Llama-2-13b-hf": _LLAMA_2_13B,
    "meta-llama/Llama-2-13b-chat-hf": _LLAMA_2_13B,
    "meta-llama/Llama-3.1-8B": _LLAMA_3_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_3_8B,
    "meta-llama/Llama-3.2-1B": _LLAMA_32_1B,
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_32_1B,
    "meta-llama/Llama-3.2-3B": _LLAMA_32_3B,
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA_32_3B,
    "Qwen/Qwen3-0.6B": StudentShape(1024, 3072, 28, 16, 8, 128, 151936, tied=True, qk_norm=True),
    "Qwen/Qwen3-1.7B": StudentShape(2048, 6144, 28, 16, 8, 128, 151936, tied=True, qk_norm=True),
    "Qwen/Qwen3-4B": StudentShape(2560, 9728, 36, 32, 8, 128, 151936, tied=True, qk_norm=True),
    "Qwen/Qwen3-8B": StudentShape(4096, 12288, 36, 32, 8, 128, 151936, qk_norm=True),
}
"""Shapes from the model cards' `config.json`, for students whose files are not at hand where a plan is made."""


def published(name: str) -> StudentShape | None:
    """The published shape of a well-known student, by its hub name in any case."""
    for known, shape in PUBLISHED.items():
        if known.lower() == name.lower():
            return replace(shape, source="its published shape")
    return None


def scratch_shape(model: ScratchModel) -> StudentShape:
    """The shape of a student made from scratch; its vocabulary may come out smaller than asked for."""
    head_dim = model.hidden_size // model.num_attention_heads
    heads = model.num_attention_heads
    sizes = (model.hidden_size, model.intermediate_size, model.num_hidden_layers, heads, heads, head_dim, model.vocab_size)
    return StudentShape(*sizes, tied=True, source="distil.student.model, made from scratch")


def files_at_hand(model: str, *wanted: str) -> Path | None:
    """The directory that holds a model's files: its own, or its place in the Hugging Face cache. Asks no network.

    None where any of the `wanted` files is missing.
    """
    directory = Path(resolve_model(model))
    if not directory.is_dir() and HUB_NAME.fullmatch(model):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, wanted[0])
        if not isinstance(cached, str):
            return None
        directory = Path(cached).parent
    return directory if all((directory / file).is_file() for file in wanted) else None


def _where(model: str, directory: Path) -> str:
    given = directory == Path(resolve_model(model))
    return f"its config.json{'' if given else f' in {directory}'}"


def find_shape(model: str | ScratchModel) -> StudentShape:
    """The shape of a student: from its `config.json` where that is at hand, else from the published table.

    Raises:
        ConfigError: neither knows it, or the file cannot be read; said with what to do.
    """
    if isinstance(model, ScratchModel):
        return scratch_shape(model)
    directory = files_at_hand(model, "config.json")
    if directory is not None:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"config.json of {model} cannot be read: {error}. Take a model that transformers itself knows."
            ) from None
        return from_config(config, source=_where(model, directory))
    if (shape := published(model)) is not None:
        return shape
    raise ConfigError(
        f"there is no config.json of {model} here, and its shape is none of those known. Name a directory that holds the model, "
        f"or put the file into the Hugging Face cache: hf download {model} config.json tokenizer.json tokenizer_config.json"
    )

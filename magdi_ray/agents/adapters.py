"""Several LoRA adapters on one base, each for the rows that ask for it, and all rows in one batch.

Continuous batching packs the tokens of all rows into one sequence. An adapted layer adds scaling * B(A(x)) where the tokens of
its adapter are, so that rows of any adapter, and of the bare base, are read together and none of them sees another's.

Adapters are read from PEFT's files. What this module does not do (DoRA, trained biases, ...) is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from magdi_ray.agents.weights import has_tokenizer, resolve_model
from magdi_ray.errors import ConfigError

UNDERSTOOD = frozenset(
    [
        "peft_type",
        "peft_version",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "bias",
        "init_lora_weights",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
    ]
)
"""Settings that are read here, say nothing of how an adapter acts, or act only with others that are refused."""

KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
"""How PEFT names the two matrices of an adapted layer."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What one adapter adds to one linear layer."""

    a: torch.Tensor
    """[rank, inputs]"""
    b: torch.Tensor
    """[outputs, rank]"""
    scaling: float


class Present:
    """Where the tokens of each adapter are, in the step that is read just now. Without a step, there are none."""

    def __init__(self) -> None:
        self._tokens: dict[int, list[int]] = {}
        self._ends: dict[int, list[int]] = {}
        self._count = 0
        """Tokens of the step; 0 without one."""
        self._rows = 0
        """Rows of the step, of which some may be followed by no token."""
        self._made: dict[tuple[bool, int], torch.Tensor] = {}
        self._always: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Present:
        return Present()  # a model's copy is not read in this one's steps

    def settle(self, adapter: int | None) -> None:
        """From now on all tokens are of one adapter, or of none, whatever is read."""
        self._always = adapter
        self._tokens, self._ends, self._made = {}, {}, {}
        self._count = self._rows = 0

    def enter(self, step: Sequence[tuple[int | None, int, bool]]) -> None:
        """A step begins: adapter, number of tokens, and whether a token follows, of every row in order."""
        self._tokens, self._ends, self._made = {}, {}, {}
        place = last = 0
        for adapter, length, is_followed in step:
            if adapter is not None:
                self._tokens.setdefault(adapter, []).extend(range(place, place + length))
                if is_followed:
                    self._ends.setdefault(adapter, []).append(last)
            place += length
            last += is_followed
        self._count, self._rows = place, len(step)

    def check(self, x: torch.Tensor, *, layer: str, reads_ends: bool) -> None:
        """Check that a layer reads the step's tokens and no others, [1, T, H] or [T, H].

        Raises:
            RuntimeError: it reads another number of them, so that nobody knows which are whose.
        """
        expected = self._rows if reads_ends else self._count
        if self._count and not x.shape[:-1].numel() == x.shape[-2] == expected:
            raise RuntimeError(
                f"adapters cannot be put on this model: its layer {layer} has to read the {expected} tokens of a step, found an "
                f"input of shape {list(x.shape)}; merge an adapter into its base and serve that"
            )

    def adapters(self) -> Sequence[int]:
        """Those that any token is of."""
        return list(self._tokens) if self._always is None else [self._always]

    def places(self, adapter: int, *, reads_ends: bool, device: torch.device) -> torch.Tensor | None:
        """Positions of an adapter's tokens in what a layer reads; None for all of them.

        `reads_ends` says that it reads only those tokens that another follows, and behind them some of no meaning.
        """
        if self._always is not None:
            return None
        key = (reads_ends, adapter)
        if key not in self._made:
            places = (self._ends if reads_ends else self._tokens).get(adapter, [])
            self._made[key] = torch.tensor(places, dtype=torch.long, device=device)
        return self._made[key]


class AdaptedLinear(nn.Module):
    """A linear layer of the base, and what each adapter adds to it."""

    def __init__(self, base: nn.Linear, present: Present, *, name: str = "", reads_ends: bool = False) -> None:
        """`reads_ends` is said of the model's head: continuous batching puts only those tokens to it that another follows."""
        super().__init__()
        self.base = base
        self.present = present
        self._name = name
        self._reads_ends = reads_ends
        self._parts: dict[int, tuple[str, str, float]] = {}

    @property
    def weight(self) -> torch.Tensor:
        """The base's own."""
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's own."""
        return self.base.bias

    def put(self, adapter: int, part: LowRank) -> None:
        """Add an adapter, in the base's precision and on its device."""
        names = f"a_{adapter}", f"b_{adapter}"
        for name, matrix in zip(names, (part.a, part.b), strict=True):
            self.register_buffer(name, matrix.to(self.base.weight), persistent=False)
        self._parts[adapter] = (*names, part.scaling)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's output, with each adapter's share where its tokens are."""
        self.present.check(x, layer=self._name, reads_ends=self._reads_ends)
        y: torch.Tensor = self.base(x)
        for adapter in self.present.adapters():
            if (part := self._parts.get(adapter)) is None:
                continue
            a, b = getattr(self, part[0]), getattr(self, part[1])
            places = self.present.places(adapter, reads_ends=self._reads_ends, device=x.device)
            read = x if places is None else x.index_select(-2, places)
            share = F.linear(F.linear(read, a), b) * part[2]
            y = y + share if places is None else y.index_add(-2, places, share)
        return y


class Adapters:
    """The adapters of one base, by name."""

    def __init__(self, model: Any, directories: Mapping[str, str]) -> None:
        """Read adapters from their directories (or `pkg://` names) and put them into the model's layers.

        Raises:
            ConfigError: a directory holds no adapter, one that is not understood, or one of another base.
        """
        self.present = Present()
        self._places = {name: place for place, name in enumerate(directories)}
        for name, directory in directories.items():
            for module, part in read_adapter(name, directory).items():
                _put(model, self.present, self._places[name], module, part, adapter=name)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(self._places)

    def place(self, name: str | None) -> int | None:
        """What rows and layers know an adapter by; None is the base alone."""
        return None if name is None else self._places[name]


def settle(model: Any, adapter: int | None) -> None:
    """Let every token that this copy of a model reads be of one adapter, or of none."""
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            module.present.settle(adapter)


def check_tokenizer(name: str, directory: str, *, base: str, tokenizer: Any) -> None:
    """Check that rows of an adapter may be read and ended by the tokenizer of its base, as those of all others are.

    Raises:
        ConfigError: the adapter's directory holds a tokenizer of another vocabulary, chat template, begin or end.
    """
    folder = resolve_model(directory)
    if not has_tokenizer(folder):
        return
    try:
        own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its files make transformers raise
        raise ConfigError(
            f"Adapter {name!r}: its tokenizer in {folder} cannot be read: {type(error).__name__}: {error}. "
            "Copy the adapter's directory again as a whole."
        ) from None
    parts = {
        "chat template": own.chat_template != tokenizer.chat_template,
        "vocabulary": own.get_vocab() != tokenizer.get_vocab(),
        "begin or end of sequence": (own.bos_token, own.eos_token) != (tokenizer.bos_token, tokenizer.eos_token),
    }
    other = " and ".join(part for part, differs in parts.items() if differs)
    if other:
        raise ConfigError(
            f"Adapter {name!r} was trained with a tokenizer of its own: the {other} in {folder} is not that of its base {base}, "
            "whose tokenizer reads the rows of all adapters. Save the adapter's tokenizer with the base's weights and serve "
            "both as a model, or merge the adapter into it."
        )


def read_adapter(name: str, directory: str) -> dict[str, LowRank]:
    """What a PEFT LoRA adapter adds, by the path of each layer in its base.

    Raises:
        ConfigError: files are missing or damaged, or the adapter needs what is not done here; it is named.
    """
    folder = Path(resolve_model(directory))
    config_file, weights_file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ConfigError(f"Adapter {name!r}: {directory} holds no {file.name}. Name the directory of a PEFT LoRA adapter.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        tensors = load_file(weights_file)
    except Exception as error:  # safetensors raises an error of its own, json and the operating system theirs
        raise ConfigError(
            f"Adapter {name!r} cannot be read from {folder}: {type(error).__name__}: {error}. Copy its directory as a whole."
        ) from None
    if not isinstance(config, dict):
        raise ConfigError(f"Adapter {name!r}: {config_file} holds no settings. Save the adapter again with PEFT.")
    _check_config(name, config)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ConfigError(f"Adapter {name!r} holds weights that only PEFT itself can apply: {key}.")
        halves.setdefault(match["module"], {})[match["part"]] = tensor
    return {module: _low_rank(name, module, pair, config) for module, pair in halves.items()}


def _check_config(name: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"Adapter {name!r} is of type {config.get('peft_type')!r}; LORA is required.")
    if config.get("bias", "none") != "none":
        raise ConfigError(f"Adapter {name!r} trains biases (bias={config['bias']!r}); bias='none' is required.")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise ConfigError(
            f"Adapter {name!r} begins at init_lora_weights={config['init_lora_weights']!r}, which changes its base. Merge it "
            "into its base and serve that."
        )
    beyond = sorted(key for key, value in config.items() if value and key not in UNDERSTOOD)
    if beyond:
        told = ", ".join(f"{key}={config[key]!r}" for key in beyond)
        raise ConfigError(f"Adapter {name!r} needs what cannot be served beside others: {told}. Merge it and serve that.")


def _low_rank(name: str, module: str, pair: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> LowRank:
    if set(pair) != {"A", "B"}:
        raise ConfigError(f"Adapter {name!r} lacks one of the two matrices of {module}.")
    a, b = pair["A"], pair["B"]
    rank = int(_setting(config, "rank_pattern", module, config.get("r", 8)))
    if a.dim() != 2 or b.dim() != 2 or not a.shape[0] == b.shape[1] == rank:
        raise ConfigError(
            f"Adapter {name!r} states rank {rank} for {module}, found matrices of {tuple(a.shape)} and {tuple(b.shape)}. "
            "Save the adapter again with PEFT."
        )
    alpha = float(_setting(config, "alpha_pattern", module, config.get("lora_alpha", 8)))
    return LowRank(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _setting(config: Mapping[str, Any], patterns: str, module: str, default: Any) -> Any:
    """The first pattern that ends a module's path decides, as in PEFT."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _put(model: Any, present: Present, place: int, module: str, part: LowRank, *, adapter: str) -> None:
    """Add an adapter's share to one layer of the model.

    Raises:
        ConfigError: the model has no such linear layer, or one of another size.
    """
    try:
        layer = model.get_submodule(module)
    except AttributeError:
        raise ConfigError(
            f"Adapter {adapter!r} was trained on another base: this model has no layer {module}. Name its own base."
        ) from None
    if isinstance(layer, nn.Linear):
        adapted = AdaptedLinear(layer, present, name=module, reads_ends=layer is _head_of_ends(model))
        parent, _, child = module.rpartition(".")
        setattr(model.get_submodule(parent), child, adapted)
    elif isinstance(layer, AdaptedLinear):
        adapted = layer
    else:
        raise ConfigError(f"Adapter {adapter!r} adapts {module}, a {type(layer).__name__}; only linear layers can be adapted.")
    outputs, inputs = adapted.base.weight.shape
    if (part.b.shape[0], part.a.shape[1]) != (outputs, inputs):
        raise ConfigError(
            f"Adapter {adapter!r} was trained on another base: its share of {module} maps {part.a.shape[1]} to "
            f"{part.b.shape[0]} numbers, the layer {inputs} to {outputs}. Name its own base."
        )
    adapted.put(place, part)


def _head_of_ends(model: Any) -> Any:
    """The layer that reads only the tokens that another follows; None where the model's head reads all."""
    return model.get_output_embeddings() if model._supports_logits_to_keep() else None

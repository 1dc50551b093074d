"""A trained student as a directory to take elsewhere: its adapter, its adapter merged into the base, or its full weights.

What is written is plain Hugging Face layout, safetensors only. Knows nothing of runs; the model card is `card`'s business.
Heavy packages are imported where weights are loaded: copying a student needs none of them.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magdi_ray.agents.weights import HUB_NAME, PACKAGE_SCHEME, TOKENIZER_FILES, adapter_base, is_adapter, resolve_model
from magdi_ray.config.distil import ScratchModel
from magdi_ray.distill.export.record import Base, Form
from magdi_ray.distill.job import HEADS
from magdi_ray.errors import ConfigError, EngineError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER = frozenset(
    (
        *TOKENIZER_FILES,
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "merges.txt",
        "chat_template.jinja",
    )
)
TEMPLATES = "additional_chat_templates"
MODEL = frozenset(("config.json", "generation_config.json", "model.safetensors.index.json"))
OWN = frozenset(("manifest.json", "README.md", HEADS))
"""Files of a student's stage that are known and stay behind: the run's manifest, PEFT's empty card, the training heads."""
STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export holds."""

    form: Form
    dtype: str
    """Of the stored weights; more than one where they differ."""
    left_out: tuple[str, ...] = ()
    """Files of the student that are no part of a plain directory and were not expected."""


def base_of(student: Path, model: str | ScratchModel) -> Base:
    """What the base of a student is called away from this machine. `model`: as the run's configuration names it."""
    if isinstance(model, ScratchModel):
        return Base("base", "scratch")
    if model.startswith(PACKAGE_SCHEME):
        return Base(model, "package")
    # A relative directory that is gone looks like a hub name; the adapter knows what was loaded.
    name = adapter_base(student) if is_adapter(student) else model
    if HUB_NAME.fullmatch(name) and not Path(name).parent.is_dir():
        return Base(name, "hub")
    return Base(Path(name).name or "base", "local")


def write_export(
    student: Path, target: Path, *, base: str, named: Base, merge: bool = False, dtype: Dtype = "auto", heads: bool = False
) -> Exported:
    """Write a student into the empty directory `target`.

    `base`: where the weights are that an adapter is merged into. `named`: what the adapter's configuration calls them.

    Raises:
        ConfigError: the student lacks what was asked for, or the options contradict each other.
        EngineError: base or adapter cannot be loaded or merged.
    """
    adapter = is_adapter(student)
    _check(student, adapter=adapter, heads=heads)
    if adapter and not merge and dtype != "auto":
        raise ConfigError(f"--dtype {dtype} needs --merge: an adapter is exported as it was trained.")
    converted = merge if adapter else dtype != "auto"
    if converted:
        _save(load_merged(base, student, dtype) if adapter else _load(str(student), dtype), target)
    kept = _copied_names(student, weights=not converted, heads=heads)
    for name in kept:
        shutil.copyfile(student / name, target / name)  # not the mode: safetensors are written for their owner only
    if (student / TEMPLATES).is_dir():
        shutil.copytree(student / TEMPLATES, target / TEMPLATES)
    if adapter and not converted:
        _name_base(target / ADAPTER_CONFIG, named)
    known = OWN | TOKENIZER | MODEL | {ADAPTER_CONFIG, TEMPLATES}
    strange = sorted(p.name for p in student.iterdir() if p.name not in known and p.suffix != ".safetensors")
    form: Form = "full" if not adapter else "merged" if merge else "adapter"
    return Exported(form, stored_dtype(target), tuple(strange))


def _check(student: Path, *, adapter: bool, heads: bool) -> None:
    stem = "adapter_model" if adapter else "model"
    if not any((student / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json")):
        raise ConfigError(f"{student} holds no {stem}.safetensors. Train the student again: magdi distill.")
    if heads and not (student / HEADS).is_file():
        raise ConfigError("--heads: this student has none; its recipe has no objective that trains heads. Leave --heads out.")


def _copied_names(student: Path, *, weights: bool, heads: bool) -> list[str]:
    names = [path.name for path in student.iterdir() if path.name in TOKENIZER]
    if weights:
        names += [path.name for path in student.iterdir() if path.name in MODEL | {ADAPTER_CONFIG}]
        names += [path.name for path in student.glob("*.safetensors") if path.name != HEADS]
    return sorted(names + ([HEADS] if heads else []))


def _name_base(file: Path, base: Base) -> None:
    """Let an adapter name its base as it is known elsewhere."""
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base.name}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_merged(base: str, adapter: Path, dtype: Dtype) -> Any:
    """A base with an adapter added to its weights; `auto` is the base's own precision.

    Every sum is taken in float32 and rounded once. An adapter trained over 4-bit weights (QLoRA) is merged into the unquantised
    ones, as its base is stored.

    Raises:
        ConfigError: the base is stored quantised.
        EngineError: base or adapter cannot be loaded, or the sum is not finite.
    """
    from peft import PeftModel
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    try:
        config = AutoConfig.from_pretrained(resolve_model(base), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EngineError(f"The base model {base!r} cannot be read: {error}") from None
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"The base {base!r} is stored quantised: the sum would have to be quantised again, which changes the student. "
            "Export the adapter as it is (without --merge)."
        )
    model = _load(base, "auto" if "float32" in str(config.dtype) else dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
            wrapped: Any = PeftModel.from_pretrained(model, str(adapter))
        _untie(wrapped)
        merged = _add(wrapped)
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(f"The adapter cannot be merged into {base!r}: {error}") from None
    return merged if dtype == "auto" else merged.to(_torch_dtype(dtype))


def _load(model: str, dtype: Dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            resolve_model(model), dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise EngineError(f"The weights of {model!r} cannot be loaded as safetensors: {error}") from None


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _add(wrapped: Any) -> Any:
    """The base with the adapter added, one module in float32 at a time: PEFT would round the addend, then the sum."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in wrapped.modules():
        if isinstance(module, BaseTunerLayer):
            weight = module.get_base_layer().weight
            own = weight.dtype
            weight.data = weight.data.float()
            module.merge(safe_merge=True)
            weight = module.get_base_layer().weight
            weight.data = weight.data.to(own)
    return wrapped.unload()


def _untie(wrapped: Any) -> None:
    """Give embedding and LM head weights of their own where they are shared and the adapter changes one of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    model = wrapped.get_base_model()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    text = model.config.get_text_config()
    if not text.tie_word_embeddings or not any(isinstance(end, BaseTunerLayer) for end in ends):
        return
    head = ends[1].get_base_layer() if isinstance(ends[1], BaseTunerLayer) else ends[1]
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    text.tie_word_embeddings = model.config.tie_word_embeddings = False


def _save(model: Any, target: Path) -> None:
    settings = model.generation_config
    try:
        settings.validate(strict=True)
    except ValueError:
        # Published bases give a temperature and leave do_sample out; transformers reads such a file and refuses to write it.
        settings.do_sample = True
    model.save_pretrained(target)
    for file in target.glob("*.safetensors"):  # written for their owner only, unlike the rest
        shutil.copymode(target / "config.json", file)


def stored_dtype(directory: Path) -> str:
    """The precision of the weights in a directory, from the files' headers; "float32 and bfloat16" where they differ."""
    from safetensors import safe_open

    found = set()
    for file in sorted(path for path in directory.glob("*.safetensors") if path.name != HEADS):
        with safe_open(file, "np") as weights:
            found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - not a dict
    return " and ".join(sorted(STORED.get(name, name) for name in found))

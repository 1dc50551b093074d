"""Where a model's files are, and whether they can be loaded, said before anything is loaded. Knows no torch.

A model is named by a directory in Hugging Face's layout (full weights, or a PEFT adapter whose `adapter_config.json` names its
base), by `pkg://package/path` for files shipped inside an installed package, by the URL of a directory (s3://, gs://, ...), of
which every machine fetches a copy, or by a hub name, `organisation/model`. Any of them may carry an adapter behind a colon,
`base:adapter`, whatever base the adapter's own configuration names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from magdi_ray.errors import ConfigError
from magdi_ray.storage import fetched, is_url

PACKAGE_SCHEME = "pkg://"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BASE_AND_ADAPTER = re.compile(r":(?!//)")
"""The colon of `base:adapter`; that of a scheme (pkg://, s3://) is none."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")


def resolve_model(name: str) -> str:
    """The path that `name` stands for; hub names and plain paths come back as they are. What lies at a URL never changes.

    Raises:
        RunError: there is nothing at the URL.
        ConfigError: a `pkg://` name whose package is not installed or holds no such file or directory.
    """
    if is_url(name):
        return str(fetched(name))
    if not name.startswith(PACKAGE_SCHEME):
        return name
    package, _, path = name.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or not path or not {"..", "/"}.isdisjoint(PurePosixPath(path).parts):
        raise ConfigError(f"What is shipped with a package is written pkg://package/path, found {name!r}. Write it so.")
    root = next(iter(_directories(package)), None)
    if root is None:
        raise ConfigError(f"{name}: package {package!r} is not installed here. Install it, or name a directory.")
    found = Path(root) / path
    if not found.exists():
        raise ConfigError(f"{name}: package {package!r} holds no {path!r}. Check the path.")
    return str(found)


def _directories(package: str) -> list[str]:
    """Where an installed package's files are. The package is not imported, which would run it: an adapter may name any."""
    with suppress(ValueError):
        spec = find_spec(package)
        return list(spec.submodule_search_locations or ()) if spec else []
    return []


def split_adapter(name: str) -> tuple[str, str | None]:
    """Base and adapter of `base:adapter`; None without an adapter, and where a path of that very name exists.

    Raises:
        ConfigError: more than one adapter, or an empty half.
    """
    base, *adapters = [name] if Path(name).exists() else BASE_AND_ADAPTER.split(name)
    if not base or len(adapters) > 1 or "" in adapters:
        raise ConfigError(f"A model is named `base` or `base:adapter`, found {name!r}. Write it so.")
    return base, adapters[0] if adapters else None


def base_and_adapter(name: str) -> tuple[str, str | None]:
    """Where a model's base and adapter are: paths or hub names. A lone adapter directory names its base itself.

    Raises:
        ConfigError: see `split_adapter`, `resolve_model` and `adapter_base`.
    """
    base, adapter = split_adapter(name)
    base = resolve_model(base)
    if adapter is not None:
        return base, resolve_model(adapter)
    return (resolve_model(adapter_base(base)), base) if is_adapter(base) else (base, None)


def is_adapter(directory: str | Path) -> bool:
    """Whether a directory holds a PEFT adapter instead of full weights."""
    return (Path(directory) / "adapter_config.json").is_file()


def model_directories(names: Iterable[str]) -> list[str]:
    """Where the files of some models are, the base of an adapter that stands alone among them."""
    found = []
    for name in map(resolve_model, names):
        found += [name, resolve_model(adapter_base(name))] if is_adapter(name) else [name]
    return found


def adapter_base(directory: str | Path) -> str:
    """The name of the model an adapter was trained on.

    Raises:
        ConfigError: `adapter_config.json` cannot be read or names no base model.
    """
    file = Path(directory) / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file} cannot be read as a PEFT adapter's configuration: {error}. Save the adapter again with PEFT."
        ) from None
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{file} names no base model (base_model_name_or_path is {base!r}). Write its base's path there.")
    return base


def check_model_directory(name: str) -> None:
    """Check that a model's files are all there, adapters and their bases included. Hub names need the network and are not
    checked.

    Raises:
        ConfigError: what is missing, and where it was looked for.
    """
    base, adapter = split_adapter(name)
    if adapter is not None:
        _check_adapter(adapter)
        if is_adapter(resolve_model(base)):
            raise ConfigError(f"{name!r} puts an adapter on an adapter. Name the full weights before the colon.")
    directory = Path(resolve_model(base))
    if not directory.is_dir():
        if HUB_NAME.fullmatch(base) and not directory.parent.is_dir():
            return
        raise ConfigError(f"No model directory at {base!r}. Name a directory, pkg://package/path or a hub name (org/model).")
    if is_adapter(directory):
        _check_weights(directory, "adapter_model")
        check_model_directory(adapter_base(directory))
        return
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"{directory} is no model directory: it holds neither config.json nor adapter_config.json. Name the directory that "
            "`save_pretrained` wrote."
        )
    _check_weights(directory, "model")
    if not has_tokenizer(directory):
        raise ConfigError(f"{directory} holds no tokenizer: one of {', '.join(TOKENIZER_FILES)} is required.")


def _check_adapter(name: str) -> None:
    """Check what stands behind the colon of `base:adapter`."""
    directory = Path(resolve_model(name))
    if not directory.is_dir():
        if HUB_NAME.fullmatch(name) and not directory.parent.is_dir():
            return
        raise ConfigError(f"No adapter directory at {name!r}. Name a directory, pkg://package/path or a hub name (org/adapter).")
    if not is_adapter(directory):
        raise ConfigError(f"{directory} holds no adapter_config.json: it is no PEFT adapter. Name the directory of one.")
    _check_weights(directory, "adapter_model")


def has_tokenizer(directory: str | Path) -> bool:
    """Whether a tokenizer is saved in a directory."""
    return any((Path(directory) / file).is_file() for file in TOKENIZER_FILES)


def _check_weights(directory: Path, stem: str) -> None:
    """Weights are read from safetensors only: other formats can run code when they are loaded."""
    if (directory / f"{stem}.safetensors").is_file():
        return
    index = directory / f"{stem}.safetensors.index.json"
    if not index.is_file():
        raise ConfigError(f"{directory} holds no weights: {stem}.safetensors (or its shards and their index) is required.")
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if strays := [shard for shard in shards if Path(shard).name != shard]:
            raise ValueError(f"{strays[0]!r} is no file beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{index} cannot be read as an index of weight shards: {error!r}. Copy or download the model again."
        ) from None
    missing = sorted(shard for shard in shards if not (directory / shard).is_file())
    if missing:
        raise ConfigError(
            f"{directory} lacks {len(missing)} of {len(shards)} weight shards, the first is {missing[0]}. "
            "Copy or download the model again."
        )

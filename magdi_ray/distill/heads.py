"""The heads a student is trained with and does without: scorer, graph network, verifier. On disk they lie beside its weights.

The file says in its metadata what they were made as, so that whoever serves them makes them alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from magdi_ray.config.recipes import Contrast, Interaction, Reading, RecipeConfig, Verify
from magdi_ray.distill.graph_networks import GraphNetwork
from magdi_ray.errors import ConfigError

Head = TypeVar("Head", bound=nn.Module)


class Scorer(nn.Module):
    """`z = tanh(s(e))`, `s` = Linear-ReLU-Linear(1)."""

    def __init__(self, width: int, config: Contrast) -> None:
        super().__init__()
        self.reading = config.reading
        self.layers = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    def forward(self, embeddings_NH: Tensor) -> Tensor:
        """Scores [N] in (-1, 1)."""
        return torch.tanh(self.layers(embeddings_NH).squeeze(-1))


class Verifier(nn.Module):
    """The log-odds that a reply is correct: Linear-ReLU-Linear(1)."""

    def __init__(self, width: int, config: Verify) -> None:
        super().__init__()
        self.reading = config.reading
        self.layers = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    def forward(self, embeddings_NH: Tensor) -> Tensor:
        """Log-odds [N]."""
        return self.layers(embeddings_NH).squeeze(-1)  # type: ignore[no-any-return]


class Heads(NamedTuple):
    """Each is None where the recipe has no objective for it."""

    scorer: Scorer | None
    graph: GraphNetwork | None
    verifier: Verifier | None

    @property
    def readings(self) -> list[Reading]:
        """What each of those there are reads."""
        return [head.reading for head in self if head is not None]


def make_heads(width: int, recipe: RecipeConfig) -> Heads:
    """Fresh heads for a student of hidden size `width`."""
    chosen = {objective.name: objective for objective in recipe.objectives}
    contrast, interaction, verify = (chosen.get(name) for name in ("contrast", "interaction", "verify"))
    return Heads(
        Scorer(width, contrast) if isinstance(contrast, Contrast) else None,
        GraphNetwork(width, interaction) if isinstance(interaction, Interaction) else None,
        Verifier(width, verify) if isinstance(verify, Verify) else None,
    )


def save_heads(tensors: dict[str, Tensor], recipe: RecipeConfig, file: Path) -> None:
    """Write heads, if there are any: tensors "scorer.*", "graph.*" and "verifier.*"."""
    if tensors:
        made = {o.name: o.model_dump_json() for o in recipe.objectives if isinstance(o, Contrast | Interaction | Verify)}
        save_file(tensors, file, metadata=made)


def load_heads(file: Path, *, width: int) -> Heads:
    """The heads that were kept beside a student of hidden size `width`, in float32.

    Raises:
        ConfigError: the file cannot be read, or its heads do not fit the student.
    """
    if not file.is_file():
        return Heads(None, None, None)
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
            made = dict(stored.metadata() or {})
    except Exception as error:  # safetensors raises an error of its own, and the operating system's
        raise ConfigError(f"{file} cannot be read as the student's training heads: {error}. Export the student again.") from None
    scorer, graph, verifier = (_part(tensors, prefix) for prefix in ("scorer.", "graph.", "verifier."))
    try:
        return Heads(
            _fill(Scorer(width, _contrast(made, scorer)), scorer) if scorer else None,
            _fill(GraphNetwork(width, _interaction(made, graph)), _of_before(graph)) if graph else None,
            _fill(Verifier(width, Verify.model_validate_json(made["verify"])), verifier) if verifier else None,
        )
    except (KeyError, RuntimeError, ValidationError) as error:
        raise ConfigError(
            f"{file} holds heads that do not fit a student of hidden size {width}: {error}. They belong to another student: "
            "copy a student's directory as a whole."
        ) from None


def _contrast(made: dict[str, str], tensors: dict[str, Tensor]) -> Contrast:
    if "contrast" in made:
        return Contrast.model_validate_json(made["contrast"])
    return Contrast(name="contrast", hidden=len(tensors["layers.0.weight"]))


def _interaction(made: dict[str, str], tensors: dict[str, Tensor]) -> Interaction:
    if "interaction" in made:
        return Interaction.model_validate_json(made["interaction"])
    return Interaction(name="interaction", hidden=len(_of_before(tensors)["network.first.bias"]))


def _of_before(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a graph network under the names they have now; in files without metadata a GCN lies one level higher."""
    if any(name.startswith(("network.", "projection.")) for name in tensors):
        return tensors
    return {f"network.{name}": tensor for name, tensor in tensors.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _fill(head: Head, tensors: dict[str, Tensor]) -> Head:
    """A head with the weights it was left with."""
    head.load_state_dict(tensors)
    return head

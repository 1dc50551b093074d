"""A second module around the same weights, for ordinary forward passes while the first one decodes.

Continuous batching may switch the attention of the model it decodes with, and gives it arguments of its own; whoever wants hidden
states or log-probabilities of whole texts asks the twin.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import Any


def twin(model: Any) -> Any:
    """A copy of a model that shares all its parameters and buffers, with ordinary attention, in evaluation mode.

    It takes next to no memory. What is written to the weights of one is seen by the other.
    """
    kept = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    copied = deepcopy(model, kept)
    copied.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", True) else "eager")
    return copied.eval()

"""How good a reply is, as the student itself sees it: with the heads it was taught with, on the tokens it was taught on.

Everything is done as in training, by the same code: a prompt and a reply are a graph of one node without an edge (a GCN adds
every node's own loop by itself). Knows no HTTP and no Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import ContextLengthError, PromptError
from magdi_ray.agents.chat import encode_reply
from magdi_ray.agents.streaming import Scores
from magdi_ray.distill.batch import GraphBatch, collate
from magdi_ray.distill.graph_networks import GraphNetwork
from magdi_ray.distill.head import NodeLogps
from magdi_ray.distill.heads import Scorer, Verifier, load_heads
from magdi_ray.distill.job import HEADS
from magdi_ray.distill.objectives import pool
from magdi_ray.distill.student import decoder_of
from magdi_ray.distill.tokens import GraphTokens, NodeTokens
from magdi_ray.errors import ConfigError


class Judge:
    """A student and its heads, asked for judgements instead of replies. Threads may share it; they take turns."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, directory: str | Path, device: torch.device | str | None = None
    ) -> None:
        """`model` is a causal LM that reads padded rows, or a PEFT model around one, in evaluation mode and on `device` (None:
        that of its weights); `directory` holds the student's files, where the heads lie beside the weights.

        Raises:
            ConfigError: the heads cannot be read, or are another student's.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._device = torch.device(device) if device is not None else next(model.parameters()).device
        config = model.config.get_text_config()
        self._context_length = getattr(config, "max_position_embeddings", None)
        heads = load_heads(Path(directory) / HEADS, width=config.hidden_size)
        self._scorer, self._graph, self._verifier = heads
        self._layers = {reading.layer for reading in heads.readings} - {None}
        for head in heads:
            if head is not None:
                head.to(self._device).eval().requires_grad_(False)
        self._turn = threading.Lock()

    def score(self, prompt_ids: Sequence[int], reply: str) -> Scores:
        """Judge one reply to a prompt that is given as `encode_prompt` writes it. Blocks while the model reads it.

        Raises:
            PromptError: the prompt is empty; `ContextLengthError` where prompt and reply exceed the model's context.
        """
        return self.score_all([(prompt_ids, reply)])[0]

    def score_all(self, asked: Sequence[tuple[Sequence[int], str]]) -> list[Scores]:
        """Judge several replies, each to its own prompt, in one pass. Raises as `score` does, for any of them."""
        if not all(prompt_ids for prompt_ids, _ in asked):
            raise PromptError("A reply is judged as the answer to a prompt; the prompt holds no token.")
        nodes = [self._node(prompt_ids, reply) for prompt_ids, reply in asked]
        graphs = [GraphTokens("", tuple(prompt_ids), (node,), ()) for (prompt_ids, _), node in zip(asked, nodes, strict=True)]
        batch = collate(graphs, pad_id=0, next_token=False, replies=True).to(self._device)
        with self._turn, torch.no_grad():
            return self._judge(batch, tokens=[len(node.reply_ids) for node in nodes])

    @property
    def can_tell(self) -> bool:
        """Whether there is a head to judge with."""
        return any(head is not None for head in (self._scorer, self._graph, self._verifier))

    def _node(self, prompt_ids: Sequence[int], reply: str) -> NodeTokens:
        ids = (*encode_reply(self._tokenizer, reply), self._tokenizer.eos_token_id)
        if self._context_length is not None and len(prompt_ids) + len(ids) > self._context_length:
            raise ContextLengthError(
                f"The prompt's {len(prompt_ids)} tokens and the reply's {len(ids)} (its end included) exceed the "
                f"{self._context_length} tokens that the model can read. Shorten one of them."
            )
        return NodeTokens(ids, False, "")

    def _judge(self, batch: GraphBatch, *, tokens: Sequence[int]) -> list[Scores]:
        decoder, logps = decoder_of(self._model), self._logps
        rows = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
        found = decoder(use_cache=False, output_hidden_states=bool(self._layers), **rows)
        hidden_SH = found.last_hidden_state.flatten(0, 1)

        def embedding(head: Scorer | GraphNetwork | Verifier) -> Tensor:
            layer = head.reading.layer
            read_SH = hidden_SH if layer is None else found.hidden_states[layer].flatten(0, 1)
            return pool(read_SH, batch, over=head.reading.over)

        assert batch.replies_3R is not None
        predict_R, targets_R, node_R = batch.replies_3R
        logps_N = logps(hidden_SH[predict_R], targets_R, node_R, len(tokens)).tolist()
        correct = contrast = [None] * len(tokens)
        if self._verifier is not None:
            correct = self._verifier(embedding(self._verifier)).sigmoid().tolist()
        elif self._graph is not None:
            correct = self._graph(embedding(self._graph), batch.edges_2E, batch.types_E).softmax(dim=-1)[:, 1].tolist()
        if self._scorer is not None:
            contrast = self._scorer(embedding(self._scorer)).tolist()
        return [Scores(*found) for found in zip(logps_N, tokens, contrast, correct, strict=True)]

    @cached_property
    def _logps(self) -> nn.Module:
        try:
            return NodeLogps(self._model)
        except ConfigError as error:
            # Such a model can be served, though none of our students is one.
            raise PromptError(f"Replies of this model cannot be scored: {error}") from None

"""From tokenised graphs to tensors: one packed row, or one padded row a node. Copies nothing back into the dataset.

Both layouts give the same batch: the decoder reads rows, everything after it reads the flat tokens of all rows by index.

Shape suffixes, here and in the whole package: G graphs, N nodes, B rows, T tokens of a row, S = B x T tokens, M supervised
tokens, R reply tokens of all nodes, P pairs, E edges, H hidden, V vocabulary, C spans (a prompt or a reply in a row).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from magdi_ray.distill.packing import Layout, Span, lay_out, packed_ids, positions
from magdi_ray.distill.teaching import NOTHING, Lesson
from magdi_ray.distill.tokens import GraphTokens
from magdi_ray.errors import GraphError


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over the whole step, all workers and micro-batches, by graphs' weights: what each mean divides by. Never zero."""

    supervised: float
    nodes: float
    pairs: float


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """The graphs of one micro-batch."""

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    """From 0 in each node's `prompt + reply`."""
    attention_mask_BT: Tensor
    """1 on real tokens, 0 on padding."""
    layout: Layout | None
    """Of a packed row; None where every node has a row of its own."""
    predict_M: Tensor
    """Flat index of the token whose successor is supervised: a reply's first token is predicted from its prompt's last."""
    targets_M: Tensor
    times_M: Tensor | None
    """What this token's loss is multiplied with: its graph's weight times its node's, added up over the nodes it is supervised
    for, as a shared prompt's tokens are for several; None: 1 each."""
    segment_S: Tensor
    """The span each token lies in."""
    spans_2N: Tensor
    """Row 0 the span of a node's prompt, row 1 that of its reply: the tokens its embedding is made of."""
    correct_N: Tensor
    """1 for correct nodes, else 0 (int64); a negative control's own."""
    pairs_2P: Tensor
    """Row 0 correct, row 1 incorrect node, of the same graph; all such pairs."""
    edges_2E: Tensor
    types_E: Tensor
    """Of each edge, its type's place in `EDGE_TYPES` (int64)."""
    weight_N: Tensor | None = None
    """Of each node's graph, in every mean; None: 1 each."""
    replies_3R: Tensor | None = None
    """Of every reply token of every node, correct or not: the flat index of the token it is predicted from, the token itself, and
    its node's number. None where no objective compares whole replies."""
    frozen_NH: Tensor | None = None
    """Embeddings of the untrained student, where an objective wants them."""
    reference_N: Tensor | None = None
    """Log-probabilities of the replies under the untrained student, where an objective wants them."""

    def to(self, device: torch.device | str) -> GraphBatch:
        """The batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class Rows(NamedTuple):
    """Tokens in their rows, and where each node's prompt and reply lie among the flat tokens."""

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    attention_mask_BT: Tensor
    layout: Layout | None
    prompts: list[Span]
    """One a node; nodes that share a prompt name the same span."""
    replies: list[Span]


def collate(
    graphs: Sequence[GraphTokens],
    *,
    pad_id: int,
    packed: bool = False,
    next_token: bool = True,
    loss_on_prompt: bool = False,
    replies: bool = False,
) -> GraphBatch:
    """Put some graphs into one batch.

    A node is supervised on the reply tokens that are taught of it (`NodeTokens.taught`: of a correct one, all), with
    `loss_on_prompt` on its prompt's too where its whole reply is; never on padding. Without `next_token` no token is. With
    `replies` the reply tokens of all nodes are listed beside.

    Raises:
        GraphError: a prompt is empty, so that nothing could predict a reply's first token.
    """
    if empty := [graph.question_id for graph in graphs if not graph.prompt_ids]:
        raise GraphError(f"Every question needs at least one token; found none in {empty[:3]}. Check the task's prompt.")
    rows = _packed_rows(graphs) if packed else _padded_rows(graphs, pad_id)
    lessons = [node.taught if next_token else NOTHING for graph in graphs for node in graph.nodes]
    pairs, edges = _structure(graphs)
    weights = [graph.weight for graph in graphs for _ in graph.nodes]
    predict_M, times_M = _supervised(rows, lessons, weights, loss_on_prompt)
    segment_S, spans_2N = _spans(rows)
    return GraphBatch(
        input_ids_BT=rows.input_ids_BT,
        position_ids_BT=rows.position_ids_BT,
        attention_mask_BT=rows.attention_mask_BT,
        layout=rows.layout,
        predict_M=predict_M[0],
        targets_M=rows.input_ids_BT.flatten()[predict_M[1]],
        times_M=times_M,
        segment_S=segment_S,
        spans_2N=spans_2N,
        correct_N=torch.tensor([label for graph in graphs for label in compared(graph)], dtype=torch.long),
        pairs_2P=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T.contiguous(),
        edges_2E=torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous(),
        types_E=torch.tensor([kind for graph in graphs for kind in graph.types or [0] * len(graph.edges)], dtype=torch.long),
        weight_N=torch.tensor(weights, dtype=torch.float32) if any(weight != 1.0 for weight in weights) else None,
        replies_3R=_replies(rows) if replies else None,
    )


def _packed_rows(graphs: Sequence[GraphTokens]) -> Rows:
    layout = lay_out(graphs)
    input_ids_1T = torch.tensor([packed_ids(graphs)], dtype=torch.long)
    return Rows(
        input_ids_1T,
        torch.tensor([positions(layout)], dtype=torch.long),
        torch.ones_like(input_ids_1T),
        layout,
        [graph.prompt for graph in layout.graphs for _ in graph.replies],
        [reply for graph in layout.graphs for reply in graph.replies],
    )


def _padded_rows(graphs: Sequence[GraphTokens], pad_id: int) -> Rows:
    nodes = [(graph.prompt_ids, node.reply_ids) for graph in graphs for node in graph.nodes]
    width = max(len(prompt) + len(reply) for prompt, reply in nodes)
    input_ids_NT = torch.full((len(nodes), width), pad_id, dtype=torch.long)
    attention_mask_NT = torch.zeros((len(nodes), width), dtype=torch.long)
    prompts: list[Span] = []
    replies: list[Span] = []
    for row, (prompt, reply) in enumerate(nodes):
        length = len(prompt) + len(reply)
        input_ids_NT[row, :length] = torch.tensor((*prompt, *reply))
        attention_mask_NT[row, :length] = 1
        prompts.append(Span(row * width, row * width + len(prompt)))
        replies.append(Span(prompts[-1].end, row * width + length))
    position_ids_NT = torch.arange(width).repeat(len(nodes), 1)
    return Rows(input_ids_NT, position_ids_NT, attention_mask_NT, None, prompts, replies)


def _supervised(
    rows: Rows, lessons: Sequence[Lesson], weights: Sequence[float], loss_on_prompt: bool
) -> tuple[Tensor, Tensor | None]:
    """[2, M]: the token that predicts and the one that is predicted, flat; and each token's `times_M`."""
    predict: list[int] = []
    target: list[int] = []
    times: list[float] = []
    chosen = [i for i, lesson in enumerate(lessons) if lesson.weight > 0]
    each = [weight * lesson.weight for weight, lesson in zip(weights, lessons, strict=True)]
    shared: dict[Span, float] = {}
    for i in (i for i in chosen if loss_on_prompt and not lessons[i].start):
        shared[rows.prompts[i]] = shared.get(rows.prompts[i], 0.0) + each[i]
    for prompt, count in shared.items():
        predict += range(prompt.start, prompt.end - 1)
        target += range(prompt.start + 1, prompt.end)
        times += [count] * (prompt.length - 1)
    for i in chosen:
        prompt, reply = rows.prompts[i], rows.replies[i]
        start = lessons[i].start
        predict += _predictors(prompt, reply)[start:]
        target += range(reply.start + start, reply.end)
        times += [each[i]] * (reply.length - start)
    weighted = torch.tensor(times, dtype=torch.float32) if any(count != 1.0 for count in times) else None
    return torch.tensor([predict, target], dtype=torch.long), weighted


def _predictors(prompt: Span, reply: Span) -> list[int]:
    return [prompt.end - 1, *range(reply.start, reply.end - 1)][: reply.length]


def _replies(rows: Rows) -> Tensor:
    """[3, R]: the token that predicts, the id that is predicted, the node."""
    predict: list[int] = []
    target: list[int] = []
    node: list[int] = []
    for number, (prompt, reply) in enumerate(zip(rows.prompts, rows.replies, strict=True)):
        predict += _predictors(prompt, reply)
        target += range(reply.start, reply.end)
        node += [number] * reply.length
    targets_R = rows.input_ids_BT.flatten()[torch.tensor(target, dtype=torch.long)]
    return torch.stack([torch.tensor(predict, dtype=torch.long), targets_R, torch.tensor(node, dtype=torch.long)])


def _spans(rows: Rows) -> tuple[Tensor, Tensor]:
    """The span of each token, and the two spans of each node. Padding is counted to some span: it weighs nothing."""
    number: dict[Span, int] = {}
    for span in rows.prompts:
        number.setdefault(span, len(number))
    prompt_N = [number[span] for span in rows.prompts]
    reply_N = list(range(len(number), len(number) + len(rows.replies)))
    segment_S = torch.zeros(rows.input_ids_BT.numel(), dtype=torch.long)
    for span, index in [*number.items(), *zip(rows.replies, reply_N, strict=True)]:
        segment_S[span.start : span.end] = index
    return segment_S, torch.tensor([prompt_N, reply_N], dtype=torch.long)


def compared(graph: GraphTokens) -> tuple[bool, ...]:
    """The labels that are compared: the nodes' own, but for a negative control."""
    return graph.compared or tuple(node.correct for node in graph.nodes)


def _structure(graphs: Sequence[GraphTokens]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(correct, incorrect) pairs and (source, target) edges, over the nodes of all graphs."""
    pairs: list[tuple[int, int]] = []
    edges: list[tuple[int, int]] = []
    first = 0
    for graph in graphs:
        right = [first + i for i, label in enumerate(compared(graph)) if label]
        wrong = [first + i for i, label in enumerate(compared(graph)) if not label]
        pairs += [(p, n) for p in right for n in wrong]
        edges += [(first + source, first + target) for source, target in graph.edges]
        first += len(graph.nodes)
    return pairs, edges

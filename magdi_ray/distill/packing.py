"""A packed row: the prompt of each graph once, then its replies, graph after graph, without padding. Knows no tensors, no model.

    tokens       [prompt 0      ] [reply 0.0] [reply 0.1    ] [prompt 1] [reply 1.0]
    positions     0 1 2 3 4 5 6    7 8 9 10    7 8 9 10 11 12   0 1 2 3    4 5 6

A reply attends to its graph's prompt and to itself, a prompt to itself alone, always to what lies before. Since positions go on
from the prompt in every reply, each node's hidden states are those of `prompt + reply` alone (method.md section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from magdi_ray.distill.tokens import GraphTokens


class Span(NamedTuple):
    """Tokens `start` to `end` of a row, `end` not among them."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.end - self.start


class PackedGraph(NamedTuple):
    """Where one graph lies in the row."""

    prompt: Span
    replies: tuple[Span, ...]
    """In the order of the graph's nodes, one after the other behind the prompt; a span may be empty."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in a packed row. The one table from which every attention path takes who may see whom."""

    graphs: tuple[PackedGraph, ...]
    memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What an attention path derives from the table: made in the first layer, used in all."""

    @property
    def spans(self) -> list[Span]:
        """Every prompt and reply in the order of the row: together they are the whole row."""
        return [span for graph in self.graphs for span in (graph.prompt, *graph.replies)]

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return sum(span.length for span in self.spans)


def lay_out(graphs: Sequence[GraphTokens]) -> Layout:
    """The places of some graphs in one row."""
    packed: list[PackedGraph] = []
    at = 0
    for graph in graphs:
        spans: list[Span] = []
        for ids in (graph.prompt_ids, *(node.reply_ids for node in graph.nodes)):
            spans.append(Span(at, at + len(ids)))
            at += len(ids)
        packed.append(PackedGraph(spans[0], tuple(spans[1:])))
    return Layout(tuple(packed))


def packed_ids(graphs: Sequence[GraphTokens]) -> list[int]:
    """The tokens of the row."""
    return [token for graph in graphs for ids in (graph.prompt_ids, *(node.reply_ids for node in graph.nodes)) for token in ids]


def positions(layout: Layout) -> list[int]:
    """Each token's place in `prompt + reply`, from 0: every reply goes on where its graph's prompt ends."""
    places: list[int] = []
    for graph in layout.graphs:
        places += range(graph.prompt.length)
        for reply in graph.replies:
            places += range(graph.prompt.length, graph.prompt.length + reply.length)
    return places


def segments(layout: Layout) -> tuple[list[int], list[int]]:
    """Of each token: the number of the span it lies in, and the number of the prompt it hangs on (a prompt hangs on itself)."""
    own: list[int] = []
    prompt: list[int] = []
    number = 0
    for graph in layout.graphs:
        first = number
        for span in (graph.prompt, *graph.replies):
            own += [number] * span.length
            prompt += [first] * span.length
            number += 1
    return own, prompt

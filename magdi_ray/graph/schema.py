"""The multi-agent interaction graph (MAG): every reply is a node, every "was shown to" is an edge.

The exchange format of the project: every way of generating data returns MAGs, and nothing downstream reads anything else.
A MAG knows nothing of tokens, tensors or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from magdi_ray.debate.transcript import ConfidenceSource, Debate, Role, Status, Turn
from magdi_ray.tasks.base import Question

SCHEMA_VERSION = 2
"""Raised whenever a reader of the previous version would misread a file. Version 1, without `critique` edges, is still read."""

EdgeType = Literal["self", "peer", "critique"]
"""self: the agent's own earlier reply. critique: another agent's, given as a critic. peer: any other reply of another agent."""
EDGE_TYPES: tuple[EdgeType, ...] = ("self", "peer", "critique")
LabelSource = Literal["gold", "vote", "judge", "none"]
LabelChoice = Literal["gold", "vote", "gold_or_vote", "judge", "none"]
"""What labels are to come from; gold_or_vote leaves it to each question: its gold answer where it has one, else the vote."""


@dataclass(frozen=True, slots=True)
class Node:
    """One reply `(agent, round)`."""

    agent: str
    round: int
    role: Role
    """What the agent was asked to do."""
    model: str
    text: str
    """The reply as it came; a structured one (JSON) as prose."""
    reasoning: str
    """The reply without its answer and confidence statements."""
    answer: str | None
    confidence: float | None
    confidence_source: ConfidenceSource
    correct: bool | None
    """The node's label; None where the graph has no labels (`Mag.labels == "none"`)."""
    tokens_in: int
    tokens_out: int
    status: Status


@dataclass(frozen=True, slots=True)
class Edge:
    """The reply at `source` was shown to the agent before it gave the reply at `target`. `source < target`: no cycles."""

    source: int
    target: int
    type: EdgeType


@dataclass(frozen=True, slots=True)
class Mag:
    """One debate as a graph. `nodes` are ordered by round, so edges only run forward."""

    question: Question
    protocol: str
    agents: tuple[str, ...]
    answer: str | None
    """The team's answer."""
    agreement: float
    """As in `Debate.agreement`."""
    stopped: str
    labels: LabelSource
    """Where `Node.correct` comes from."""
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @property
    def correct(self) -> bool | None:
        """Whether the team's answer carries the label of a correct node; None when no node gives that answer."""
        return next((node.correct for node in reversed(self.nodes) if node.answer == self.answer and self.answer), None)


def edge_type(source: Turn | Node, target: Turn | Node) -> EdgeType:
    """The type of the edge between two replies."""
    if source.agent == target.agent:
        return "self"
    return "critique" if source.role == "critic" else "peer"


def labelled_by(choice: LabelChoice, debate: Debate | Mag) -> LabelSource:
    """Where the labels of one debate come from under a choice for all of them."""
    if choice != "gold_or_vote":
        return choice
    return "vote" if debate.question.gold is None else "gold"


def reference(source: LabelSource, debate: Debate | Mag) -> str | None:
    """The answer that labels of some source are measured against; None where a debate has none.

    A judge's is what it answered, or what all agents agreed on where none was asked; never the vote that stood in for a judge
    whose reply holds no answer.
    """
    match source:
        case "gold":
            return debate.question.gold
        case "vote":
            return debate.answer
        case "judge":
            said = debate.turns if isinstance(debate, Debate) else debate.nodes
            judges = [reply.answer for reply in said if reply.role == "judge"]
            return judges[-1] if judges else debate.answer if debate.stopped == "consensus" else None
        case "none":
            return None


NODE = pa.struct(
    [
        pa.field("agent", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("confidence", pa.float64()),
        pa.field("confidence_source", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("tokens_in", pa.int64(), nullable=False),
        pa.field("tokens_out", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
    ]
)

EDGE = pa.struct(
    [
        pa.field("source", pa.int32(), nullable=False),
        pa.field("target", pa.int32(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
    ]
)

MAG_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("agents", pa.list_(pa.string()), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("agreement", pa.float64(), nullable=False),
        pa.field("stopped", pa.string(), nullable=False),
        pa.field("labels", pa.string(), nullable=False),
        pa.field("nodes", pa.list_(NODE), nullable=False),
        pa.field("edges", pa.list_(EDGE), nullable=False),
        pa.field("solution", pa.string()),
    ],
    metadata={"magdi_ray.schema": "mag", "magdi_ray.schema_version": str(SCHEMA_VERSION)},
)
"""`solution` is the question's, where one was published; files from before there was such a column are read too."""

"""From a debate to its graph. Pure: the nodes are the replies, the edges are what was really shown."""

from __future__ import annotations

from magdi_ray.debate.reading import reasoning_of
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.errors import GraphError
from magdi_ray.graph.schema import Edge, LabelChoice, LabelSource, Mag, Node, edge_type, labelled_by, reference
from magdi_ray.tasks.base import Task


def build_mag(debate: Debate, task: Task, *, labels: LabelChoice = "gold") -> Mag:
    """The interaction graph of one debate (method.md section 2).

    `labels` says what a node's `correct` is measured against (`magdi_ray.graph.schema.reference`): the question's gold answer, or
    the team's own. Where the reference is absent the graph is unlabelled (`labels="none"`), never guessed.

    Raises:
        GraphError: a turn was shown a reply that is not earlier than itself.
    """
    chosen = labelled_by(labels, debate)
    right = reference(chosen, debate)
    source: LabelSource = chosen if right is not None else "none"
    return Mag(
        question=debate.question,
        protocol=debate.protocol,
        agents=debate.agents,
        answer=debate.answer,
        agreement=debate.agreement,
        stopped=debate.stopped,
        labels=source,
        nodes=tuple(_node(turn, task, right) for turn in debate.turns),
        edges=tuple(edge for target in range(len(debate.turns)) for edge in _edges_into(debate, target)),
    )


def _node(turn: Turn, task: Task, right: str | None) -> Node:
    return Node(
        agent=turn.agent,
        round=turn.round,
        role=turn.role,
        model=turn.model,
        text=turn.text,
        reasoning=reasoning_of(task, turn.text),
        answer=turn.answer,
        confidence=turn.confidence,
        confidence_source=turn.confidence_source,
        correct=None if right is None else task.same(turn.answer, right),
        tokens_in=turn.tokens_in,
        tokens_out=turn.tokens_out,
        status=turn.status,
    )


def _edges_into(debate: Debate, target: int) -> list[Edge]:
    turn = debate.turns[target]
    edges = []
    for source in turn.shown:
        if not 0 <= source < target:
            raise GraphError(
                f"question {debate.question.id!r}: turn {target} says it was shown turn {source}. "
                "A reply can only be shown earlier replies; the transcript is damaged."
            )
        edges.append(Edge(source, target, edge_type(debate.turns[source], turn)))
    return edges

"""From a MAG to token ids: every selected node once, with what is taught and what is not. Knows no tensors.

Each node and graph that is left out is counted with its reason; nothing is dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import Message
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.config.recipes import Contrast, Interaction, NodeSelection, RecipeConfig
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.text import student_reply
from magdi_ray.tasks.base import Task


@dataclass(frozen=True, slots=True)
class NodeTokens:
    """One reply as the student reads it: `prompt_ids + reply_ids`."""

    reply_ids: tuple[int, ...]
    """Reasoning and answer sentence, closed by the end-of-sequence token."""
    correct: bool
    key: str
    """"question/position in its graph", unique in a dataset."""


@dataclass(frozen=True, slots=True)
class GraphTokens:
    """One graph, tokenised: the unit of work."""

    question_id: str
    prompt_ids: tuple[int, ...]
    """The chat-formatted question, shared by all nodes."""
    nodes: tuple[NodeTokens, ...]
    edges: tuple[tuple[int, int], ...]
    """(source, target) positions in `nodes`."""

    @property
    def pairs(self) -> int:
        """Number of (correct, incorrect) pairs."""
        right = sum(node.correct for node in self.nodes)
        return right * (len(self.nodes) - right)


@dataclass(frozen=True, slots=True)
class TokenisedGraphs:
    """A training set, and the books of what was left out of it."""

    graphs: tuple[GraphTokens, ...]
    skipped_nodes: dict[str, int] = field(default_factory=dict)
    skipped_graphs: dict[str, int] = field(default_factory=dict)


def best_agent(mags: Iterable[Mag]) -> str:
    """The agent with the most correct round-0 replies; ties go to the name that sorts first."""
    score: Counter[str] = Counter()
    for mag in mags:
        score.update({node.agent: int(bool(node.correct)) for node in mag.nodes if node.round == 0})
    return min(score, key=lambda agent: (-score[agent], agent))


def needs_incorrect(recipe: RecipeConfig) -> bool:
    """Whether any objective of a recipe looks at incorrect nodes; if none does, they are not even forwarded."""
    return any(isinstance(o, (Contrast, Interaction)) and o.weight > 0 for o in recipe.objectives)


def select_nodes(mag: Mag, selection: NodeSelection, best: str) -> list[int]:
    """Positions of the nodes a recipe learns from."""
    agents = {best} if selection.agents == "best" else set(mag.agents) if selection.agents == "all" else set(selection.agents)
    return [
        i
        for i, node in enumerate(mag.nodes)
        if node.agent in agents and node.role in selection.roles and (selection.rounds == "all" or node.round in selection.rounds)
    ]


def tokenise(
    mags: Sequence[Mag], task: Task, *, tokenizer: PreTrainedTokenizerBase, recipe: RecipeConfig, max_length: int
) -> TokenisedGraphs:
    """Tokenise the part of every graph that a recipe learns from.

    Where no objective looks at the structure, every node becomes a graph of its own: nothing ties the replies to one question
    together then, and a step that holds many replies to few questions would be a poorer sample.

    Left out and counted: nodes with no reasoning after agreement sentences are removed, nodes longer than `max_length` tokens,
    incorrect nodes where no objective uses them; unlabelled graphs and graphs of which no node is left.
    """
    nodes: Counter[str] = Counter()
    graphs: Counter[str] = Counter()
    kept: list[GraphTokens] = []
    best = best_agent(mags) if recipe.nodes.agents == "best" else ""
    for mag in mags:
        if mag.labels == "none":
            graphs["unlabelled"] += 1
            continue
        graph = _tokenise_graph(mag, task, tokenizer, recipe, best, max_length, nodes)
        if graph.nodes:
            kept += [graph] if needs_incorrect(recipe) else [replace(graph, nodes=(node,), edges=()) for node in graph.nodes]
        else:
            graphs["no usable node"] += 1
    return TokenisedGraphs(tuple(kept), dict(nodes), dict(graphs))


def _tokenise_graph(
    mag: Mag,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    recipe: RecipeConfig,
    best: str,
    max_length: int,
    skipped: Counter[str],
) -> GraphTokens:
    prompt_ids = tuple(encode_prompt(tokenizer, [Message("user", task.prompt(mag.question))]))
    keep_incorrect = needs_incorrect(recipe)
    place: dict[int, int] = {}
    nodes: list[NodeTokens] = []
    for position in select_nodes(mag, recipe.nodes, best):
        node = mag.nodes[position]
        text = student_reply(task, node)
        if not node.correct and not keep_incorrect:
            skipped["incorrect, and no objective uses it"] += 1
        elif text is None:
            skipped["no reasoning left to teach"] += 1
        else:
            ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
            if len(prompt_ids) + len(ids) > max_length:
                skipped[f"longer than max_length {max_length}"] += 1
                continue
            place[position] = len(nodes)
            nodes.append(NodeTokens(ids, bool(node.correct), f"{mag.question.id}/{position}"))
    edges = tuple((place[e.source], place[e.target]) for e in mag.edges if e.source in place and e.target in place)
    return GraphTokens(mag.question.id, prompt_ids, tuple(nodes), edges)

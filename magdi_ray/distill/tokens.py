"""From a MAG to token ids: every selected node once, with what is taught and what is not. Knows no tensors and no files.

Nothing is dropped silently. Of a graph that is left out the reason is counted in `skipped_graphs`:

    unlabelled                                  the graph has no labels, or not those the recipe asks for (`distill.labels`)
    agreement below X                           `labels.min_agreement`
    no published solution                       `nodes.texts: gold_solutions`, and the question has no solution or no gold answer
    no usable node                              all its nodes were left out

Of a node, in `skipped_nodes`:

    not selected by the recipe                  its agent, round, role or label (`recipe.nodes`)
    incorrect, and no objective uses it         it would carry no loss at all
    incorrect, nothing of it taught             `next_token.after_divergence`: it ends where it goes wrong, or nobody is right
    empty reply                                 neither reasoning nor an answer in it
    no reasoning left to teach                  an answer alone, or nothing but agreement with others
    longer than max_length N                    prompt and reply together; a reply is never cut: it would lose its answer
    spells a special token                      which this tokenizer cannot read as text; others can, and do

What is kept, but teaches less than a person might expect, is counted in `notes`:

    no correct node: teaches no next token      the graph serves the objectives that look at its structure
    one kind of node: no pair                   nothing to contrast in this graph
    a single node                               no edge and no pair; the graph network still sees it
    node without next-token loss (incorrect)    all its labels are masked: it is only compared
    graph of the split S, not learned from      its question is held out

There is no upper bound on the nodes of a graph: one of 200 nodes is one unit of work, and may exceed a micro-batch's limit.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import Message, PromptError
from magdi_ray.agents.chat import encode_prompt, encode_reply
from magdi_ray.config.recipes import COMPARING, STRUCTURED, NodeSelection, RecipeConfig
from magdi_ray.debate.revision import revision_messages
from magdi_ray.distill.labels import LeftOut, disagreed, mistaught, relabel, weight_of
from magdi_ray.distill.teaching import Lesson, diverging, earlier, persuasive, plain
from magdi_ray.graph.schema import EDGE_TYPES, Mag, Node
from magdi_ray.graph.text import student_reply
from magdi_ray.tasks.base import Task

SOLUTION = -1
"""In place of a node's position: the question's published solution, which nobody replied."""
REVISION = -2
"""Minus a node's position: that node as a revision of its agent's earlier reply."""


@dataclass(frozen=True, slots=True)
class NodeTokens:
    """One reply as the student reads it: `prompt_ids + reply_ids`."""

    reply_ids: tuple[int, ...]
    """Reasoning and answer sentence, closed by the end-of-sequence token."""
    correct: bool
    key: str
    """"question/position in its graph", unique in a dataset."""
    lesson: Lesson | None = None
    """What of it is taught token by token; None: all of a correct reply, nothing of an incorrect one."""

    @property
    def taught(self) -> Lesson:
        """What of it is taught token by token."""
        return self.lesson or plain(self.correct)


@dataclass(frozen=True, slots=True)
class GraphTokens:
    """One graph, tokenised: the unit of work."""

    question_id: str
    prompt_ids: tuple[int, ...]
    """The chat-formatted question, shared by all nodes."""
    nodes: tuple[NodeTokens, ...]
    edges: tuple[tuple[int, int], ...]
    """(source, target) positions in `nodes`."""
    types: tuple[int, ...] = ()
    """Of each edge, its type's place in `EDGE_TYPES`; empty: all of the first type."""
    weight: float = 1.0
    """How much it counts for in every objective's mean (`distill.labels.weight_of`)."""
    compared: tuple[bool, ...] = ()
    """The labels that objectives see which compare nodes, in a negative control; empty: the nodes' own."""

    @property
    def pairs(self) -> int:
        """Number of (correct, incorrect) pairs."""
        right = sum(node.correct for node in self.nodes)
        return right * (len(self.nodes) - right)


@dataclass(frozen=True, slots=True)
class TokenisedGraphs:
    """Units of work, and the books of what was left out."""

    graphs: tuple[GraphTokens, ...]
    skipped_nodes: dict[str, int] = field(default_factory=dict)
    skipped_graphs: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    """Of what was kept."""


def node_key(question_id: str, position: int) -> str:
    """The key of a node: "q1/4", "q1/solution", or "q1/revision 4"."""
    if position <= REVISION:
        return f"{question_id}/revision {REVISION - position}"
    return f"{question_id}/{'solution' if position == SOLUTION else position}"


def node_position(key: str) -> int:
    """The position in a node's key."""
    kind, _, position = key.rpartition("/")[2].rpartition(" ")
    return REVISION - int(position) if kind else SOLUTION if position == "solution" else int(position)


def shuffled(graph: GraphTokens, control: str, number: int = 0) -> GraphTokens:
    """A graph, or its part of some number, as a negative control sees it; the same one every time.

    shuffled_labels: its labels, dealt out among its nodes anew. shuffled_edges: as many edges, each from any earlier node to any
    later one, their types dealt out anew.
    """
    drawn = random.Random(f"{control} {graph.question_id}" + (f" {number}" if number else ""))
    if control == "shuffled_labels":
        labels = [node.correct for node in graph.nodes]
        drawn.shuffle(labels)
        return replace(graph, compared=tuple(labels))
    if control == "shuffled_edges" and graph.edges:
        possible = [(source, target) for target in range(len(graph.nodes)) for source in range(target)]
        types = list(graph.types)
        drawn.shuffle(types)
        return replace(graph, edges=tuple(sorted(drawn.sample(possible, len(graph.edges)))), types=tuple(types))
    return graph


def _single(graph: GraphTokens) -> list[GraphTokens]:
    """Each node as a graph of its own."""
    return [_part(graph, (place,)) for place in range(len(graph.nodes))]


def dealt(graph: GraphTokens, together: int | None) -> list[GraphTokens]:
    """A graph in parts of at most `together` nodes, as few and as equal as can be; correct and incorrect nodes in turn."""
    if together is None or len(graph.nodes) <= together:
        return [graph]
    hands: list[list[int]] = [[] for _ in range(-(-len(graph.nodes) // together))]
    order = sorted(range(len(graph.nodes)), key=lambda place: not graph.nodes[place].correct)
    for number, place in enumerate(order):
        hands[number % len(hands)].append(place)
    return [_part(graph, sorted(hand)) for hand in hands]


def _part(graph: GraphTokens, places: Sequence[int]) -> GraphTokens:
    """Some nodes of a graph, and the edges between them."""
    new = {place: number for number, place in enumerate(places)}
    kept = [i for i, (source, target) in enumerate(graph.edges) if source in new and target in new]
    return replace(
        graph,
        nodes=tuple(graph.nodes[place] for place in places),
        edges=tuple((new[graph.edges[i][0]], new[graph.edges[i][1]]) for i in kept),
        types=tuple(graph.types[i] for i in kept) if graph.types else (),
        compared=tuple(graph.compared[place] for place in places) if graph.compared else (),
    )


def first_correct(mags: Iterable[Mag]) -> Counter[str]:
    """Each debater's number of correct round-0 replies; agents without one are named too."""
    score: Counter[str] = Counter()
    for mag in mags:
        first = [node for node in mag.nodes if node.round == 0 and node.role == "debater"]
        score.update({node.agent: 0 for node in first})
        score.update(node.agent for node in first if node.correct)
    return score


def best_of(score: Mapping[str, int]) -> str:
    """The agent with the most correct replies; ties go to the name that sorts first. "" where there is none."""
    return min(score, key=lambda agent: (-score[agent], agent), default="")


def best_agent(mags: Iterable[Mag]) -> str:
    """The agent with the most correct round-0 replies (`best_of`)."""
    return best_of(first_correct(mags))


def needs_incorrect(recipe: RecipeConfig) -> bool:
    """Whether any objective of a recipe looks at incorrect nodes; if none does, they are not even forwarded."""
    learned = recipe.next_token
    partly = learned is not None and learned.weight > 0 and learned.after_divergence > 0
    return partly or any(o.name in COMPARING and o.weight > 0 for o in recipe.objectives)


def needs_structure(recipe: RecipeConfig) -> bool:
    """Whether any objective of a recipe looks at several nodes of a graph at once."""
    return any(o.name in STRUCTURED and o.weight > 0 for o in recipe.objectives)


def select_nodes(mag: Mag, selection: NodeSelection, best: str) -> list[int]:
    """Positions of the nodes a recipe learns from."""
    agents = {best} if selection.agents == "best" else set(mag.agents) if selection.agents == "all" else set(selection.agents)
    return [i for i, node in enumerate(mag.nodes) if node.agent in agents and _selected(node, selection)]


def _selected(node: Node, selection: NodeSelection) -> bool:
    kind = "correct" if node.correct else "incorrect"
    in_round = selection.rounds == "all" or node.round in selection.rounds
    return in_round and node.role in selection.roles and selection.correct in ("both", kind)


def tokenise(
    mags: Iterable[Mag],
    task: Task,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: RecipeConfig,
    max_length: int,
    best: str | None = None,
) -> TokenisedGraphs:
    """Tokenise the part of every graph that a recipe learns from, under its labels.

    Where no objective looks at the structure, every node becomes a graph of its own: nothing ties the replies to one question
    together then, and a step that holds many replies to few questions would be a poorer sample.

    `best`: the agent that `recipe.nodes.agents: best` means; None: the best one of these very graphs. What is left out, and how
    it is counted, stands at the head of this module.
    """
    if best is None and recipe.nodes.agents == "best":
        mags = list(mags)
        labelled = (relabel(mag, recipe.labels, task) for mag in mags)
        best = best_agent(mag for mag in labelled if isinstance(mag, Mag))
    reader = _Reader(task, tokenizer, recipe, max_length, best or "")
    graphs = tuple(unit for mag in mags for unit in reader.units(mag))
    return TokenisedGraphs(graphs, dict(reader.skipped_nodes), dict(reader.skipped_graphs), dict(reader.notes))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one graph after the other, and keeps the books."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    recipe: RecipeConfig
    max_length: int
    best: str
    skipped_nodes: Counter[str] = field(default_factory=Counter)
    skipped_graphs: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def units(self, mag: Mag) -> list[GraphTokens]:
        """What a graph gives: one unit, one for each of its nodes, or none."""
        graph = self._solution(mag) if self.recipe.nodes.texts == "gold_solutions" else self._graph(mag)
        if isinstance(graph, LeftOut):
            self.skipped_graphs[graph.reason] += 1
            return []
        if not graph.nodes:
            self.skipped_graphs["no usable node"] += 1
            return []
        control = self.recipe.control
        if not needs_structure(self.recipe):
            return [*_single(shuffled(graph, control)), *self._revisions(mag)]
        parts = dealt(graph, self.recipe.nodes.together)
        for part in parts:
            self._note(part)
        # Each part by itself: it has to keep as many pairs and edges as the recipe's own.
        return [shuffled(part, control, number) for number, part in enumerate(parts)]

    def _revisions(self, mag: Mag) -> list[GraphTokens]:
        """The correct replies that revise their agent's earlier one, each after a prompt that shows it."""
        wanted = self.recipe.nodes.revisions
        labelled = None if wanted == "none" else self._labelled(mag)
        if not isinstance(labelled, Mag):
            return []
        units = []
        for place in select_nodes(labelled, self.recipe.nodes, self.best):
            node, before = labelled.nodes[place], earlier(labelled, place)
            if not node.correct or before is None or (labelled.nodes[before].correct and wanted == "corrections"):
                continue
            shown = student_reply(self.task, labelled.nodes[before])
            if shown is None:
                self.skipped_nodes["revision of an empty reply"] += 1
                continue
            prompt_ids = tuple(encode_prompt(self.tokenizer, revision_messages(self.task, mag.question, shown)))
            ids = self._reply(node, len(prompt_ids))
            if isinstance(ids, LeftOut):
                self.skipped_nodes[f"revision: {ids.reason}"] += 1
                continue
            revised = NodeTokens(ids, True, node_key(mag.question.id, REVISION - place))
            units.append(GraphTokens(mag.question.id, prompt_ids, (revised,), (), weight=weight_of(labelled, self.recipe.labels)))
        return units

    def _labelled(self, mag: Mag) -> Mag | LeftOut:
        """A graph under the recipe's labels, or under its control's."""
        labelled = relabel(mag, self.recipe.labels, self.task)
        if isinstance(labelled, LeftOut) or self.recipe.control != "shuffled_targets":
            return labelled
        either = self.recipe.nodes.model_copy(update={"correct": "both"})
        return mistaught(labelled, select_nodes(labelled, either, self.best))

    def _graph(self, mag: Mag) -> GraphTokens | LeftOut:
        labelled = self._labelled(mag)
        if isinstance(labelled, LeftOut):
            return labelled
        prompt_ids = self._prompt(mag)
        place: dict[int, int] = {}
        nodes: list[NodeTokens] = []
        chosen = select_nodes(labelled, self.recipe.nodes, self.best)
        if unselected := len(mag.nodes) - len(chosen):
            self.skipped_nodes["not selected by the recipe"] += unselected
        for position in chosen:
            node = labelled.nodes[position]
            ids = self._reply(node, len(prompt_ids))
            if isinstance(ids, LeftOut):
                self.skipped_nodes[ids.reason] += 1
                continue
            place[position] = len(nodes)
            nodes.append(NodeTokens(ids, bool(node.correct), node_key(mag.question.id, position)))
        nodes, place = self._with_lessons(labelled, nodes, place)
        kept = [edge for edge in mag.edges if edge.source in place and edge.target in place]
        edges = tuple((place[edge.source], place[edge.target]) for edge in kept)
        types = tuple(EDGE_TYPES.index(edge.type) for edge in kept)
        return GraphTokens(mag.question.id, prompt_ids, tuple(nodes), edges, types, weight_of(labelled, self.recipe.labels))

    def _with_lessons(self, mag: Mag, nodes: list[NodeTokens], place: dict[int, int]) -> tuple[list[NodeTokens], dict[int, int]]:
        """Nodes with what is taught of each, and their places; those that are then of no use to any objective are left out."""
        learned = self.recipe.next_token
        if learned is None or not (learned.after_divergence or learned.persuasion):
            return nodes, place
        lessons = [plain(node.correct) for node in nodes]
        if learned.after_divergence:
            replies, correct = [node.reply_ids for node in nodes], [node.correct for node in nodes]
            lessons = diverging(replies, correct, learned.after_divergence)
        if learned.persuasion:
            weights = persuasive(mag, learned.persuasion)
            for position, number in place.items():
                if nodes[number].correct:
                    lessons[number] = lessons[number]._replace(weight=weights[position])
        done = [replace(node, lesson=lesson) for node, lesson in zip(nodes, lessons, strict=True)]
        if any(o.name in COMPARING and o.weight > 0 for o in self.recipe.objectives):
            return done, place
        useful = [number for number, node in enumerate(done) if node.taught.weight > 0]
        self.skipped_nodes["incorrect, nothing of it taught"] += len(done) - len(useful)
        moved = {number: new for new, number in enumerate(useful)}
        kept = {position: moved[number] for position, number in place.items() if number in moved}
        return [done[number] for number in useful], kept

    def _solution(self, mag: Mag) -> GraphTokens | LeftOut:
        """The published solution as the one node. No reply is read, so neither labels nor a label's source are asked for."""
        question = mag.question
        if too_little := disagreed(mag, self.recipe.labels):
            return too_little
        if question.solution is None or question.gold is None:
            return LeftOut("no published solution")
        prompt_ids = self._prompt(mag)
        ids = self._encode(f"{question.solution}\n{self.task.state(question.gold)}", len(prompt_ids))
        if isinstance(ids, LeftOut):
            self.skipped_nodes[ids.reason] += 1
            return GraphTokens(question.id, prompt_ids, (), ())
        solution = NodeTokens(ids, True, node_key(question.id, SOLUTION))
        return GraphTokens(question.id, prompt_ids, (solution,), (), weight=weight_of(mag, self.recipe.labels))

    def _reply(self, node: Node, prompt: int) -> tuple[int, ...] | LeftOut:
        """Token ids of a node after a prompt of some length, or why it cannot be learned from."""
        if not node.correct and not needs_incorrect(self.recipe):
            return LeftOut("incorrect, and no objective uses it")
        if not node.reasoning.strip() and node.answer is None:
            return LeftOut("empty reply")
        text = student_reply(self.task, node)
        return LeftOut("no reasoning left to teach") if text is None else self._encode(text, prompt)

    def _encode(self, text: str, prompt: int) -> tuple[int, ...] | LeftOut:
        try:
            ids = (*encode_reply(self.tokenizer, text), self.tokenizer.eos_token_id)
        except PromptError:
            return LeftOut("spells a special token")
        return LeftOut(f"longer than max_length {self.max_length}") if prompt + len(ids) > self.max_length else ids

    def _prompt(self, mag: Mag) -> tuple[int, ...]:
        return tuple(encode_prompt(self.tokenizer, [Message("user", self.task.prompt(mag.question))]))

    def _note(self, graph: GraphTokens) -> None:
        wrong = sum(not node.correct for node in graph.nodes)
        found = {
            "no correct node: teaches no next token": wrong == len(graph.nodes),
            "one kind of node: no pair": graph.pairs == 0,
            "a single node": len(graph.nodes) == 1,
            "node without next-token loss (incorrect)": wrong,
        }
        self.notes.update({note: int(count) for note, count in found.items() if count})

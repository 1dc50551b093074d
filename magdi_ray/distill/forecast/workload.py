"""A workload: what one pass over a recipe's training data holds, counted from graphs or expected of a debate still to be held."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from magdi_ray.config.recipes import REPLIES, RecipeConfig
from magdi_ray.distill.tokens import GraphTokens, needs_incorrect, needs_structure


@dataclass(frozen=True, slots=True)
class Workload:
    """One pass over what a recipe learns from."""

    questions: int
    graphs: int
    """Units that are forwarded on their own: whole graphs, or single replies where no objective compares any."""
    nodes: int
    forwarded: int
    """Tokens through the student, padding not counted."""
    supervised: int
    """Tokens a step is filled up with: those with next-token loss; without such a loss, all of the replies."""
    headed: int
    """Tokens whose logits are computed."""
    attended: int
    """Pairs of a token and one it attends to, itself included."""
    reread: int
    """Tokens whose keys and values are laid side by side again for a reply: its prompt's and its own; 0 where rows are padded."""
    pairwise: int | None
    """Tokens a training pair by pair would forward: a correct and an incorrect sequence each, the smaller side repeated; None
    where nothing is compared."""
    largest: int
    """Tokens of the largest graph."""

    def without(self, questions: int) -> Workload:
        """The same with so many questions held out, as if all were alike."""
        return self.of(max(0, self.questions - questions))

    def of(self, questions: int) -> Workload:
        """That of so many questions, as if all were alike."""
        share = questions / max(1, self.questions)
        fields = ("questions", "graphs", "nodes", "forwarded", "supervised", "headed", "attended", "reread")
        kept = {name: round(getattr(self, name) * share) for name in fields}
        return replace(self, **kept, pairwise=None if self.pairwise is None else round(self.pairwise * share))


@dataclass(frozen=True, slots=True)
class Expected:
    """What is assumed of a debate that is still to be held; lengths in the student's tokens, on average."""

    questions: int
    nodes: float
    """Replies a recipe selects of one question."""
    most_nodes: int
    """The same where no debate stops early."""
    prompt: int
    reply: int
    correct_share: float

    def exceeds(self, max_length: int) -> str | None:
        """What to tell a person whose student would leave out replies of average length as too long."""
        if self.prompt + self.reply <= max_length:
            return None
        return (
            f"A prompt of {self.prompt} and a reply of {self.reply} tokens are longer than distil.student.max_length "
            f"({max_length}): training leaves such replies out, while this plan counts them. Raise it, or lower "
            "debate.estimate.reply_tokens."
        )


def expected_workload(found: Expected, recipe: RecipeConfig, *, packed: bool = True) -> Workload:
    """The workload of a debate that is still to be held.

    All replies count as equally long, and as correct or not independently of each other; none is left out for its length
    (`Expected.exceeds` says when some would be). What `next_token.after_divergence` leaves out of incorrect replies is not known
    yet, they count as taught whole; `nodes.revisions` come on top.
    """
    share = {"both": 1.0, "correct": found.correct_share, "incorrect": 1.0 - found.correct_share}[recipe.nodes.correct]
    together, all_kinds = needs_structure(recipe), needs_incorrect(recipe)
    correct_share = 1.0 if recipe.nodes.texts == "gold_solutions" else found.correct_share
    nodes = found.questions * found.nodes * (share if all_kinds else correct_share)
    correct = nodes * (1.0 if not all_kinds or recipe.nodes.correct == "correct" else found.correct_share)
    most = min(recipe.nodes.together or found.most_nodes, found.most_nodes)
    graphs = found.questions * math.ceil(max(1.0, found.nodes * share / most)) if together else nodes
    prompts = (graphs if packed else nodes) * found.prompt
    learned = recipe.next_token
    taught, headed = _taught(recipe, nodes if learned and learned.after_divergence else correct, nodes)
    tokens = found.reply + (found.prompt - 1 if _on_prompt(recipe) else 0)
    once = found.prompt * (found.prompt + 1) / 2
    return Workload(
        questions=found.questions,
        graphs=round(graphs),
        nodes=round(nodes),
        forwarded=round(prompts + nodes * found.reply),
        supervised=round(taught * tokens),
        headed=round(headed * tokens),
        attended=round(prompts / found.prompt * once + nodes * _reaches(found.prompt, found.reply)),
        reread=round(nodes * (found.prompt + found.reply)) if packed else 0,
        pairwise=round(2 * max(correct, nodes - correct) * (found.prompt + found.reply)) if together else None,
        largest=found.prompt + found.reply * (most if together else 1),
    )


def counted_workload(graphs: Iterable[GraphTokens], recipe: RecipeConfig, *, packed: bool = True) -> Workload:
    """The workload of graphs that exist, as tokenised for a recipe."""
    questions: set[str] = set()
    total = dict.fromkeys(("graphs", "nodes", "forwarded", "supervised", "headed", "attended", "reread", "pairwise"), 0)
    largest = 0
    for graph in graphs:
        prompt, replies = len(graph.prompt_ids), [len(node.reply_ids) for node in graph.nodes]
        right = sum(node.correct for node in graph.nodes)
        extra = prompt - 1 if _on_prompt(recipe) else 0
        lessons = [(len(node.reply_ids), node.taught) for node in graph.nodes]
        correct = sum(reply - of.start + (0 if of.start else extra) for reply, of in lessons if of.weight > 0)
        taught, headed = _taught(recipe, correct, sum(replies) + extra * len(replies))
        questions.add(graph.question_id)
        prompts = 1 if packed else len(replies)
        total["graphs"] += 1
        total["nodes"] += len(replies)
        total["forwarded"] += prompt * prompts + sum(replies)
        total["supervised"] += round(taught)
        total["headed"] += round(headed)
        total["attended"] += prompts * prompt * (prompt + 1) // 2 + sum(round(_reaches(prompt, reply)) for reply in replies)
        total["reread"] += prompt * len(replies) + sum(replies) if packed else 0
        total["pairwise"] += _pairwise(graph, right)
        largest = max(largest, prompt + sum(replies))
    if not needs_structure(recipe):
        return Workload(questions=len(questions), **{**total, "pairwise": None}, largest=largest)  # type: ignore[arg-type]
    return Workload(questions=len(questions), **total, largest=largest)


def _pairwise(graph: GraphTokens, right: int) -> int:
    """Tokens of `max(correct, incorrect)` pairs, the smaller side repeated in turn; one that is empty is a placeholder."""
    pairs, prompt = max(right, len(graph.nodes) - right), len(graph.prompt_ids)
    sides = [[len(node.reply_ids) for node in graph.nodes if node.correct == kind] for kind in (True, False)]
    return sum(prompt + (side[i % len(side)] if side else 0) for side in sides for i in range(pairs))


def _reaches(prompt: int, reply: int) -> float:
    """Pairs of a token of a reply and one it attends to: the prompt, and the reply up to itself."""
    return reply * prompt + reply * (reply + 1) / 2


def _on_prompt(recipe: RecipeConfig) -> bool:
    return any(o.name == "next_token" and o.loss_on_prompt for o in recipe.objectives)


def _taught(recipe: RecipeConfig, correct: float, every: float) -> tuple[float, float]:
    """What fills a step, and what needs logits, of `correct` and of `every` node."""
    names = {objective.name for objective in recipe.objectives}
    learned = correct if "next_token" in names else 0.0
    return (learned if "next_token" in names else every), learned + (every if names & REPLIES else 0.0)

"""A recipe: what is learned from a graph. The nodes, their labels, and the weighted objectives."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from magdi_ray.config.base import Section, later


class WeightSchedule(Section):
    """How an objective's weight moves while the student is trained."""

    type: Literal["constant", "warmup", "cosine"] = "constant"
    """constant: always `weight`. warmup: rises in a straight line from `ratio x weight` to `weight`, and stays there.
    cosine: falls (with a ratio above 1: rises) along half a cosine from `weight` to `ratio x weight`, and stays there."""
    steps: int | None = Field(None, ge=1)
    """Steps the way takes; None: the whole training."""
    ratio: float = Field(0.0, ge=0.0)


class NextToken(Section):
    """Mean token cross-entropy over the correct nodes' replies (method.md 3.1)."""

    name: Literal["next_token"]
    weight: float = Field(1.0, ge=0.0)
    loss_on_prompt: bool = False
    """Also learn the prompt's tokens, as the released MAGDi code does."""
    after_divergence: float = later(0.0, ge=0.0, le=1.0)
    """What a token of an incorrect reply counts for once the reply has left every correct one of its graph: what follows from a
    mistake may be sound again. 0: incorrect replies are not learned."""
    persuasion: float = later(0.0, ge=0.0)
    """How much more a correct reply counts for every agent that it turned from an incorrect answer; an agent that was shown
    several correct replies is shared among them. 0: all count alike."""
    schedule: WeightSchedule = WeightSchedule()


class Reading(Section):
    """Which of the student's hidden states a node's embedding is made of."""

    over: Literal["all", "reply"] = "all"
    """all: prompt and reply, as in the paper. reply: the reply alone."""
    layer: int | None = Field(None, ge=1)
    """After so many of its layers, without the final norm; None: after the last one and the norm, as in the paper. What is read
    at a lower layer reaches no weight above it."""
    stop: bool = later(False)
    """The gradient ends here: what reads the states learns, the student does not."""


class Contrast(Section):
    """Margin loss over every pair of a correct and an incorrect node of one graph (method.md 3.2)."""

    name: Literal["contrast"]
    weight: float = Field(0.1, ge=0.0)
    margin: float = Field(1.0, gt=0.0)
    hidden: int = Field(512, ge=1)
    """Width of the scorer's hidden layer."""
    reading: Reading = Reading()
    schedule: WeightSchedule = WeightSchedule()


class Interaction(Section):
    """A graph network predicts every node's label from the node embeddings (method.md 3.3)."""

    name: Literal["interaction"]
    weight: float = Field(1.0, ge=0.0)
    embeddings: Literal["live", "frozen"] = "live"
    """live: the gradient reaches the student. frozen: embeddings of the untrained student, computed once."""
    network: Literal["gcn", "rgcn", "gat"] = "gcn"
    """gcn: the paper's, which takes all edges for alike. rgcn: a weight of its own for each type of edge (arXiv 1703.06103). gat:
    each node chooses among those it was shown (arXiv 1710.10903)."""
    hidden: int = Field(512, ge=1)
    projection: int | None = Field(None, ge=1)
    """Embeddings are first brought to so many dimensions by a linear layer of their own; None: they are taken as they are."""
    reading: Reading = Reading()
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    schedule: WeightSchedule = WeightSchedule()


class Verify(Section):
    """A head tells of every reply by itself how likely it is correct; it is served with the student, to weigh its replies."""

    name: Literal["verify"]
    weight: float = Field(1.0, ge=0.0)
    hidden: int = Field(128, ge=1)
    """Width of the head's hidden layer."""
    reading: Reading = Reading(over="reply")
    schedule: WeightSchedule = WeightSchedule()


class Preference(Section):
    """Direct preference optimisation (arXiv 2305.18290, equation 7) over the pairs that `contrast` is taken over.

    The reference is the untrained student; its log-probabilities are computed once, before training.
    """

    name: Literal["preference"]
    weight: float = Field(1.0, ge=0.0)
    beta: float = Field(0.1, gt=0.0)
    """How strongly a student is held to the reference."""
    schedule: WeightSchedule = WeightSchedule()


class SimPO(Section):
    """Preference optimisation without a reference (arXiv 2405.14734, equation 6) over the pairs of `contrast`.

    A correct reply's tokens are to be likelier, in the mean, than an incorrect one's, by a margin.
    """

    name: Literal["simpo"]
    weight: float = Field(1.0, ge=0.0)
    beta: float = Field(2.0, gt=0.0)
    """Of the difference in mean log-probability."""
    gamma: float = Field(1.0, ge=0.0)
    """The margin; what counts is `gamma / beta`."""
    schedule: WeightSchedule = WeightSchedule()


class ORPO(Section):
    """The odds-ratio term of ORPO (arXiv 2403.07691, equation 6) over the pairs of `contrast`; its other term is `next_token`."""

    name: Literal["orpo"]
    weight: float = Field(0.1, ge=0.0)
    schedule: WeightSchedule = WeightSchedule()


Objective = Annotated[NextToken | Contrast | Interaction | Verify | Preference | SimPO | ORPO, Field(discriminator="name")]

REPLIES = frozenset({"preference", "simpo", "orpo"})
"""Objectives that look at the log-probabilities of whole replies."""
PAIRS = REPLIES | {"contrast"}
"""Objectives over the pairs of a correct and an incorrect node of one graph."""
STRUCTURED = PAIRS | {"interaction"}
"""Objectives that look at several nodes of a graph at once."""
COMPARING = STRUCTURED | {"verify"}
"""Objectives that look at incorrect nodes too."""
HEADED = frozenset({"contrast", "interaction", "verify"})
"""Objectives that train a head beside the student, which can rate replies."""


class LabelConfig(Section):
    """What makes a node correct for a recipe."""

    source: Literal["graph", "gold", "vote", "gold_or_vote", "judge"] = "graph"
    """graph: the labels the graphs carry (`graph.labels`). gold: the question's gold answer. vote: the debate's own answer.
    gold_or_vote: the gold answer where the question has one, else the debate's own. judge: the answer of the debate's judge, or
    what all agreed on where no judge was needed. Debates without the one named are left out, counted."""
    min_agreement: float = Field(0.0, ge=0.0, le=1.0)
    """Debates whose agents agreed less than this on the debate's answer are left out, counted."""
    weight: Literal["equal", "agreement"] = "equal"
    """How much a debate counts for in every objective's mean. agreement: as much as the share of its agents that gave its answer;
    with gold_or_vote, those labelled by their gold answer count in full. Dev graphs always count alike."""


class NodeSelection(Section):
    """Which replies are learned from."""

    texts: Literal["replies", "gold_solutions"] = "replies"
    """gold_solutions: in place of the replies, the worked solution published with each question, as one correct node; questions
    without one are left out, counted. The other fields then mean nothing and must keep their defaults."""
    correct: Literal["both", "correct", "incorrect"] = "both"
    """By label. Objectives that compare need both."""
    agents: Literal["all", "best"] | tuple[str, ...] = "all"
    """`best`: the one agent with the most correct round-0 replies on the training questions."""
    rounds: Literal["all"] | tuple[int, ...] = "all"
    roles: tuple[Literal["debater", "critic", "judge", "student"], ...] = ("debater",)
    """What a critic or a judge writes is about others' replies, which the student never sees. student: what a student at the
    table said itself (`students` of a protocol), for recipes that learn from its own replies."""
    together: int | None = later(None, ge=2)
    """So many replies of a graph, at most, are one unit of a step; a larger graph is dealt out over several units, correct and
    incorrect replies in turn, and edges between units are lost. A step then holds as many different questions as one of `level2`.
    None: a graph is one unit. Only where an objective looks at several replies at once; else every reply is a unit."""
    revisions: Literal["none", "corrections", "all"] = later("none")
    """Also learn to revise: shown the question and its own earlier reply, the student gives the agent's later, correct one.
    corrections: only where the earlier one was incorrect. all: also where it was correct and stayed so."""


class TrainChanges(Section):
    """What a recipe trains with instead of what `distil.train` says; None: as there."""

    learning_rate: float | None = Field(None, gt=0.0)
    heads_learning_rate: float | None = Field(None, gt=0.0)
    max_steps: int | None = Field(None, ge=1)
    """Also in place of `epochs`."""
    tokens_per_step: int | None = Field(None, ge=1)


class RecipeConfig(Section):
    """What is learned from a graph: which nodes, under which weighted objectives."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    nodes: NodeSelection = NodeSelection()
    labels: LabelConfig = LabelConfig()
    objectives: tuple[Objective, ...] = Field(min_length=1)
    train: TrainChanges = TrainChanges()
    control: Literal["none", "shuffled_labels", "shuffled_edges", "shuffled_targets"] = "none"
    """A negative control. shuffled_labels, shuffled_edges: what compares replies sees the labels of a graph dealt out among its
    nodes at random, or as many edges between other replies; what is learned token by token stays as it is. shuffled_targets:
    labels are dealt out before anything reads them, so that next_token learns as many replies of a graph, whichever."""

    @field_validator("objectives")
    @classmethod
    def _once_each(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        names = [objective.name for objective in value]
        if len(set(names)) < len(names):
            raise ValueError(f"an objective may appear once, found {names}")
        if all(objective.weight == 0 for objective in value):
            raise ValueError("at least one objective needs a weight above 0")
        return value

    @model_validator(mode="after")
    def _nodes_fit_the_objectives(self) -> RecipeConfig:
        names = {objective.name for objective in self.objectives if objective.weight > 0}
        comparing = sorted(names & COMPARING)
        if self.nodes.texts == "gold_solutions":
            if self.nodes != NodeSelection(texts="gold_solutions"):
                raise ValueError("nodes.texts: gold_solutions takes no other selection: there is one solution a question")
            if comparing:
                raise ValueError(f"{comparing} compare replies, but nodes.texts: gold_solutions leaves one node a question")
        if len(rivals := sorted(REPLIES & {objective.name for objective in self.objectives})) > 1:
            raise ValueError(f"{rivals} are rivals: each says by how much a correct reply is to be preferred. Choose one of them")
        if self.nodes.correct != "both" and names & PAIRS:
            raise ValueError(f"{comparing} need correct and incorrect nodes, but nodes.correct is {self.nodes.correct!r}")
        if self.nodes.correct == "incorrect" and "next_token" in names:
            raise ValueError("next_token learns from correct nodes, but nodes.correct is 'incorrect'")
        heads = [o for o in self.objectives if isinstance(o, Contrast | Interaction | Verify)]
        if names <= {head.name for head in heads if head.reading.stop}:
            raise ValueError(f"reading.stop keeps {sorted(names)} from the student, so it would learn nothing. Add next_token")
        self._lessons_fit(names)
        taught = names & {"next_token"} if self.nodes.texts == "replies" else set[str]()
        looking = {"shuffled_labels": names & COMPARING, "shuffled_edges": names & {"interaction"}, "shuffled_targets": taught}
        if not looking.get(self.control, names):
            raise ValueError(f"control {self.control!r} changes nothing: no objective with a weight looks at what it shuffles")
        return self

    def _lessons_fit(self, names: AbstractSet[str]) -> None:
        """Refuse what is to be learned token by token, and cannot be."""
        learned = self.next_token
        if learned is not None and learned.after_divergence and self.nodes.correct != "both":
            raise ValueError(
                "next_token.after_divergence compares incorrect replies with correct ones, but nodes.correct is "
                f"{self.nodes.correct!r}"
            )
        if self.nodes.revisions == "none":
            return
        if learned is None or not learned.weight:
            raise ValueError("nodes.revisions are learned token by token, but there is no objective next_token with a weight")
        if names & COMPARING:
            raise ValueError(
                f"nodes.revisions have prompts of their own, and {sorted(names & COMPARING)} compare replies to one prompt. "
                "Leave one of them out"
            )

    @property
    def next_token(self) -> NextToken | None:
        """What is learned token by token; None where nothing is."""
        return next((objective for objective in self.objectives if isinstance(objective, NextToken)), None)


_NEXT = NextToken(name="next_token")
_CONTRAST = Contrast(name="contrast")
_INTERACTION = Interaction(name="interaction")
_PREFERENCE = Preference(name="preference")
_SIMPO, _ORPO = SimPO(name="simpo"), ORPO(name="orpo")

RECIPES: dict[str, RecipeConfig] = {
    "level1": RecipeConfig(name="level1", nodes=NodeSelection(agents="best", rounds=(0,)), objectives=(_NEXT,)),
    "level2": RecipeConfig(name="level2", objectives=(_NEXT,)),
    "level3": RecipeConfig(name="level3", objectives=(_NEXT, _CONTRAST)),
    "level4": RecipeConfig(name="level4", objectives=(_NEXT, _INTERACTION, _CONTRAST)),
    "paper": RecipeConfig(name="paper", objectives=(_NEXT, _INTERACTION, _CONTRAST)),
    "sft_gold": RecipeConfig(name="sft_gold", nodes=NodeSelection(texts="gold_solutions"), objectives=(_NEXT,)),
    "dpo": RecipeConfig(name="dpo", objectives=(_PREFERENCE,)),
    "simpo": RecipeConfig(name="simpo", objectives=(_SIMPO,)),
    "orpo": RecipeConfig(name="orpo", objectives=(_NEXT, _ORPO)),
}
"""The paper's ablation (method.md section 3): one teacher, several teachers, + contrast, + interaction (MAGDi itself, also as
`paper`). Beside it baselines: fine-tuning on the published solutions, and three ways of preference optimisation on the pairs of
level 3."""

RecipeChoice = Literal["level1", "level2", "level3", "level4", "paper", "sft_gold", "dpo", "simpo", "orpo"] | RecipeConfig


def resolve_recipe(choice: RecipeChoice) -> RecipeConfig:
    """A recipe, given by name or written out."""
    return RECIPES[choice] if isinstance(choice, str) else choice

"""The configuration of distillation: the student, the recipe, the optimiser, the engine, the workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from magdi_ray.config.base import Section, operational


class ScratchModel(Section):
    """A causal LM with random weights and a byte-level BPE tokenizer trained on the run's own graphs.

    For tests and studies where no pretrained weights can be had. Field names are those of `transformers.LlamaConfig`.
    """

    architecture: Literal["llama"] = "llama"
    vocab_size: int = Field(4096, ge=300)
    hidden_size: int = Field(128, ge=8)
    intermediate_size: int = Field(256, ge=8)
    num_hidden_layers: int = Field(2, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    max_position_embeddings: int = Field(2048, ge=16)

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchModel:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


class FullTuning(Section):
    """All weights are trained."""

    type: Literal["full"]


class LoraTuning(Section):
    """Low-rank adapters (PEFT); the base weights stay as they are."""

    type: Literal["lora"]
    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "v_proj")


class StudentConfig(Section):
    """The model that learns; alone it is the product."""

    model: str | ScratchModel
    """A Hugging Face directory or hub name, `pkg://package/path`, or the shape of a model to be made from scratch."""
    tuning: Annotated[FullTuning | LoraTuning, Field(discriminator="type")] = LoraTuning(type="lora")
    max_length: int = Field(2048, ge=8)
    """Tokens of prompt and reply; a longer node is left out and counted."""
    packing: Literal["auto", "segments", "flex", "padded"] = operational("auto")
    """How a graph goes through the student; results are equal up to rounding, and to the draws of dropout.

    segments, flex: the question once for all its replies, by attention over segments or by FlexAttention (GPU only).
    padded: one padded row a reply, at several times the cost. auto: segments, or padded where the student's architecture cannot
    be packed. flex has not been run on a GPU yet."""


class NextToken(Section):
    """Mean token cross-entropy over the correct nodes' replies (method.md 3.1)."""

    name: Literal["next_token"]
    weight: float = Field(1.0, ge=0.0)
    loss_on_prompt: bool = False
    """Also learn the prompt's tokens, as the released MAGDi code does."""


class Contrast(Section):
    """Margin loss over every pair of a correct and an incorrect node of one graph (method.md 3.2)."""

    name: Literal["contrast"]
    weight: float = Field(0.1, ge=0.0)
    margin: float = Field(1.0, gt=0.0)
    hidden: int = Field(512, ge=1)
    """Width of the scorer's hidden layer."""


class Interaction(Section):
    """A graph network predicts every node's label from the node embeddings (method.md 3.3)."""

    name: Literal["interaction"]
    weight: float = Field(1.0, ge=0.0)
    embeddings: Literal["live", "frozen"] = "live"
    """live: the gradient reaches the student. frozen: embeddings of the untrained student, computed once."""
    hidden: int = Field(512, ge=1)
    dropout: float = Field(0.5, ge=0.0, lt=1.0)


Objective = Annotated[NextToken | Contrast | Interaction, Field(discriminator="name")]


class NodeSelection(Section):
    """Which replies are learned from."""

    agents: Literal["all", "best"] | tuple[str, ...] = "all"
    """`best`: the one agent with the most correct round-0 replies on the training questions."""
    rounds: Literal["all"] | tuple[int, ...] = "all"
    roles: tuple[Literal["debater", "critic", "judge"], ...] = ("debater",)
    """What a critic or a judge writes is about others' replies, which the student never sees."""


class RecipeConfig(Section):
    """What is learned from a graph: which nodes, under which weighted objectives."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    nodes: NodeSelection = NodeSelection()
    objectives: tuple[Objective, ...] = Field(min_length=1)

    @field_validator("objectives")
    @classmethod
    def _once_each(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        names = [objective.name for objective in value]
        if len(set(names)) < len(names):
            raise ValueError(f"an objective may appear once, found {names}")
        if all(objective.weight == 0 for objective in value):
            raise ValueError("at least one objective needs a weight above 0")
        return value


_NEXT = NextToken(name="next_token")
_CONTRAST = Contrast(name="contrast")
_INTERACTION = Interaction(name="interaction")

LEVELS: dict[str, RecipeConfig] = {
    "level1": RecipeConfig(name="level1", nodes=NodeSelection(agents="best", rounds=(0,)), objectives=(_NEXT,)),
    "level2": RecipeConfig(name="level2", objectives=(_NEXT,)),
    "level3": RecipeConfig(name="level3", objectives=(_NEXT, _CONTRAST)),
    "level4": RecipeConfig(name="level4", objectives=(_NEXT, _INTERACTION, _CONTRAST)),
}
"""The paper's ablation (method.md section 3): one teacher, several teachers, + contrast, + interaction (MAGDi itself)."""

RecipeChoice = Literal["level1", "level2", "level3", "level4"] | RecipeConfig


def resolve_recipe(choice: RecipeChoice) -> RecipeConfig:
    """A recipe, given by name or written out."""
    return LEVELS[choice] if isinstance(choice, str) else choice


class TrainConfig(Section):
    """The optimisation. Exactly one of `epochs` and `max_steps` is given."""

    epochs: int | None = Field(None, ge=1)
    max_steps: int | None = Field(None, ge=1)
    tokens_per_step: int = Field(65536, ge=1)
    """Tokens that carry next-token loss a step, over all workers: graphs are added to a step until it holds this many."""
    tokens_per_micro_batch: int | None = operational(None, ge=1)
    """Tokens one worker forwards at a time, at most (a single graph may exceed it): a packed graph's prompt counts once, a padded
    one's for every node, padding included. None: the worker's whole share."""
    learning_rate: float = Field(5e-6, gt=0.0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    min_lr_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """The schedule ends at this share of the learning rate."""
    warmup_steps: int = Field(100, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    bf16: bool = False
    """Weights and activations in bfloat16, with float32 master weights in DeepSpeed's optimizer; else all in float32."""
    gradient_checkpointing: bool = operational(False)
    checkpoint_every_steps: int | None = operational(None, ge=1)
    """None: no checkpoint before the end; an interrupted training then starts again."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("exactly one of `epochs` and `max_steps` must be given")
        return self


class DeepSpeedConfig(Section):
    """How DeepSpeed spreads the training state; results do not depend on it."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: Literal["none", "cpu"] = "none"

    @model_validator(mode="after")
    def _offload_needs_partition(self) -> DeepSpeedConfig:
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self


class ScalingConfig(Section):
    """Ray Train's workers."""

    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False
    num_cpus: float = Field(1.0, gt=0)
    """CPUs a worker reserves."""
    max_failures: int = Field(0, ge=0)
    """So many worker failures are recovered from, from the last checkpoint, before training fails."""


class DistilConfig(Section):
    """Training of the student, and of further recipes beside it for comparison."""

    student: StudentConfig
    recipe: RecipeChoice = "level4"
    ablations: tuple[RecipeChoice, ...] = ()
    """Recipes trained beside the product, each from the same base student; they are evaluated, never served by default."""
    train: TrainConfig
    parallel: int = operational(1, ge=1)
    """Recipes trained at the same time, at most; each has its own workers."""
    deepspeed: DeepSpeedConfig = operational(DeepSpeedConfig())
    scaling: ScalingConfig = operational(ScalingConfig())

    @model_validator(mode="after")
    def _distinct_recipes(self) -> DistilConfig:
        names = [recipe.name for recipe in recipes(self)]
        if len(set(names)) < len(names):
            raise ValueError(f"recipe and ablations need distinct names, found {names}")
        return self


def recipes(config: DistilConfig) -> list[RecipeConfig]:
    """Every recipe of a run, the comparisons first and the product last."""
    return [resolve_recipe(choice) for choice in (*config.ablations, config.recipe)]

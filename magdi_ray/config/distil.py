"""The configuration of distillation: the student, the optimiser, the engine, the workers, what is measured and kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from magdi_ray.config.base import Section, operational, some_workers
from magdi_ray.config.recipes import RecipeChoice, RecipeConfig, resolve_recipe


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


class QloraTuning(Section):
    """Low-rank adapters over base weights held in 4 bits (bitsandbytes). A knob of LoRA means the same here."""

    type: Literal["qlora"]
    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    """Also quantise the scales of the quantised weights: 0.4 bits less a weight."""


class StudentConfig(Section):
    """The model that learns; alone it is the product."""

    model: str | ScratchModel
    """A Hugging Face directory or hub name, `pkg://package/path`, or the shape of a model to be made from scratch."""
    tuning: Annotated[FullTuning | LoraTuning | QloraTuning, Field(discriminator="type")] = LoraTuning(type="lora")
    max_length: int = Field(2048, ge=8)
    """Tokens of prompt and reply; a longer node is left out and counted."""
    packing: Literal["auto", "segments", "flex", "padded"] = operational("auto")
    """How a graph goes through the student; results are equal up to rounding, and to the draws of dropout.

    segments, flex: the question once for all its replies, by attention over segments or by FlexAttention (GPU only).
    padded: one padded row a reply, at several times the cost. auto: segments, or padded where the student's architecture cannot
    be packed. flex has not been run on a GPU yet."""


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
    heads_learning_rate: float | None = Field(None, gt=0.0)
    """Of the scorer and the graph network, which start from nothing; None: `learning_rate`. Both follow the same schedule."""
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

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("exactly one of `epochs` and `max_steps` must be given")
        return self


class DeepSpeedConfig(Section):
    """How DeepSpeed spreads the training state; results do not depend on it."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: Literal["none", "cpu"] = "none"
    offload_param: Literal["none", "cpu"] = "none"
    """Keep weights in host memory between their uses; ZeRO-3 only."""

    @model_validator(mode="after")
    def _offload_needs_partition(self) -> DeepSpeedConfig:
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_param != "none" and self.zero_stage != 3:
            raise ValueError("offload_param needs zero_stage 3")
        return self


class ScalingConfig(Section):
    """Ray Train's workers."""

    num_workers: int | tuple[int, int] = 1
    """One number, or [min, max]: training starts with what the cluster has and Ray changes it as machines come and go."""
    use_gpu: bool = False
    num_cpus: float = Field(1.0, gt=0)
    """CPUs a worker reserves."""
    max_failures: int = Field(3, ge=0)
    """So many worker failures are recovered from, from the last checkpoint, before training fails."""

    @field_validator("num_workers")
    @classmethod
    def _some(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        return some_workers(value)

    @property
    def workers(self) -> tuple[int, int]:
        """Fewest and most workers."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)


class CheckpointConfig(Section):
    """Where an unfinished training can be taken up again. One that ends is not kept twice: its student is the result."""

    every_steps: int | None = operational(None, ge=1)
    every_minutes: float | None = operational(10.0, gt=0)
    """Whichever of the two comes first; None for both: an interrupted training starts again."""
    keep: int = operational(2, ge=1)
    """So many of the newest stay on storage."""
    storage: str | None = operational(None)
    """Directory all machines share, or URL (s3://..., gs://..., any fsspec file system); None is `training/` of the run."""


class DevConfig(Section):
    """What is measured on the way, on questions that are not learned from."""

    every_steps: int = Field(100, ge=1)
    """Also measured once before the first step and once after the last."""
    graphs: int = Field(0, ge=0)
    """So many training graphs are held out for it, by the hash of their question. 0: the graphs of the run's dev questions."""
    accuracy_questions: int = Field(100, ge=0)
    """The student also answers so many of them, greedily; 0: only the loss is measured."""
    max_tokens: int = Field(256, ge=1)
    """Of one answer."""
    patience: int | None = Field(None, ge=1)
    """Training stops early after so many measurements in a row without a new lowest dev loss; None: never."""
    student: Literal["last", "best"] = "last"
    """Which weights are the result: those after the last step, or those with the lowest dev loss."""


class WandbConfig(Section):
    """Weights & Biases (`pip install "magdi-ray[wandb]"`); its key is read from the environment."""

    project: str = operational("magdi-ray")
    entity: str | None = operational(None)
    mode: Literal["online", "offline"] = operational("online")


class MlflowConfig(Section):
    """MLflow (`pip install "magdi-ray[mlflow]"`)."""

    tracking_uri: str | None = operational(None)
    """None: the environment's MLFLOW_TRACKING_URI."""
    experiment: str = operational("magdi-ray")


class TrackConfig(Section):
    """Where the figures of each step go, besides `metrics.jsonl` and TensorBoard."""

    wandb: WandbConfig | None = operational(None)
    mlflow: MlflowConfig | None = operational(None)


class DistilEstimateConfig(Section):
    """What `magdi plan` assumes of distillation where nothing can be measured."""

    correct_share: float = operational(0.6, ge=0.0, le=1.0)
    """Of the replies that would carry a correct label."""
    utilisation: float = operational(0.4, gt=0.0, le=1.0)
    """Share of a GPU's arithmetic that is put to use."""
    gpu_tflops: float = operational(989.0, gt=0)
    """Dense bfloat16 TFLOP/s of one GPU; an H100 or H200 has 989, an A100 312."""
    gpu_memory_gib: float = operational(80.0, gt=0)


class DistilConfig(Section):
    """Training of the student, and of further recipes beside it for comparison."""

    student: StudentConfig
    recipe: RecipeChoice = "level2"
    ablations: tuple[RecipeChoice, ...] = ()
    """Recipes trained beside the product, each from the same base student; they are evaluated, never served by default."""
    seeds: int = Field(1, ge=1)
    """Trainings of every recipe, which differ in the order of the graphs and in what is drawn at random; the first one of
    `recipe` is the product, the others are evaluated beside it."""
    train: TrainConfig
    dev: DevConfig | None = None
    """None: nothing is held out and nothing measured on the way."""
    checkpoints: CheckpointConfig = operational(CheckpointConfig())
    track: TrackConfig = operational(TrackConfig())
    estimate: DistilEstimateConfig = operational(DistilEstimateConfig())
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


def train_of(config: DistilConfig, recipe: RecipeConfig) -> TrainConfig:
    """How a recipe is trained: as all are, but for what it says of its own."""
    changes = {name: value for name, value in recipe.train.model_dump().items() if value is not None}
    if "max_steps" in changes:
        changes["epochs"] = None
    return config.train.model_copy(update=changes)


def recipes(config: DistilConfig) -> list[RecipeConfig]:
    """Every recipe of a run, the comparisons first and the product last."""
    return [resolve_recipe(choice) for choice in (*config.ablations, config.recipe)]

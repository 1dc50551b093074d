"""The one typed configuration of a run, a section a stage. Field names follow Hugging Face, PEFT, DeepSpeed and Ray.

This module knows nothing of the stages; they are handed their section. A knob exists once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from magdi_ray.agents.base import Sampling
from magdi_ray.config.base import Section, operational
from magdi_ray.config.distil import DistilConfig, recipes
from magdi_ray.tasks.base import Split

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def absolute(name: str) -> str:
    """A local path made absolute; hub names and `pkg://` names as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


class TinyTask(Section):
    """The bundled offline world; its questions are generated. With `graph.source` only the held-out ones are."""

    name: Literal["tiny"]
    train: int = Field(2000, ge=0)
    """Questions that are debated and distilled."""
    dev: int = Field(0, ge=0)
    """Questions for choosing between settings."""
    test: int = Field(600, ge=0)
    """Held-out questions."""
    ood: int = Field(0, ge=0)
    """Held-out questions from outside the training distribution."""
    seed: int = Field(0, ge=0)
    """Of the question generator."""


class Gsm8kTask(Section):
    """Grade-school mathematics, from files in the published JSON-lines format."""

    name: Literal["gsm8k"]
    path: str | None = None
    """File of training questions; None where they come with recorded debates (`graph.source`)."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many training questions; None uses all."""
    test_path: str | None = None
    """File of held-out questions."""
    test_limit: int | None = Field(None, ge=1)
    """Use only the first so many held-out questions; None uses all."""


TaskConfig = Annotated[TinyTask | Gsm8kTask, Field(discriminator="name")]


class TransformersEngine(Section):
    """Local weights: a Hugging Face directory or hub name; `pkg://package/path` names files shipped with a package."""

    type: Literal["transformers"]
    model: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_batch_size: int = operational(32, ge=1)
    """Replies decoded together, at most."""
    system_prompt: str | None = None
    """Sent before the conversation; None sends nothing."""

    def located(self) -> TransformersEngine:
        """The same engine with a local directory made absolute: workers have working directories of their own."""
        return self.model_copy(update={"model": absolute(self.model)})


class RecordedEngine(Section):
    """Replays replies that were recorded: JSON lines of `{"messages": [...], "text": ..., ...}`. Answers nothing else."""

    type: Literal["recorded"]
    path: str = Field(min_length=1)

    def located(self) -> RecordedEngine:
        """The same engine with its file made absolute."""
        return self.model_copy(update={"path": absolute(self.path)})


EngineConfig = Annotated[TransformersEngine | RecordedEngine, Field(discriminator="type")]


class AgentConfig(Section):
    """One seat at the table."""

    name: Name
    engine: EngineConfig
    sampling: Sampling = Sampling()
    replicas: tuple[int, int] = operational((1, 1))
    """Smallest and largest number of copies of the engine; Ray Serve scales between them with the load."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs a replica reserves in the Ray cluster."""
    num_gpus: float = operational(0.0, ge=0, le=1)
    """Share of one GPU a replica reserves; with 0 it runs on the CPU."""

    @field_validator("replicas")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("must be [min, max] with 1 <= min <= max")
        return value


class PromptTemplates(Section):
    """The messages a protocol sends, as jinja2 templates (`magdi_ray.debate.reconcile` documents their variables)."""

    initial: str
    discussion: str


class ReconcileConfig(Section):
    """The round table of arXiv 2309.13007."""

    name: Literal["reconcile"]
    rounds: int = Field(3, ge=0)
    """Discussion rounds after the initial one, at most; 0 is a plain ensemble."""
    prompts: str | PromptTemplates | None = None
    """Templates, or the path of a YAML file that holds them; None takes the protocol's own."""


class DebateConfig(Section):
    """Who debates, and by which rules."""

    protocol: ReconcileConfig
    agents: tuple[AgentConfig, ...] = Field(min_length=1)
    max_in_flight: int = operational(512, ge=1)
    """Debates under way at once, at most."""
    max_failed_share: float = operational(0.05, ge=0.0, le=1.0)
    """The stage fails when more than this share of the debates ended in an error."""

    @field_validator("agents")
    @classmethod
    def _distinct(cls, value: tuple[AgentConfig, ...]) -> tuple[AgentConfig, ...]:
        names = [agent.name for agent in value]
        if len(set(names)) < len(names):
            raise ValueError(f"agents need distinct names, found {names}")
        return value


class GraphSource(Section):
    """Graphs that come from a file instead of a debate of this run."""

    format: Literal["mag", "society", "reconcile", "magdi"]
    """`mag` is this project's own parquet; the others are the formats published with earlier work."""
    path: str = Field(min_length=1)
    test: int = Field(0, ge=0)
    """So many of the questions are held out of training, chosen by the hash of their text."""


class GraphConfig(Section):
    """From transcripts to labelled graphs."""

    labels: Literal["gold", "vote"] = "gold"
    """What a node's correctness is measured against: the gold answer, or the team's own vote (no gold needed)."""
    source: GraphSource | None = None
    """Take recorded debates or finished graphs from a file; then there is no `debate` section."""


class EvaluateConfig(Section):
    """Which questions the student is measured on, and how it answers."""

    splits: tuple[Split, ...] = ("test",)
    sampling: Sampling = Sampling(max_tokens=256)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the students' weights while they answer."""
    max_batch_size: int = operational(64, ge=1)
    """Replies decoded together, at most."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs each student reserves; students that do not fit the cluster together are evaluated one wave after the other."""
    num_gpus: float = operational(0.0, ge=0, le=1)
    """Share of one GPU each student reserves; with 0 they run on the CPU."""
    max_failed_share: float = operational(0.05, ge=0.0, le=1.0)
    """The stage fails when a student gave no reply at all to more than this share of the questions."""


class ServeConfig(Section):
    """The HTTP endpoint of the student."""

    host: str = operational("127.0.0.1")
    port: int = operational(8000, ge=1, le=65535)
    replicas: tuple[int, int] = operational((1, 1))
    """Fewest and most copies of the student."""
    dtype: Literal["float32", "bfloat16", "float16"] = operational("float32")
    max_batch_size: int = operational(32, ge=1)
    num_cpus: float = operational(1.0, gt=0)
    num_gpus: float = operational(0.0, ge=0, le=1)


class RunConfig(Section):
    """A whole run: one YAML file, one run directory."""

    name: Name
    seed: int = Field(0, ge=0)
    """Root of every random draw of the run."""
    task: TaskConfig
    debate: DebateConfig | None = None
    graph: GraphConfig = GraphConfig()
    distil: DistilConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _one_source_of_graphs(self) -> RunConfig:
        if (self.debate is None) == (self.graph.source is None):
            found = "neither" if self.debate is None else "both"
            raise ValueError(f"graphs come either from a `debate` section or from `graph.source`; found {found}")
        if isinstance(self.task, Gsm8kTask):
            if self.graph.source is None and self.task.path is None:
                raise ValueError("task.path is required: the file whose questions are debated")
            if self.graph.source is not None and (self.task.path or self.task.limit):
                raise ValueError(
                    "task.path and task.limit have no place beside graph.source, which brings its own training questions"
                )
        return self

    @model_validator(mode="after")
    def _systems_have_distinct_names(self) -> RunConfig:
        agents = [agent.name for agent in self.debate.agents] if self.debate else []
        names = [*agents, *(recipe.name for recipe in recipes(self.distil)), "base", "vote"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"agents and recipes need names distinct from each other and from base and vote, found {twice} twice"
            )
        return self

"""The one typed configuration of a run, a section a stage. Field names follow Hugging Face, PEFT, DeepSpeed and Ray.

This module knows nothing of the stages; they are handed their section. A knob exists once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from magdi_ray.agents.base import Sampling
from magdi_ray.config.base import Section, later, operational, some_workers
from magdi_ray.config.engines import ApiEngine, EngineConfig, Limits, Price
from magdi_ray.config.protocols import ProtocolConfig
from magdi_ray.tasks.base import Split

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class MadeTask(Section):
    """An offline world, whose questions are generated. With `graph.source` only the held-out ones are.

    tiny: short stories, for the bundled models. small: longer ones, and questions answered by yes or no, for models that
    `magdi tiny build --world small` makes.
    """

    name: Literal["tiny", "small"]
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


class FileTask(Section):
    """A benchmark whose questions come from files: JSON, JSON lines, CSV, parquet, or a Hugging Face dataset."""

    name: Literal["gsm8k", "math", "strategyqa", "commonsenseqa", "arc", "boolq", "svamp", "aqua", "ecare"]
    path: str | None = None
    """Training questions: a file, a directory written by `datasets`, or a dataset's hub name (`:SPLIT` behind either names its
    split, else `train`); None where they come with recorded debates (`graph.source`)."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many training questions; None uses all."""
    test_path: str | None = None
    """Held-out questions, named like `path`, with the split `test`."""
    test_limit: int | None = Field(None, ge=1)
    """Use only the first so many held-out questions; None uses all."""
    subset: str | None = None
    """Configuration of a hub dataset, such as `main`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """From the task's own field names (such as `question`, `answer`, `id`) to the file's columns, where those differ."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows that are empty, doubled or without a gold answer: refuse the file, naming their lines, or leave them out, counted."""


TaskConfig = Annotated[MadeTask | FileTask, Field(discriminator="name")]


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


def check_limits(agents: Sequence[AgentConfig]) -> None:
    """Refuse two sets of limits of one provider: agents of one provider share a limiter."""
    stated: dict[str, Limits] = {}
    for engine in (agent.engine for agent in agents):
        if isinstance(engine, ApiEngine) and stated.setdefault(engine.provider, engine.limits) != engine.limits:
            raise ValueError(f"agents of {engine.base_url} share one limiter and must state the same limits")


class EstimateConfig(Section):
    """What `magdi plan` assumes where nothing has been measured yet. The defaults come from recorded GSM8K debates."""

    agreement: float = operational(0.6, ge=0.0, le=1.0)
    """Share of the debates in which all agents give one answer, round by round."""
    reply_tokens: int = operational(180, ge=1)
    """Tokens of one reply, on average."""
    seconds_per_reply: float = operational(5.0, gt=0)
    """Of one call, from sending to the last byte, on average."""


class DebateConfig(Section):
    """Who debates, and by which rules."""

    protocol: ProtocolConfig
    agents: tuple[AgentConfig, ...] = Field(min_length=1)
    workers: int | tuple[int, int] = operational(1)
    """Processes that hold debates; one keeps some hundred API calls a second under way. One number, or [min, max]: Ray Data
    starts with the fewest, and adds one while all have as many questions as they may."""
    num_cpus: float = operational(0.0, ge=0)
    """CPUs each of them reserves. With 0 any node has room for them, however many they are."""
    max_in_flight: int = operational(512, ge=1)
    """Debates under way at once, at most, over all workers."""
    max_failed_share: float = operational(0.05, ge=0.0, le=1.0)
    """The stage fails when more than this share of the debates ended in an error."""
    budget_usd: float | None = operational(None, gt=0)
    """The run stops before it spends more on its debates, earlier attempts included; None sets no bound."""
    budget_tokens: int | None = operational(None, ge=1)
    """The same in tokens, read and generated, of all agents."""
    replies: str | None = operational(None)
    """Directory or URL (s3://..., gs://...) of the reply store; None is `replies/` in the run directory."""
    estimate: EstimateConfig = operational(EstimateConfig())

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @field_validator("workers")
    @classmethod
    def _some(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        return some_workers(value)

    @field_validator("agents")
    @classmethod
    def _distinct(cls, value: tuple[AgentConfig, ...]) -> tuple[AgentConfig, ...]:
        names = [agent.name for agent in value]
        if len(set(names)) < len(names):
            raise ValueError(f"agents need distinct names, found {names}")
        return value

    @model_validator(mode="after")
    def _protocol_fits_the_agents(self) -> DebateConfig:
        names = [agent.name for agent in self.agents]
        judge = decision.agent if (decision := getattr(self.protocol, "decision", None)) else None
        if judge is not None and judge not in names:
            raise ValueError(f"protocol.decision.agent is {judge!r}, but the agents are {names}")
        students = getattr(self.protocol, "students", ())
        if strangers := [name for name in students if name not in names or name == judge]:
            raise ValueError(f"protocol.students names agents that debate; {strangers} are none of {names}, or judge")
        debaters = len(names) - (judge is not None) - len(students)
        if self.protocol.name in ("single", "self_consistency") and debaters != 1:
            raise ValueError(f"protocol {self.protocol.name} takes exactly one agent, found {names}")
        if self.protocol.name == "critique" and debaters < 2:
            raise ValueError(f"protocol critique takes one agent that answers and at least one critic, found {names}")
        if debaters < 1:
            raise ValueError("somebody has to debate: every agent is the judge or a student")
        return self

    @model_validator(mode="after")
    def _one_limit_a_provider(self) -> DebateConfig:
        check_limits(self.agents)
        return self

    @model_validator(mode="after")
    def _money_is_known(self) -> DebateConfig:
        if self.budget_usd is not None:
            free = [a.name for a in self.agents if isinstance(a.engine, ApiEngine) and a.engine.price is None]
            if free:
                raise ValueError(f"budget_usd needs the engine.price of every API agent; missing for {free}")
        return self


class GraphSource(Section):
    """Graphs that come from a file instead of a debate of this run."""

    format: Literal["mag", "society", "reconcile", "magdi", "ford", "llm_agora", "eot", "i2i", "convincing"]
    """`mag` is this project's own parquet; the others are the formats published with earlier work."""
    path: str = Field(min_length=1)
    test: int = Field(0, ge=0)
    """So many of the questions are held out of training, chosen by the hash of their text."""


class GraphConfig(Section):
    """From transcripts to labelled graphs."""

    labels: Literal["gold", "vote", "gold_or_vote"] = "gold"
    """What a node's correctness is measured against: the gold answer, the team's own vote (no gold needed), or the gold answer
    where the question has one and else the vote."""
    source: GraphSource | None = None
    """Take recorded debates or finished graphs from a file; then there is no `debate` section."""


class SelfConsistency(Section):
    """Several drawn replies a question; the answer most of them give is the system's (by count, and by confidence)."""

    samples: int = Field(5, ge=2, le=1000)
    """Replies drawn for each question."""
    temperature: float = Field(0.7, gt=0.0, le=10.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    systems: Literal["product", "students", "all"] = "product"
    """Who is asked so: the product; every student, the base among them; or all that is asked, `evaluate.agents` too."""
    verifier: bool = later(False)
    """Also let students that have a head for it rate these very replies: the vote weighted by its ratings, and the best rated."""


class EvaluateConfig(Section):
    """Which questions the student is measured on, how it answers, and what stands beside it."""

    splits: tuple[Split, ...] = Field(("test",), min_length=1)
    """Held-out splits of the run's own task."""
    tasks: tuple[TaskConfig, ...] = ()
    """Further tasks, out of domain: of a file the questions of its `test_path`, of generated ones the test and ood questions."""
    sampling: Sampling = Sampling(max_tokens=256)
    self_consistency: SelfConsistency | None = None
    """None: one reply a question, and nothing else."""
    self_revision: bool = later(False)
    """Also show every student, the base among them, its own single reply, and ask it to look again."""
    agents: tuple[AgentConfig, ...] = ()
    """Further systems that answer the same questions, each as its own `sampling` says: any engine, such as a larger model."""
    price: Price | None = None
    """What the students' tokens cost where they are to be served; teachers and further systems have their engine's own."""
    comparisons: tuple[tuple[str, str], ...] = ()
    """Pairs (system, reference) whose difference is taken besides the usual ones: each student and the base, each level and the
    one below it, the product and the debate's vote."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the students' weights while they answer."""
    max_batch_size: int = operational(64, ge=1)
    """Replies decoded together, at most."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs each worker reserves that students answer in; small students share workers, large ones have them in turn."""
    num_gpus: float = operational(0.0, ge=0, le=1)
    """Share of one GPU each of these workers reserves; with 0 students run on the CPU."""
    max_failed_share: float = operational(0.05, ge=0.0, le=1.0)
    """The stage fails when a system gave no reply at all to more than this share of the questions."""
    latency_questions: int = operational(8, ge=0)
    """So many questions are asked once more, one at a time, to see how long a reply takes alone; 0: nobody measures it."""
    replies: str | None = operational(None)
    """Directory or URL of the replies, so that an evaluation that was broken off, or has one system more, asks nothing twice;
    None is `evaluation-replies/` in the run directory."""

    @model_validator(mode="after")
    def _tasks_are_distinct(self) -> EvaluateConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"evaluate.tasks names each task once, found {names}")
        for task in self.tasks:
            if isinstance(task, FileTask) and task.test_path is None:
                raise ValueError(f"evaluate.tasks: {task.name} needs a test_path, the file whose questions are asked")
            if isinstance(task, FileTask) and (task.path or task.limit):
                raise ValueError(f"evaluate.tasks: {task.name} is only asked: test_path and test_limit, not path and limit")
        return self

    @model_validator(mode="after")
    def _agents_can_be_asked(self) -> EvaluateConfig:
        check_limits(self.agents)
        return self

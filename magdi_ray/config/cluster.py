"""A cluster and its prices, as `magdi plan --cluster` reads them: which machines each stage may use, and what they cost.

It describes no run: nothing in here shapes a result. An example with every field is cluster/prices.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from magdi_ray.config.base import Section
from magdi_ray.config.load import parse_section
from magdi_ray.config.reading import read_mapping


class NodeType(Section):
    """Machines of one kind."""

    vcpus: float = Field(gt=0)
    gpus: int = Field(0, ge=0)
    memory_gib: float = Field(gt=0)
    on_demand: float = Field(ge=0)
    """Dollars an hour of one machine."""
    spot: float | None = Field(None, ge=0)
    """The same where it may be taken away; None: not to be had."""
    start_seconds: float = Field(120.0, ge=0)
    """From asking for one to Ray running on it."""
    preemptions_per_hour: float = Field(0.0, ge=0, le=60)
    """Of one spot machine, on average; 0.05 is one in twenty hours."""
    max_nodes: int = Field(1000, ge=1)
    """Of this kind at once: the group's bound, or the quota."""


class Placed(Section):
    """The machines of one stage."""

    nodes: str
    """A name of `nodes`."""
    market: Literal["on_demand", "spot"] = "on_demand"


class EngineSpeed(Section):
    """How fast one replica of a local engine decodes; only where no measured run says it."""

    step_ms: float = Field(12.0, gt=0)
    """Of one token of a batch, whatever its size: the weights are read once."""
    row_ms: float = Field(0.1, ge=0)
    """More for each row of the batch."""
    prefill_tokens_per_second: float = Field(20_000.0, gt=0)
    load_seconds: float = Field(90.0, ge=0)
    """From the machine being there to the replica answering: pulling the image, loading the weights."""
    batch: int = Field(64, ge=1)
    """Rows decoded together by engines that state no `max_batch_size` of their own (vllm, recorded)."""


class Stages(Section):
    """Where each stage runs. Debates have two places: their workers, and the replicas of local agents."""

    workers: Placed
    """The processes that hold debates, and the driver; also graphs are built there."""
    agents: Placed | None = None
    """Replicas of local agents; None where all agents are behind an API."""
    distil: Placed
    evaluate: Placed


class Storage(Section):
    """Where the run directory lives."""

    usd_per_gb_month: float = Field(ge=0)
    months: float = Field(1.0, gt=0)
    """So long everything is kept."""


class Network(Section):
    """What bytes cost."""

    out_usd_per_gb: float = Field(ge=0)
    """To providers outside the cloud, and nothing for what comes in."""
    inside_usd_per_gb: float = Field(0.0, ge=0)
    """Between machines, such as over the border of a zone."""


class Cluster(Section):
    """A price table and where the stages run."""

    name: str
    prices: str = Field(min_length=1)
    """Where the prices come from and of which day; said beside every figure."""
    nodes: dict[str, NodeType] = Field(min_length=1)
    stages: Stages
    storage: Storage
    network: Network
    speed: EngineSpeed = EngineSpeed()
    speeds: dict[str, EngineSpeed] = Field(default_factory=dict)
    """Of single agents, by name, and of `student`, who is evaluated."""
    worker_vcpus: float = Field(1.0, gt=0)
    """vCPUs that one debate worker keeps busy."""
    deadline_hours: float | None = Field(None, gt=0)
    """Machines are added, up to `max_nodes`, so that the debates end within so many hours; None: as many as the run's own
    configuration says."""

    @model_validator(mode="after")
    def _places_exist(self) -> Cluster:
        for stage in ("workers", "agents", "distil", "evaluate"):
            placed: Placed | None = getattr(self.stages, stage)
            if placed is None:
                continue
            if placed.nodes not in self.nodes:
                raise ValueError(f"stages.{stage}.nodes is {placed.nodes!r}, but the nodes are {sorted(self.nodes)}")
            if placed.market == "spot" and self.nodes[placed.nodes].spot is None:
                raise ValueError(f"stages.{stage} wants spot machines, but nodes.{placed.nodes}.spot has no price")
        return self

    def type_of(self, placed: Placed) -> NodeType:
        """The machines of a stage."""
        return self.nodes[placed.nodes]

    def hourly(self, placed: Placed) -> float:
        """Dollars an hour of one machine of a stage."""
        found = self.type_of(placed)
        if placed.market == "on_demand":
            return found.on_demand
        assert found.spot is not None
        return found.spot

    def lost_per_hour(self, placed: Placed) -> float:
        """Preemptions of one machine of a stage."""
        return self.type_of(placed).preemptions_per_hour if placed.market == "spot" else 0.0


def load_cluster(path: str | Path) -> Cluster:
    """Read a cluster file.

    Raises:
        ConfigError: the file is missing or malformed, or a value breaks a rule.
    """
    example = "An example to start from is cluster/prices.yaml."
    data = read_mapping(path, kind="cluster", example=example, holds="(name, prices, nodes, stages, ...)")
    return parse_section(data, str(path), Cluster)

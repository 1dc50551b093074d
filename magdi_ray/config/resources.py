"""The configuration of places: on which of a cluster's nodes each kind of process runs.

How much a process takes is said where the process is configured (`num_cpus`, `num_gpus`, `distil.scaling`), and not here.

All of it is operational: where work is done never shapes what comes out.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from magdi_ray.config.base import Section, operational

LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
KEY = re.compile(rf"(?:{LABEL}/)?{LABEL}")
WANTED = re.compile(rf"!?{LABEL}|!?in\({LABEL}(?:, ?{LABEL})*\)")
"""What Ray takes as the value of a label selector: `train`, `!train`, `in(a, b)`, `!in(a, b)`."""

OWN_FIELDS = ("CPU", "GPU", "memory", "object_store_memory")
"""Resources that have fields of their own, or none that may be asked for here."""

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class Place(Section):
    """The nodes some processes may run on; an empty one means any."""

    labels: dict[str, str] = operational({})
    """Ray node labels a node must have, such as `magdi-stage: train`; a value may also be `!train` or `in(a, b)`."""
    accelerator: str | None = operational(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Ray's name of the accelerator a node must have, such as L4, A100 or H100."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = operational({})
    """Custom Ray resources that each process reserves."""

    @field_validator("labels")
    @classmethod
    def _selectors(cls, value: dict[str, str]) -> dict[str, str]:
        for key, wanted in value.items():
            if not KEY.fullmatch(key):
                raise ValueError(
                    f"{key!r} is no name of a label: letters, digits, '-', '_' and '.', with at most one prefix and '/'"
                )
            if not WANTED.fullmatch(wanted):
                raise ValueError(f"{key} must be a label's value, !VALUE, in(A, B) or !in(A, B); {wanted!r} is none of them")
        # Ray takes a space behind a comma, and then for the first letter of the label's value, which no node has.
        return {key: wanted.replace(" ", "") for key, wanted in value.items()}

    @field_validator("custom")
    @classmethod
    def _no_second_place(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name in OWN_FIELDS or name.startswith(("accelerator_type:", "node:")):
                raise ValueError(
                    f"{name} is no custom resource: CPUs and GPUs are said by num_cpus, num_gpus and distil.scaling, "
                    "accelerators by `accelerator`"
                )
            if amount > 1 and amount != int(amount):
                raise ValueError(f"{name}: Ray takes a share of one, or whole numbers, and not {amount:g}")
        return value


class TrainingPlace(Place):
    """The nodes of training workers. They are one placement group: all of them start together, or none does (gang scheduling)."""

    strategy: Strategy = operational("PACK")
    """PACK and SPREAD try for few and for many nodes; STRICT_PACK takes one node only, STRICT_SPREAD one node for each worker."""


ANYWHERE = TrainingPlace()


class ServingResources(Section):
    """The places of an endpoint."""

    agents: Place = operational(Place())
    """Replicas of local agents that debate, those kept for escalated requests among them."""
    serve: Place = operational(Place())
    """Copies of the served student. Its front doors follow the labels, and reserve nothing."""


class Resources(ServingResources):
    """Where each kind of process runs."""

    debate: Place = operational(Place())
    """Workers that hold debates."""
    distil: TrainingPlace = operational(TrainingPlace())
    """Training workers."""
    evaluate: Place = operational(Place())
    """Replicas of students under evaluation, and of `evaluate.agents`."""

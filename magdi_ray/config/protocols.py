"""The configuration of debate protocols: one section a protocol, and how a debate is decided."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from magdi_ray.config.base import Section, absolute, later


class Decision(Section):
    """How the last round becomes the team's answer."""

    rule: Literal["confidence", "majority", "judge"]
    """confidence: the vote weighted by recalibrated confidence. majority: the most ballots. judge: an agent decides where the
    last round disagrees."""
    agent: str | None = None
    """The judge: one of `debate.agents`. It judges only, and takes no other part in the debate."""

    @model_validator(mode="after")
    def _judge_is_named(self) -> Decision:
        if (self.rule == "judge") != (self.agent is not None):
            raise ValueError("`agent` names the judge: it is required with rule: judge and has no place with other rules")
        return self


CONFIDENCE = Decision(rule="confidence")
MAJORITY = Decision(rule="majority")

PromptSource = str | dict[str, str] | None
"""Templates by name, the path of a YAML file that holds them, or None for the protocol's own."""


class DiscussionConfig(Section):
    """What protocols share in which all answer, round after round."""

    students: tuple[str, ...] = later(())
    """Those of `debate.agents` that answer in the initial round only: the others are shown what they said and go on without
    them (on-policy: teachers answer what a student gets wrong)."""

    @model_validator(mode="after")
    def _somebody_answers_them(self) -> DiscussionConfig:
        if len(set(self.students)) < len(self.students):
            raise ValueError(f"students names each of them once, found {list(self.students)}")
        if self.students and getattr(self, "rounds", 1) < 1:
            raise ValueError("students are heard in the discussion: with rounds: 0 nobody is shown what they said")
        return self


class ReconcileConfig(DiscussionConfig):
    """The round table of arXiv 2309.13007."""

    name: Literal["reconcile"]
    rounds: int = Field(3, ge=0)
    """Discussion rounds after the initial one, at most; 0 is a plain ensemble."""
    prompts: PromptSource = None
    """jinja2 templates; `magdi_ray.debate.reconcile` documents their variables."""
    convincing: str | None = None
    """Directory of convincing samples in ReConcile's published format, a file an agent; shown in discussions."""
    convincing_samples: int = Field(1, ge=1)
    """Samples shown of each other agent."""
    decision: Decision = CONFIDENCE


class SocietyConfig(DiscussionConfig):
    """Society of minds (Du et al. 2023, arXiv 2305.14325): each agent is shown the others' replies word for word."""

    name: Literal["society"]
    rounds: int = Field(1, ge=0)
    """Discussion rounds after the initial one, at most."""
    prompts: PromptSource = None
    decision: Decision = MAJORITY


class SingleConfig(Section):
    """One agent, one reply: the single-teacher baseline."""

    name: Literal["single"]
    prompts: PromptSource = None


class SelfConsistencyConfig(Section):
    """One agent, several independent replies, and the vote over them (Wang et al. 2022, arXiv 2203.11171)."""

    name: Literal["self_consistency"]
    samples: int = Field(5, ge=1)
    prompts: PromptSource = None
    decision: Decision = MAJORITY

    @model_validator(mode="after")
    def _no_judge(self) -> SelfConsistencyConfig:
        if self.decision.rule == "judge":
            raise ValueError("self_consistency has one agent and no judge; choose rule: majority or confidence")
        return self


class CritiqueConfig(Section):
    """The first agent answers, the others criticise, the first revises."""

    name: Literal["critique"]
    rounds: int = Field(1, ge=1)
    """Times the answer is criticised and revised, at most; it ends early when every critic agrees with it."""
    prompts: PromptSource = None


ProtocolConfig = Annotated[
    ReconcileConfig | SocietyConfig | SingleConfig | SelfConsistencyConfig | CritiqueConfig, Field(discriminator="name")
]


def located(protocol: ProtocolConfig) -> ProtocolConfig:
    """The same protocol with its local files made absolute: workers have working directories of their own."""
    named = {name: getattr(protocol, name, None) for name in ("prompts", "convincing")}
    return protocol.model_copy(update={name: absolute(value) for name, value in named.items() if isinstance(value, str)})

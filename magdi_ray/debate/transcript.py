"""A debate: what was said, by whom, having been shown what. A debate knows no graph, no label and no Ray.

A row of `debates/*.parquet` is one debate: its question, its turns in the order they were taken, the team's answer, or the
error that ended it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from magdi_ray.agents.base import Message, Reply
from magdi_ray.tasks.base import Question, Task

Status = Literal["ok", "unparsed"]
Stopped = Literal["consensus", "rounds", "error", "running"]
Role = Literal["debater", "critic", "judge", "student"]
"""What an agent was asked to do: answer, find fault with another's answer, decide between answers, or answer once.
A student is heard by the others, and has no part in what the team answers."""
ConfidenceSource = Literal["stated", "token_probability", "none"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply of one agent in one round."""

    agent: str
    round: int
    shown: tuple[int, ...]
    """Positions in `Debate.turns` of the replies this agent was shown before answering."""
    text: str
    """The reply as it came; a structured one (JSON) as prose (`magdi_ray.debate.reading`)."""
    answer: str | None
    """In the task's normal form; None exactly when status is "unparsed"."""
    confidence: float | None
    """In [0, 1]; None where neither the agent nor its engine gave one."""
    confidence_source: ConfidenceSource
    tokens_in: int
    tokens_out: int
    model: str
    status: Status
    role: Role = "debater"


@dataclass(frozen=True, slots=True)
class Debate:
    """A question and every turn taken on it so far."""

    question: Question
    agents: tuple[str, ...]
    protocol: str
    turns: tuple[Turn, ...] = ()
    answer: str | None = None
    """The team's answer; None until the debate ended, and when nobody gave an answer."""
    agreement: float = 0.0
    """Share of the agents whose last reply gave the team's answer: of those that debate (judges and students are none), or of an
    agent's samples where all replies are one agent's."""
    stopped: Stopped = "running"
    error: str | None = None
    """"ErrorClass: message" of what ended the debate early; its turns up to there are kept."""

    @property
    def rounds(self) -> int:
        """Number of rounds taken (0 before the first)."""
        return 1 + max((turn.round for turn in self.turns), default=-1)

    def positions(self, round_: int) -> tuple[int, ...]:
        """Positions in `turns` of the replies of one round."""
        return tuple(i for i, turn in enumerate(self.turns) if turn.round == round_)

    def failed(self, error: BaseException) -> Debate:
        """This debate, ended by an error: data, not a crash."""
        return replace(self, stopped="error", error=f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a protocol wants asked next: one message list for one agent."""

    agent: str
    round: int
    messages: tuple[Message, ...]
    shown: tuple[int, ...] = field(default=())
    """Positions in `Debate.turns` quoted in the messages."""
    sample: int = 0
    """Which of several independent draws from these messages."""
    role: Role = "debater"


class DebateProtocol(Protocol):
    """Rules of a conversation, as two pure functions. `next_asks` is empty exactly when the debate has ended."""

    @property
    def name(self) -> str:
        """What configurations call the protocol."""
        ...

    @property
    def task(self) -> Task:
        """By whose rules replies are read."""
        ...

    def start(self, question: Question, agents: Sequence[str]) -> Debate:
        """A debate in which nobody has spoken yet."""
        ...

    def most_calls(self, agents: int) -> int:
        """Replies of the longest possible debate; what a shorter one lacks was saved by stopping early."""
        ...

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        """What to ask next, of whom."""
        ...

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        """The debate after `replies`, one for each of `asks` in order."""
        ...

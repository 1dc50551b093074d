"""Templates: the words a protocol sends, as jinja2 texts, and what they may speak of.

Each protocol's templates are constants in its own file; a configuration replaces them by name. Every template sees `prompt` (the
task's own message), `question` (`id`, `text`) and `round`; what else, its protocol's `Prompts` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict

from magdi_ray.agents.base import Message
from magdi_ray.debate.quoting import fenced, one_line, quoted
from magdi_ray.debate.reading import reasoning_of
from magdi_ray.debate.transcript import Debate
from magdi_ray.tasks.base import Question, Task


class Templates(BaseModel):
    """The templates of one protocol by name; a protocol's own class adds them as fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class View:
    """One agent's reply as another agent is shown it: word for word, but for what would pass for the prompt's own (`quoting`)."""

    number: int
    """1-based place of the agent among those that debate."""
    own: bool
    """The agent that is asked gave this reply itself."""
    text: str
    """The whole reply; it holds no three backticks in a row, which may stand around it."""
    reasoning: str
    """The reply without its answer and confidence statements."""
    answer: str
    """"" where none could be read."""
    confidence: float | None


@lru_cache(maxsize=64)
def compile_template(source: str) -> Template:
    """A sandboxed jinja2 template that refuses unknown names."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False).from_string(source)


def user_message(template: str, task: Task, debate: Debate, *, round_: int | None = None, **variables: Any) -> Message:
    """A template filled in for the coming round of a debate (or an earlier one, to say again what was said then)."""
    round_ = debate.rounds if round_ is None else round_
    if not variables:
        return _plain_message(template, task, debate.question, round_)
    return Message("user", _render(template, task, debate.question, round_, variables))


@lru_cache(maxsize=1024)  # all agents are asked in the same words
def _plain_message(template: str, task: Task, question: Question, round_: int) -> Message:
    """A template that sees nothing but the question."""
    return Message("user", _render(template, task, question, round_, {}))


def _render(template: str, task: Task, question: Question, round_: int, variables: Mapping[str, Any]) -> str:
    common = {"prompt": task.prompt(question), "question": question, "round": round_}
    return compile_template(template).render(**common, **variables)


def views(
    task: Task, debate: Debate, positions: Iterable[int], *, table: tuple[str, ...], reader: str | None = None
) -> tuple[View, ...]:
    """The replies at some positions as `reader` is shown them; `table` are the agents in the order of their numbers."""
    return tuple(
        View(
            number=table.index(turn.agent) + 1,
            own=turn.agent == reader,
            text=fenced(turn.text),
            reasoning=quoted(reasoning_of(task, turn.text)),
            answer=one_line(turn.answer or ""),
            confidence=turn.confidence,
        )
        for turn in (debate.turns[position] for position in positions)
    )

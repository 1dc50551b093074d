"""From the configuration's protocol section to a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, assert_never

from pydantic import ValidationError

from magdi_ray.agents.base import Reply
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.load import MOST_TOLD, explain
from magdi_ray.config.protocols import (
    CritiqueConfig,
    PromptSource,
    ProtocolConfig,
    ReconcileConfig,
    SelfConsistencyConfig,
    SingleConfig,
    SocietyConfig,
)
from magdi_ray.config.reading import cut, read_file, read_yaml
from magdi_ray.debate import critique, reconcile, self_consistency, single, society
from magdi_ray.debate.convincing import check_agents, read_convincing
from magdi_ray.debate.templates import Templates, compile_template
from magdi_ray.debate.transcript import DebateProtocol
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question, Task

WHERE = "debate.protocol.prompts"

REHEARSAL = Question("rehearsal", "How many are 2 and 3?\n(A) 5\n(B) 6")
"""What is asked in a rehearsal: something any task can put to an agent."""
CANDIDATES = ("5", "6", "A", "B", "yes", "no")
"""Answers for a rehearsal; the task decides which of them it can read."""

Kind = TypeVar("Kind", bound=Templates)


def load_protocol(config: ProtocolConfig, task: Task) -> DebateProtocol:
    """The protocol a section names.

    Raises:
        ConfigError: a file it names is missing or malformed, or a template does not compile.
    """
    match config:
        case ReconcileConfig():
            prompts = load_prompts(config.prompts, reconcile.Prompts)
            convincing = {}
            if config.convincing is not None:
                convincing = read_convincing(Path(resolve_model(config.convincing)), task, most=config.convincing_samples)
            return reconcile.Reconcile(task, config.rounds, prompts, config.decision, convincing, config.students)
        case SocietyConfig():
            words = load_prompts(config.prompts, society.Prompts)
            return society.Society(task, config.rounds, words, config.decision, config.students)
        case SingleConfig():
            return single.Single(task, load_prompts(config.prompts, single.Prompts))
        case SelfConsistencyConfig():
            prompts_ = load_prompts(config.prompts, self_consistency.Prompts)
            return self_consistency.SelfConsistency(task, config.samples, prompts_, config.decision)
        case CritiqueConfig():
            return critique.Critique(task, config.rounds, load_prompts(config.prompts, critique.Prompts))
    assert_never(config)


def load_prompts(source: PromptSource, kind: type[Kind]) -> Kind:
    """Templates from the configuration, from a YAML file (a path or `pkg://package/path`), or the protocol's own.

    Raises:
        ConfigError: the file is missing, a name is not one of the protocol's templates, or a template does not compile.
    """
    if source is None:
        return kind()
    prompts = _prompts(source, WHERE, kind) if isinstance(source, dict) else _read_prompts(source, kind)
    for name, template in prompts:
        try:
            compile_template(template)
        except Exception as error:  # jinja2 raises many kinds; each is the template author's
            raise ConfigError(f"{WHERE}: the {name} template is not valid jinja2: {cut(str(error))}. Mend it there.") from None
    return prompts


def _read_prompts(source: str, kind: type[Kind]) -> Kind:
    path = Path(resolve_model(source))
    if not path.is_file():
        raise ConfigError(f"{WHERE}: there is no file {source}. Check the path.")
    return _prompts(read_yaml(read_file(path), str(path)), source, kind)


def _prompts(found: object, where: str, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(map(cut, explain(error.errors(include_url=False), kind)[:MOST_TOLD]))}") from None


def rehearse(protocol: DebateProtocol, agents: Sequence[str]) -> None:
    """Play whole debates with made-up replies, so that what cannot be said is found before any model is asked.

    Once nobody agrees, with and without confidences (the longest debate), once everybody does, and once nobody says anything:
    every branch of the protocol's own templates is filled in.

    Raises:
        ConfigError: a template cannot be filled in (with the template engine's own words), or none of the convincing samples
            belongs to one of the agents.
    """
    if isinstance(protocol, reconcile.Reconcile):
        check_agents(protocol.convincing, agents)
    answers = _answers(protocol.task)
    try:
        for said, confidence in ((answers, 0.5), (answers, None), (answers[:1], None), ([""], None)):
            _play(protocol, agents, said, confidence)
    except Exception as error:  # a template can fail in as many ways as a program
        raise ConfigError(f"{WHERE}: a template cannot be filled in: {type(error).__name__}: {error}. Mend it there.") from None


def _play(protocol: DebateProtocol, agents: Sequence[str], said: Sequence[str], confidence: float | None) -> None:
    """One debate in which every agent, and every sample of it, always says the same of `said`."""
    debate = protocol.start(REHEARSAL, agents)
    while asks := protocol.next_asks(debate):
        texts = [said[(agents.index(ask.agent) + ask.sample) % len(said)] for ask in asks]
        debate = protocol.advance(debate, asks, [Reply(text, 1, 1, confidence, "stop", "made up") for text in texts])


def _answers(task: Task) -> list[str]:
    """Replies whose answers the task can read and tells apart."""
    read: list[str] = []
    for candidate in CANDIDATES:
        answer = task.extract(REHEARSAL, task.state(candidate))
        if answer is not None and not any(task.same(answer, other) for other in read):
            read.append(answer)
    return [f"It is so.\n{task.state(answer)}" for answer in read] or ["It is so."]

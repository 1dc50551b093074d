"""From the configuration's protocol section to a protocol."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError
from pydantic import ValidationError

from magdi_ray.agents.base import Reply
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.load import explain, read_yaml
from magdi_ray.config.protocols import PromptSource, ProtocolConfig, ReconcileConfig
from magdi_ray.debate.reconcile import Prompts, Reconcile, compile_template
from magdi_ray.debate.transcript import DebateProtocol
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question, Task


def load_protocol(config: ProtocolConfig, task: Task) -> DebateProtocol:
    """The protocol a section names.

    Raises:
        ConfigError: the file of prompt templates is missing or malformed, or a template does not compile.
    """
    assert isinstance(config, ReconcileConfig)
    return Reconcile(task=task, rounds=config.rounds, prompts=load_prompts(config.prompts))


def load_prompts(source: PromptSource) -> Prompts:
    """Templates from the configuration, from a YAML file (a path or `pkg://package/path`), or the protocol's own."""
    if source is None:
        return Prompts()
    prompts = Prompts(**source) if isinstance(source, dict) else _read_prompts(source)
    for name, template in (("initial", prompts.initial), ("discussion", prompts.discussion)):
        try:
            compile_template(template)
        except Exception as error:  # jinja2 raises many kinds; each is the template author's
            raise ConfigError(f"debate.protocol.prompts: the {name} template is not valid jinja2: {error}") from None
    return prompts


def _read_prompts(source: str) -> Prompts:
    path = Path(resolve_model(source))
    if not path.is_file():
        raise ConfigError(f"debate.protocol.prompts: there is no file {source}")
    try:
        return Prompts.model_validate(read_yaml(path.read_text(encoding="utf-8"), str(path)))
    except ValidationError as error:
        raise ConfigError(f"{source}: {'; '.join(explain(error.errors(include_url=False), Prompts))}") from None


def rehearse(protocol: DebateProtocol) -> None:
    """Play two rounds with made-up replies, so that a template that cannot be rendered is found before any model is asked.

    Raises:
        ConfigError: with the template engine's own words.
    """
    debate = protocol.start(Question("rehearsal", "How many are 2 and 3?"), ("first", "second"))
    try:
        for answers in (("5", "6"), ("5", "5")):
            asks = protocol.next_asks(debate)
            replies = [Reply(f"It is {a}. The answer is {a}. answer {a}", 1, 1, 0.5, "stop", "none") for a in answers]
            debate = protocol.advance(debate, asks, replies[: len(asks)])
    except TemplateError as error:
        raise ConfigError(f"debate.protocol.prompts: a template cannot be rendered: {error}") from None

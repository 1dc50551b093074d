"""From a section to a protocol: every section has one, and what is wrong with its words is said beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from magdi_ray.config.protocols import ProtocolConfig
from magdi_ray.debate.load import load_protocol, rehearse
from magdi_ray.debate.transcript import DebateProtocol
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Task
from magdi_ray.tasks.commonsenseqa import CommonsenseQa
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.strategyqa import StrategyQa
from magdi_ray.tasks.tiny import Tiny

AGENTS = {"single": 1, "self_consistency": 1}
JUDGED = {"rule": "judge", "agent": "a2"}


def load(task: Task | None = None, **section: Any) -> DebateProtocol:
    config: ProtocolConfig = TypeAdapter(ProtocolConfig).validate_python(section)
    return load_protocol(config, task or Gsm8k())


@pytest.mark.parametrize("task", [Gsm8k(), Tiny(), StrategyQa(), CommonsenseQa()])
@pytest.mark.parametrize("name", ["reconcile", "society", "single", "self_consistency", "critique"])
def test_every_protocol_can_be_rehearsed_with_every_task(task: Task, name: str) -> None:
    protocol = load(task, name=name)
    assert (protocol.name, protocol.task) == (name, task)
    rehearse(protocol, ["a0", "a1", "a2"][: AGENTS.get(name, 3)])


@pytest.mark.parametrize(
    ("section", "calls"),
    [
        ({"name": "reconcile", "rounds": 2}, 9),
        ({"name": "reconcile", "rounds": 2, "decision": JUDGED}, 7),
        ({"name": "society", "rounds": 1, "decision": JUDGED}, 5),
        ({"name": "self_consistency", "samples": 7}, 7),
        ({"name": "single"}, 1),
        ({"name": "critique", "rounds": 2}, 7),
    ],
)
def test_a_section_shapes_its_protocol(section: dict[str, Any], calls: int) -> None:
    assert load(**section).most_calls(3) == calls


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"name": "society", "prompts": {"discusion": "x"}}, "discusion: unknown key; did you mean 'discussion'"),
        ({"name": "single", "prompts": {"discussion": "x"}}, "discussion: unknown key; known keys: initial"),
        ({"name": "critique", "prompts": {"revision": "{{ own"}}, "the revision template is not valid jinja2"),
        ({"name": "reconcile", "prompts": "nowhere.yaml"}, "there is no file nowhere.yaml"),
        ({"name": "reconcile", "convincing": "nowhere"}, "found none at nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_refused(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(**section)


def test_templates_come_from_a_file_or_stand_in_the_section(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("initial: Say {{ prompt }}\n")
    assert load(name="single", prompts=str(tmp_path / "prompts.yaml")) == load(
        name="single", prompts={"initial": "Say {{ prompt }}"}
    )


@pytest.mark.parametrize(
    "section",
    [
        {"name": "society", "prompts": {"discussion": "{{ groups }}"}},
        {"name": "reconcile", "prompts": {"discussion": "{{ own.answer }}"}},
        {
            "name": "reconcile",
            "prompts": {"discussion": "{% for g in groups %}{{ '%d' | format(g.views[0].confidence) }}{% endfor %}"},
        },
        {"name": "society", "prompts": {"judge": "{{ views[9].text }}"}, "decision": JUDGED},
        {"name": "critique", "prompts": {"critique": "{{ view.text }}"}},
        {"name": "critique", "prompts": {"revision": "{{ critiques[0].txt }}"}},
        {"name": "self_consistency", "prompts": {"initial": "{{ sample }}"}},
    ],
)
def test_a_template_that_can_fail_fails_in_the_rehearsal(section: dict[str, Any]) -> None:
    protocol = load(**section)
    with pytest.raises(ConfigError, match="a template cannot be filled in"):
        rehearse(protocol, ["a0", "a1", "a2"][: AGENTS.get(section["name"], 3)])


def test_convincing_samples_are_loaded_and_belong_to_an_agent(data_dir: Path) -> None:
    protocol = load(name="reconcile", convincing=str(data_dir / "debates/reconcile_convincing/GSM8k"), convincing_samples=2)
    rehearse(protocol, ["chatgpt", "other"])
    with pytest.raises(ConfigError, match="the agents are ann, bob"):
        rehearse(protocol, ["ann", "bob"])

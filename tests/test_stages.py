from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config import RunConfig, load_config
from magdi_ray.config.base import shaping
from magdi_ray.config.engines import ApiEngine, TransformersEngine
from magdi_ray.config.sections import AgentConfig
from magdi_ray.debate.operator import identity
from magdi_ray.pipeline import plan
from magdi_ray.runs import Run
from magdi_ray.stages import debate_stage, replies_url

CONFIG = Path(__file__).parent.parent / "configs/tiny.yaml"


def tiny(*overrides: str) -> RunConfig:
    return load_config(CONFIG, overrides)


def agent(**engine: Any) -> AgentConfig:
    return AgentConfig(name="a", engine=ApiEngine(type="api", model="m", **engine))


def test_a_reply_store_is_named_the_same_for_the_driver_and_for_workers(tmp_path: Path) -> None:
    config = tiny("debate.replies=not-there-yet")
    assert replies_url(config, Run(tmp_path)) == str(Path.cwd() / "not-there-yet")
    assert replies_url(tiny("debate.replies=s3://bucket/x"), Run(tmp_path)) == "s3://bucket/x"


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"repair": False}, True),
        ({"base_url": "https://api.openai.com/v1/"}, True),
        ({"max_attempts": 2}, True),
        ({"system_prompt": "Be brief."}, False),
        ({"structured": "never"}, False),
        ({"extra_body": {"top_k": 1}}, False),
    ],
)
def test_replies_are_told_apart_by_exactly_what_shapes_them(changed: dict[str, Any], same: bool) -> None:
    assert (identity(agent(**changed), "") == identity(agent(), "")) is same


def test_local_weights_are_told_apart_by_their_content_wherever_they_are() -> None:
    here, there = (AgentConfig(name="a", engine=TransformersEngine(type="transformers", model=m)) for m in ("/x/ada", "/y/ada"))
    assert identity(here, "abc") == identity(there, "abc") != identity(here, "def")


def test_the_file_of_prompts_counts_by_its_content(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    hashes = []
    for text in ("initial: 'One {{ prompt }}'", "initial: 'Two {{ prompt }}'"):
        prompts.write_text(text)
        stage = next(stage for stage in plan(tiny(f"debate.protocol.prompts={prompts}")) if stage.name == "debates")
        hashes.append(str(shaping(stage.shaped_by)))
    assert hashes[0] != hashes[1]


def test_whether_golds_are_needed_shapes_the_questions_of_a_file() -> None:
    task = "task={name: gsm8k, path: train.jsonl}"
    gold, vote = (plan(tiny(f"graph.labels={labels}", task))[0].shaped_by for labels in ("gold", "vote"))
    assert gold != vote


def test_what_workers_are_handed_names_no_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.yaml").write_text("initial: '{{ prompt }}'")
    (tmp_path / "run/questions").mkdir(parents=True)
    stage = debate_stage(tiny("debate.protocol.prompts=prompts.yaml"), Run(Path("run")))
    assert stage.debate.protocol.prompts == str(tmp_path / "prompts.yaml")
    assert stage.replies == str(tmp_path / "run/replies")

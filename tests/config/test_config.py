"""The configuration: strict, explained, and unchanged by a round trip."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from magdi_ray.config import RunConfig, config_schema, content_hash, dump_config, load_config
from magdi_ray.config.base import shaping
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.load import parse_config
from magdi_ray.config.reading import read_yaml
from magdi_ray.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent

MINIMAL = """
name: small
task: {name: tiny, train: 10, test: 5}
debate:
  protocol: {name: reconcile, rounds: 1}
  agents: [{name: ada, engine: {type: transformers, model: some/model}}]
distil:
  student: {model: some/model}
  train: {epochs: 1}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_an_engine_s_context_length_shapes_replies_only_where_it_is_set() -> None:
    assert TransformersEngine(type="transformers", model="m").request() == {"type": "transformers", "model": "m"}
    assert TransformersEngine(type="transformers", model="m", context_length=64).request()["context_length"] == 64
    with pytest.raises(ValidationError, match="context_length"):
        TransformersEngine(type="transformers", model="m", context_length=1)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_survives_a_round_trip(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGDI_DATA", "/data")
    config = load_config(path)
    assert load(tmp_path, dump_config(config)) == config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distil.train.epoch=3", r"distil\.train\.epoch: unknown key; did you mean 'epochs'"),
        ("task.trian=3", r"task\.trian: unknown key; did you mean 'train'"),
        ("debate.agents.0.engine.modle=x", r"debate\.agents\.0\.engine\.modle: unknown key; did you mean 'model'"),
        ("distil.train.learning_rate=-1", r"distil\.train\.learning_rate: Input should be greater than 0 \(found -1\)"),
        ("distil.train.epochs='3'", r"distil\.train\.epochs: Input should be a valid integer \(found '3'\)"),
        ("debate.agents.0.replicas=[3, 1]", r"must be \[min, max\] with 1 <= min <= max"),
        ("distil.train.max_steps=3", "exactly one of `epochs` and `max_steps`"),
        ("debate.protocol.name=recon", r"debate\.protocol\.name: there is no 'recon'; did you mean 'reconcile'\?"),
        (
            "distil.recipe=dpoo",
            r"distil\.recipe: there is no 'dpoo'; did you mean 'dpo'\? Known: level1, .*; or a section of",
        ),
        (
            "distil.recipe=3",
            r"distil\.recipe: must be one of 'level1', .* or a section of its own \(control, labels, name, .*\(found 3\)",
        ),
        ("distil.ablations=[lvl3]", r"distil\.ablations\.0: there is no 'lvl3'; did you mean 'level3'\?"),
        ("distil.recipe={name: x}", r"distil\.recipe\.objectives: required, but not given"),
        ("distil.recipe={name: x, int: 3, objectives: [{name: next_token}]}", r"distil\.recipe\.int: unknown key"),
        (
            "distil.recipe={name: x, nodes: {agents: bst}, objectives: [{name: next_token}]}",
            r"distil\.recipe\.nodes\.agents: there is no 'bst'; did you mean 'best'\? Known: all, best; or a list of texts",
        ),
        (
            "distil.recipe={name: x, nodes: {correct: incorrect}, objectives: [{name: next_token}]}",
            r"distil\.recipe: next_token learns from correct nodes",
        ),
        ("distil.scaling.num_workers=two", r"num_workers: must be a whole number or a list of 2 whole numbers \(found 'two'\)"),
        ("distil.scaling.num_workers=[1, x]", r"distil\.scaling\.num_workers\.1: Input should be a valid integer \(found 'x'\)"),
        ("distil.scaling.num_workers=[1, 2, 3]", r"distil\.scaling\.num_workers: Tuple should have at most 2 items"),
        ("distil.student.model={hidden_size: x}", r"distil\.student\.model\.hidden_size: Input should be a valid integer"),
        ("debate.protocol.prompts=3", r"debate\.protocol\.prompts: must be a text or a mapping of texts \(found 3\)"),
        ("distil.ablations=[level2]", "recipe and ablations need distinct names"),
        (
            "graph.source={format: society, path: x}",
            "graphs come either from a `debate` section or from `graph.source`; found both",
        ),
        ("name=../up", "name: String should match pattern"),
    ],
)
def test_a_mistake_is_refused_with_field_value_and_rule(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load(tmp_path, MINIMAL, override)
    assert len(str(refused.value).splitlines()) == 2
    assert not re.search(r"function-|literal\[|tuple\[|\.int:|\.str:", str(refused.value).replace("recipe.int:", ""))


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, MINIMAL, "distil.train.epoch=3", "task.trian=3", "seed=-1")
    assert len(str(error.value).splitlines()) == 4


def test_overrides_reach_into_lists_and_new_sections(tmp_path: Path) -> None:
    config = load(
        tmp_path, MINIMAL, "debate.agents.0.sampling.temperature=0.5", "evaluate.splits=[dev]", "distil.train.learning_rate=5e-6"
    )
    assert config.debate is not None
    assert config.debate.agents[0].sampling.temperature == 0.5
    assert config.evaluate.splits == ("dev",)
    assert config.distil.train.learning_rate == 5e-6


def test_a_text_that_looks_like_a_number_is_written_as_a_text(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "serve.cors_origins=['0e0', '5e6']")
    assert parse_config(read_yaml(dump_config(config), "here"), "here") == config


@pytest.mark.parametrize("override", ["nothing", "debate.agents.7.name=x", "name.first=x"])
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(tmp_path, MINIMAL, override)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key given twice: seed"):
        load(tmp_path, MINIMAL + "seed: 1\nseed: 2\n")


def test_environment_variables_are_filled_in_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/models")
    monkeypatch.delenv("NOWHERE", raising=False)
    text = MINIMAL.replace("student: {model: some/model}", "student: {model: '${WHERE}/x${NOWHERE:-y}'}")
    assert load(tmp_path, text).distil.student.model == "/models/xy"
    with pytest.raises(ConfigError, match="environment variable NOWHERE is not set"):
        load(tmp_path, text.replace(":-y", ""))


def test_a_missing_file_says_where_ready_made_ones_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No configuration file at .*configs/"):
        load_config(tmp_path / "none.yaml")


def test_what_only_says_how_work_is_done_does_not_change_the_hash(tmp_path: Path) -> None:
    plain = load(tmp_path, MINIMAL)
    spread = load(tmp_path, MINIMAL, "debate.agents.0.replicas=[1, 8]", "distil.scaling.num_workers=4", "serve.port=9000")
    other = load(tmp_path, MINIMAL, "debate.agents.0.sampling.temperature=0.9")
    assert content_hash(plain) == content_hash(spread) != content_hash(other)
    assert "scaling" not in shaping(plain)["distil"]


def test_the_json_schema_knows_every_section_and_what_its_fields_mean() -> None:
    schema = config_schema()
    assert set(RunConfig.model_fields) == set(schema["properties"])
    assert "held out" in schema["$defs"]["GraphSource"]["properties"]["test"]["description"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("api_key_env", "sk-proj-SECRETabc123", "names an environment variable"),
        ("api_key_env", "AIzaSECRETabc", "names an environment variable"),
        ("base_url", "https://me:SECRET@host/v1", "no room for credentials"),
        ("base_url", "https://host/v1?key=SECRET", "no room for credentials"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(tmp_path: Path, field: str, value: str, said: str) -> None:
    engine = {"type": "api", "model": "m", field: value}
    with pytest.raises(ConfigError, match=said) as refused:
        load(tmp_path, MINIMAL, f"debate.agents.0.engine={json.dumps(engine)}")
    assert "SECRET" not in str(refused.value)

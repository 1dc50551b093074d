"""The section `resources`: no part of any hash, strict, and refused where Ray could not keep to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray._private.label_utils import validate_label_selector

from magdi_ray.config import RunConfig, config_schema, content_hash, dump_config, load_config, parse_config
from magdi_ray.config.cluster import load_cluster
from magdi_ray.config.resources import KEY, WANTED, Place
from magdi_ray.config.serving import StudentArgs
from magdi_ray.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "name": "small",
    "task": {"name": "tiny", "train": 10, "test": 5},
    "debate": {
        "protocol": {"name": "reconcile", "rounds": 1},
        "agents": [{"name": "ada", "engine": {"type": "transformers", "model": "some/model"}}],
    },
    "distil": {"student": {"model": "some/model"}, "train": {"epochs": 1}},
}


def config(resources: Any, *, workers: Any = 1, debaters: Any = 1) -> RunConfig:
    data = json.loads(json.dumps(MINIMAL))
    data["distil"]["scaling"] = {"num_workers": workers}
    data["debate"]["workers"] = debaters
    return parse_config(data | {"resources": resources}, "small.yaml")


def test_where_things_run_is_no_part_of_any_hash() -> None:
    places = {name: {"labels": {"zone": "a"}} for name in ("debate", "agents", "distil", "evaluate", "serve")}
    assert content_hash(config(places, debaters=[1, 4])) == content_hash(config({}))


def test_places_survive_a_round_trip_and_stand_in_the_schema(tmp_path: Path) -> None:
    placed = config({"distil": {"labels": {"magdi-stage": "train"}, "strategy": "SPREAD"}, "agents": {"custom": {"disk": 0.5}}})
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(placed))
    assert load_config(file) == placed
    assert "TrainingPlace" in json.dumps(config_schema())


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"debat": {}}, r"resources\.debat: unknown key; did you mean 'debate'"),
        ({"debate": {"label": {}}}, r"resources\.debate\.label: unknown key; did you mean 'labels'"),
        ({"debate": {"strategy": "PACK"}}, r"resources\.debate\.strategy: unknown key"),
        ({"distil": {"strategy": "PAK"}}, r"resources\.distil\.strategy: .*'PACK', 'SPREAD'"),
        ({"debate": {"labels": {"magdi-stage": "not(train)"}}}, r"'not\(train\)' is none of them"),
        ({"debate": {"labels": {"a b": "train"}}}, "'a b' is no name of a label"),
        ({"debate": {"custom": {"GPU": 1.0}}}, "GPU is no custom resource: CPUs and GPUs are said by num_cpus, num_gpus"),
        ({"debate": {"custom": {"accelerator_type:L4": 1.0}}}, "is no custom resource"),
        ({"debate": {"custom": {"disk": 1.5}}}, "disk: Ray takes a share of one, or whole numbers, and not 1.5"),
        ({"debate": {"custom": {"disk": 0.0}}}, r"resources\.debate\.custom\.disk: Input should be greater than 0"),
    ],
)
def test_a_place_that_ray_could_not_keep_to_is_refused(resources: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(resources)


@pytest.mark.parametrize(
    "wanted", ["train", "!train", "in(a, b)", "!in(a,b)", "", "in()", "in(a", "-a", "a_", "a" * 64, "!!a", "a b"]
)
def test_values_of_labels_are_those_that_ray_takes(wanted: str) -> None:
    assert bool(WANTED.fullmatch(wanted)) == (wanted != "" and validate_label_selector({"zone": wanted}) is None)


def test_a_space_within_a_selector_is_not_handed_to_ray_which_takes_it_for_part_of_the_value() -> None:
    assert config({"debate": {"labels": {"zone": "in(a, b)"}}}).resources.debate.labels == {"zone": "in(a,b)"}


@pytest.mark.parametrize("key", ["zone", "ray.io/zone", "a.b.c/d", "-a", "a/b/c", "a b", "a" * 64, "/a"])
def test_names_of_labels_are_those_that_ray_takes(key: str) -> None:
    assert bool(KEY.fullmatch(key)) == (key != "/a" and validate_label_selector({key: "x"}) is None)


@pytest.mark.parametrize("place", [{"labels": {"magdi-stage": "train"}}, {"strategy": "STRICT_SPREAD"}])
def test_elastic_training_cannot_be_kept_to_labels_and_says_what_can_be_done(place: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot go with distil\.scaling\.num_workers \[2, 4\].*accelerator or \.custom"):
        config({"distil": place}, workers=[2, 4])
    assert config({"distil": place}, workers=4).resources.distil != config({}).resources.distil
    assert config({"distil": {"accelerator": "H100"}}, workers=[2, 4]).resources.distil.accelerator == "H100"


@pytest.mark.parametrize(("given", "found"), [(3, (3, 3)), ([1, 4], (1, 4))])
def test_debate_workers_are_one_number_or_a_range(given: Any, found: tuple[int, int]) -> None:
    debate = config({}, debaters=given).debate
    assert debate is not None
    assert debate.worker_range == found


@pytest.mark.parametrize("given", [0, [0, 2], [3, 2]])
def test_debate_workers_below_one_or_out_of_order_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"debate\.workers: must be at least 1, or \[min, max\]"):
        config({}, debaters=given)


def test_a_serve_config_file_says_where_its_copies_and_teachers_run_and_no_more() -> None:
    place = {"labels": {"magdi-stage": "serve"}}
    args = {"model": "some/model", "model_name": "student"}
    parsed = StudentArgs.model_validate_json(json.dumps(args | {"resources": {"serve": place}}))
    assert parsed.resources.serve == Place(labels={"magdi-stage": "serve"})
    with pytest.raises(ValueError, match="debate"):
        StudentArgs.model_validate_json(json.dumps(args | {"resources": {"debate": place}}))


@pytest.mark.parametrize(("load", "example"), [(load_config, r"configs/"), (load_cluster, r"cluster/prices\.yaml")])
def test_a_file_that_is_missing_or_no_mapping_is_named_with_an_example(load: Any, example: str, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    with pytest.raises(ConfigError, match=rf"file at .*file\.yaml\. .*{example}"):
        load(file)
    file.write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"must hold a mapping .*name, .*, found list\."):
        load(file)

"""The arithmetic of places: what fits, what never will, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.config import RunConfig, load_config, parse_config
from magdi_ray.config.resources import Place
from magdi_ray.placement import Fleet, Nodes, Want, bundle, capacity, fleet_of, matches, remote_options, shortages, wants
from tests.cluster.rendering import clusters

ROOT = Path(__file__).parent.parent

GPU_NODE = {"CPU": 8.0, "GPU": 1.0}
TRAIN = {"magdi-stage": "train"}


def training(count: int, labels: Mapping[str, str] = TRAIN, **more: Any) -> Want:
    resources = {"GPU": 1.0, "CPU": 8.0}
    return Want("distil", count, resources, labels, noun="workers", remedy="distil.scaling.num_workers", **more)


def fits(nodes: Sequence[Nodes], *together: Want, most_more: int | None = None) -> bool:
    return not shortages(Fleet(tuple(nodes), "known", most_more), [together])


def test_a_shortage_is_told_with_its_numbers_and_what_to_change() -> None:
    nodes = (Nodes(GPU_NODE, TRAIN, alive=2), Nodes(GPU_NODE, TRAIN, more=1, name="gpu-train"), Nodes({"CPU": 64.0}, alive=9))
    assert shortages(Fleet(nodes, "known"), [[training(8)]]) == [
        "distil wants 8 workers x (1 GPU, 8 CPUs) on nodes labelled magdi-stage=train; such nodes: 2 alive, with 1 GPU, 8 CPUs "
        "each; gpu-train: 1 more to come, with 1 GPU, 8 CPUs each: 3 of 8 fit. Lower distil.scaling.num_workers, or raise the "
        "bound of that group of nodes (KubeRay: maxReplicas; ray up: max_workers)."
    ]


def test_nodes_that_may_come_count_like_those_that_are_there() -> None:
    assert fits([Nodes(GPU_NODE, TRAIN, alive=1, more=3)], training(4))
    assert not fits([Nodes(GPU_NODE, TRAIN, alive=1, more=3)], training(5))


def test_an_autoscaler_s_bound_over_all_kinds_of_nodes_is_kept() -> None:
    nodes = [Nodes(GPU_NODE, TRAIN, more=4), Nodes({"CPU": 16.0, "GPU": 2.0}, TRAIN, more=1)]
    assert fits(nodes, training(4), most_more=3)  # the large one and two of the others
    assert not fits(nodes, training(5), most_more=3)


def test_processes_are_packed_into_nodes_and_not_into_their_sum() -> None:
    three = Want("distil", 2, {"CPU": 3.0})
    assert not fits([Nodes({"CPU": 4.0}, alive=1), Nodes({"CPU": 2.0}, alive=1)], three)
    assert fits([Nodes({"CPU": 6.0}, alive=1)], three)


def test_shares_of_a_gpu_stay_within_one_gpu() -> None:
    share = Want("debate.agents' ada", 3, {"GPU": 0.6})
    assert capacity(Fleet((Nodes({"GPU": 2.0}, alive=1),)), share) == 2
    assert capacity(Fleet((Nodes({"GPU": 2.0}, alive=1),)), Want("x", 9, {"GPU": 0.1})) == 20


@pytest.mark.parametrize(("strategy", "count"), [("PACK", 6), ("SPREAD", 6), ("STRICT_PACK", 2), ("STRICT_SPREAD", 3)])
def test_strict_strategies_want_one_node_or_one_node_each(strategy: Any, count: int) -> None:
    nodes = Fleet((Nodes({"CPU": 16.0, "GPU": 2.0}, TRAIN, alive=3),))
    assert capacity(nodes, training(1, strategy=strategy)) == count


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        ("train", [True, False, False]),
        ("!train", [False, True, True]),
        ("in(train,serve)", [True, True, False]),
        ("!in(train,serve)", [False, False, True]),
    ],
)
def test_labels_are_matched_as_ray_does(wanted: str, labels: list[bool]) -> None:
    nodes: list[dict[str, str]] = [{"magdi-stage": "train"}, {"magdi-stage": "serve"}, {}]
    assert [matches(node, {"magdi-stage": wanted}) for node in nodes] == labels


def test_a_label_that_no_node_has_is_told_with_the_labels_there_are() -> None:
    fleet = Fleet((Nodes(GPU_NODE, TRAIN, alive=1), Nodes(GPU_NODE, {"magdi-stage": "serve"}, more=2)), "known")
    [words] = shortages(fleet, [[training(1, {"magdi-stage": "trian"})]])
    assert "magdi-stage=trian; no such node is there or may come" in words
    assert "Nodes have magdi-stage=serve; magdi-stage=train." in words


def test_a_process_too_large_for_every_node_is_told_so() -> None:
    [words] = shortages(Fleet((Nodes({"CPU": 4.0}, TRAIN, alive=9),)), [[training(1)]])
    assert "9 alive, with 0 GPUs, 4 CPUs each: not one of them holds a single one" in words


def test_processes_that_reserve_nothing_still_need_a_node_with_their_labels() -> None:
    free = Want("debate", 100, {}, {"magdi-stage": "debate"})
    assert fits([Nodes({"CPU": 0.0}, {"magdi-stage": "debate"}, alive=1)], free)
    assert not fits([Nodes({"CPU": 64.0}, alive=1)], free)


def test_what_runs_at_the_same_time_is_added_up() -> None:
    ada, bob = (Want(f"debate.agents' {name}", 2, {"GPU": 0.5}, remedy="its replicas") for name in ("ada", "bob"))
    assert fits([Nodes({"GPU": 1.0}, alive=2)], ada, bob)
    [words] = shortages(Fleet((Nodes({"GPU": 1.0}, alive=1),)), [[ada, bob]])
    assert "Together they want 2 GPUs; the nodes they may use have 1 GPU." in words


def test_what_runs_at_different_times_is_not_added_up() -> None:
    fleet = Fleet((Nodes(GPU_NODE, TRAIN, alive=1),))
    assert shortages(fleet, [[training(1)], [training(1)]]) == []


def test_different_processes_that_leave_no_room_for_each_other_on_any_node_are_seen() -> None:
    ada, bob = (Want(f"debate.agents' {name}", 2, {"GPU": 0.6}) for name in ("ada", "bob"))
    [words] = shortages(Fleet((Nodes({"GPU": 1.0}, alive=3),)), [[ada, bob]])  # 2.4 of 3 GPUs, and yet one to each GPU
    assert "Of these 4, the nodes they may use hold 3." in words


def test_processes_of_different_labels_do_not_stand_in_each_other_s_way() -> None:
    serve = Want("agents", 1, {"GPU": 1.0}, {"magdi-stage": "teachers"})
    assert fits([Nodes(GPU_NODE, TRAIN, alive=1), Nodes(GPU_NODE, {"magdi-stage": "teachers"}, alive=1)], training(1), serve)


resources = st.dictionaries(st.sampled_from(["CPU", "GPU", "disk"]), st.sampled_from([0.25, 0.5, 0.6, 1.0, 2.0, 4.0]), max_size=3)
labels = st.dictionaries(st.just("stage"), st.sampled_from(["a", "b"]), max_size=1)
some_nodes = st.builds(Nodes, resources, labels, st.integers(0, 3), st.integers(0, 3))
selectors = st.dictionaries(st.just("stage"), st.sampled_from(["a", "!a", "in(a,b)"]), max_size=1)
strategies = st.sampled_from(["PACK", "STRICT_PACK", "STRICT_SPREAD"])
some_wants = st.builds(Want, st.just("x"), st.integers(1, 5), resources, selectors, strategies)


@given(st.lists(some_nodes, max_size=4), some_nodes, st.lists(some_wants, min_size=1, max_size=3), st.none() | st.integers(0, 4))
def test_more_nodes_never_make_impossible_what_was_possible(
    nodes: list[Nodes], added: Nodes, together: list[Want], most_more: int | None
) -> None:
    if fits(nodes, *together, most_more=most_more):
        assert fits([*nodes, added], *together, most_more=most_more)


def placed(nodes: list[dict[str, float]], processes: list[Mapping[str, float]]) -> bool:
    """By trying every node for every process; whole GPUs only."""
    if not processes:
        return True
    first, *others = processes
    for node in nodes:
        if all(node.get(name, 0.0) >= amount for name, amount in first.items()):
            left = [one if one is not node else node | {name: node[name] - n for name, n in first.items()} for one in nodes]
            if placed(left, others):
                return True
    return False


whole = st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.sampled_from([1.0, 2.0, 3.0]), min_size=1)
pairs = st.lists(st.tuples(whole, st.integers(1, 2)), min_size=1, max_size=2)


@given(st.lists(whole, min_size=1, max_size=3), pairs)
def test_nothing_that_can_be_placed_is_ever_refused(nodes: list[dict[str, float]], processes: Any) -> None:
    together = [Want("x", count, each) for each, count in processes]
    if placed(nodes, [each for each, count in processes for _ in range(count)]):
        assert fits([Nodes(node, alive=1) for node in nodes], *together)


def test_a_fleet_is_the_living_nodes_and_what_the_autoscaler_may_add() -> None:
    own = {"ray.io/node-id": "1", "ray.io/node-group": "gpu", **TRAIN}
    alive = [
        {"Resources": {"CPU": 8.0, "memory": 1e9, "node:10.0.0.1": 1.0}, "Labels": own | {"ray.io/node-id": n}} for n in "12"
    ]
    described = {
        "head_node_type": "head",
        "max_workers": 5,
        "available_node_types": {
            "head": {"resources": {"CPU": 4}},
            "gpu": {"max_workers": 3, "resources": {"CPU": 8}, "labels": TRAIN},
        },
    }
    fleet = fleet_of(alive, described, growth="unknown")
    assert (fleet.growth, fleet.most_more) == ("known", 3)
    assert fleet.nodes == (
        Nodes({"CPU": 8.0}, {"ray.io/node-group": "gpu", **TRAIN}, alive=2, name="gpu"),
        Nodes({"CPU": 8.0}, TRAIN, more=1, name="gpu"),
    )


def config(**sections: Any) -> RunConfig:
    student = {"student": {"model": "some/model"}, "train": {"epochs": 1}}
    agents = [
        {"name": "ada", "engine": {"type": "transformers", "model": "m"}, "replicas": [2, 4], "num_cpus": 4.0, "num_gpus": 1.0},
        {"name": "gpt", "engine": {"type": "api", "model": "m"}},
    ]
    data: dict[str, Any] = {
        "name": "small",
        "task": {"name": "tiny", "train": 10, "test": 5},
        "debate": {"protocol": {"name": "reconcile", "rounds": 1}, "agents": agents, "workers": [2, 8], "num_cpus": 1.0},
        "distil": student | {"scaling": {"num_workers": 8, "use_gpu": True, "num_cpus": 8.0}},
    }
    return parse_config(data | sections, "test")


def test_a_stage_wants_its_fewest_processes_and_only_if_it_is_to_run() -> None:
    places = {"agents": {"labels": {"magdi-stage": "teachers"}}, "distil": {"labels": TRAIN, "accelerator": "H100"}}
    [debating, [distil]] = wants(config(resources=places), ["questions", "debates", "graphs", "student"])
    counts = [(want.who, want.count, dict(want.resources)) for want in debating[:2]]
    assert counts == [("debate", 2, {"CPU": 1.0}), ("debate.agents' ada", 2, {"CPU": 4.0, "GPU": 1.0})]
    assert distil.count == 8
    assert distil.resources == {"CPU": 8.0, "GPU": 1.0, "accelerator_type:H100": 0.001}
    assert wants(config(), ["questions", "graphs", "base"]) == []


def test_a_place_becomes_the_options_of_an_actor_and_an_empty_one_none() -> None:
    assert remote_options(Place()) == {}
    place = Place(labels=TRAIN, accelerator="L4", custom={"disk": 2.0})
    assert remote_options(place) == {"label_selector": TRAIN, "accelerator_type": "L4", "resources": {"disk": 2.0}}
    assert bundle(place, num_gpus=1.0) == {"GPU": 1.0, "accelerator_type:L4": 0.001, "disk": 2.0}


def kuberay() -> Fleet:
    """The machines of the RayJob in cluster/kuberay, before any of them was added, as Ray's autoscaler reads them."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    described = {"metadata": {"name": "magdi", "namespace": "magdi"}, "spec": clusters("plain")[0]}
    return fleet_of([], _derive_autoscaling_config_from_ray_cr(described), growth="unknown")


def test_what_the_manifests_may_grow_to_is_read_as_ray_s_autoscaler_reads_it() -> None:
    groups = {nodes.name: (nodes.labels["magdi-stage"], nodes.more) for nodes in kuberay().nodes}
    assert groups == {
        "cpu-debate": ("debate", 16),
        "gpu-teachers": ("teachers", 8),
        "gpu-train": ("train", 2),
        "gpu-serve": ("serve", 5),
    }


def test_the_documented_places_fit_the_manifests_and_too_many_workers_do_not() -> None:
    text = (ROOT / "docs" / "placement.md").read_text()
    section = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    shipped = load_config(ROOT / "configs" / "mistral-7b.yaml", ["distil.scaling.num_workers=8", "debate.num_cpus=1.0"])
    run = parse_config(json.loads(shipped.model_dump_json()) | section, "docs")
    every = ["debates", "student", "evaluation"]
    assert shortages(kuberay(), wants(run, every)) == []
    scaling = run.distil.scaling.model_copy(update={"num_workers": 17})
    many = run.model_copy(update={"distil": run.distil.model_copy(update={"scaling": scaling})})
    [words] = shortages(kuberay(), wants(many, every))
    assert "gpu-train: 2 more to come" in words
    assert "16 of 17 fit" in words

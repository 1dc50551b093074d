"""The training plan: every graph once an epoch, whatever the number of workers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.config.distil import TrainConfig
from magdi_ray.distill.plan import GraphSize, Step, forwarded, measure, measure_lengths, plan_steps, share
from magdi_ray.distill.tokens import GraphTokens, NodeTokens
from magdi_ray.errors import ConfigError

SIZES = st.lists(
    st.builds(GraphSize, st.integers(1, 50), st.integers(1, 400), st.integers(1, 12), st.integers(0, 30)), min_size=1, max_size=40
)


PACKED = st.lists(st.builds(GraphSize, st.just(5), st.integers(1, 400), st.just(2), st.just(1), st.just(True)), min_size=1)


def step_of(sizes: list[GraphSize]) -> Step:
    return Step(tuple(range(len(sizes))), 0, 0, 0)


@given(sizes=SIZES, epochs=st.integers(1, 4), budget=st.integers(1, 300))
def test_every_graph_appears_once_an_epoch(sizes: list[GraphSize], epochs: int, budget: int) -> None:
    steps = plan_steps(sizes, TrainConfig(epochs=epochs, tokens_per_step=budget), seed=3)
    assert Counter(graph for step in steps for graph in step.graphs) == dict.fromkeys(range(len(sizes)), epochs)


@given(sizes=SIZES, budget=st.integers(1, 300))
def test_every_step_but_the_last_holds_the_tokens_it_was_asked_for(sizes: list[GraphSize], budget: int) -> None:
    steps = plan_steps(sizes, TrainConfig(epochs=2, tokens_per_step=budget), seed=3)
    assert all(step.supervised >= budget for step in steps[:-1])
    assert all(step.supervised == sum(sizes[i].supervised for i in step.graphs) for step in steps)


def test_max_steps_is_kept_across_epochs() -> None:
    sizes = [GraphSize(10, 50, 3, 2)] * 7
    assert len(plan_steps(sizes, TrainConfig(max_steps=23, tokens_per_step=30), seed=0)) == 23


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    sizes = [GraphSize(10, 50, 3, 2)] * 50
    config = TrainConfig(epochs=2, tokens_per_step=40)
    assert plan_steps(sizes, config, seed=1) == plan_steps(sizes, config, seed=1) != plan_steps(sizes, config, seed=2)


@given(sizes=SIZES, workers=st.integers(1, 5), limit=st.one_of(st.none(), st.integers(1, 800)))
def test_dealing_out_keeps_every_graph_once_and_workers_in_lockstep(
    sizes: list[GraphSize], workers: int, limit: int | None
) -> None:
    step = Step(tuple(range(len(sizes))), 0, 0, 0)
    hands = share(step, sizes, workers=workers, limit=limit)
    assert sorted(graph for hand in hands for batch in hand for graph in batch) == list(range(len(sizes)))
    assert len({len(hand) for hand in hands}) == 1


def test_a_micro_batch_stays_below_its_limit_unless_one_graph_alone_exceeds_it() -> None:
    sizes = [GraphSize(5, 100, 4, 3)] * 9 + [GraphSize(5, 900, 4, 3)]
    for batch in share(Step(tuple(range(10)), 0, 0, 0), sizes, workers=1, limit=250)[0]:
        widest = max(sizes[i].tokens // sizes[i].nodes for i in batch)
        assert len(batch) == 1 or widest * sum(sizes[i].nodes for i in batch) <= 250


def test_packed_graphs_fill_a_micro_batch_by_their_sum() -> None:
    sizes = [GraphSize(5, tokens, 4, 3, packed=True) for tokens in (100, 90, 60, 40, 10)]
    batches = share(Step(tuple(range(5)), 0, 0, 0), sizes, workers=1, limit=190)[0]
    assert [sum(sizes[i].tokens for i in batch) for batch in batches] == [190, 110]


@given(sizes=st.one_of(SIZES, PACKED), limit=st.integers(1, 800))
def test_no_micro_batch_exceeds_its_limit_unless_it_is_one_graph(sizes: list[GraphSize], limit: int) -> None:
    for batch in share(step_of(sizes), sizes, workers=1, limit=limit)[0]:
        assert len(batch) == 1 or forwarded([sizes[i] for i in batch]) <= limit


@given(sizes=PACKED, limit=st.integers(1, 800))
def test_no_two_micro_batches_of_packed_rows_could_have_been_one(sizes: list[GraphSize], limit: int) -> None:
    loads = sorted(sum(sizes[i].tokens for i in batch) for batch in share(step_of(sizes), sizes, workers=1, limit=limit)[0])
    assert len(loads) == 1 or loads[0] + loads[1] > limit


def test_a_small_graph_fills_the_first_gap_that_has_room_for_it() -> None:
    sizes = [GraphSize(5, tokens, 2, 1, packed=True) for tokens in (60, 60, 60, 40, 40, 40)]
    batches = share(step_of(sizes), sizes, workers=1, limit=100)[0]
    assert sorted(map(sorted, batches)) == [[0, 3], [1, 4], [2, 5]]


def test_padded_graphs_of_like_length_share_a_micro_batch() -> None:
    sizes = [GraphSize(5, width * 4, 4, 3) for width in (10, 100, 11, 101, 12, 102)]
    batches = share(step_of(sizes), sizes, workers=1, limit=1300)[0]
    assert sorted(map(sorted, batches)) == [[0, 2, 4], [1, 3, 5]]


@given(sizes=st.one_of(SIZES, PACKED), workers=st.integers(1, 4), limit=st.one_of(st.none(), st.integers(1, 800)), data=st.data())
def test_what_a_worker_gets_does_not_depend_on_the_order_of_the_step(
    sizes: list[GraphSize], workers: int, limit: int | None, data: st.DataObject
) -> None:
    shuffled = Step(tuple(data.draw(st.permutations(range(len(sizes))))), 0, 0, 0)
    settings = {"workers": workers, "limit": limit}
    assert share(shuffled, sizes, **settings) == share(step_of(sizes), sizes, **settings)


@given(sizes=PACKED, workers=st.integers(1, 5))
def test_no_worker_has_more_than_the_mean_and_one_graph(sizes: list[GraphSize], workers: int) -> None:
    dealt = share(step_of(sizes), sizes, workers=workers, limit=None)
    mean = sum(size.tokens for size in sizes) / workers
    loads = [sum(forwarded([sizes[i] for i in batch]) for batch in batches) for batches in dealt]
    assert mean <= max(loads) + 1e-9
    assert max(loads) <= mean + max(size.tokens for size in sizes) + 1e-9


def test_lengths_alone_give_the_size_that_the_tokens_give() -> None:
    nodes = (NodeTokens((1, 2, 3), True, "q/0"), NodeTokens((4,), False, "q/1"))
    graph = GraphTokens("q", (7, 8), nodes, ())
    for packed in (True, False):
        switches = {"next_token": True, "loss_on_prompt": True, "packed": packed}
        found = measure_lengths(2, [3, 1], [True, False], **switches)
        assert found == measure(graph, **switches) == GraphSize(4, 6 if packed else 10, 2, 1, packed)


@pytest.mark.parametrize("sizes", [[], [GraphSize(0, 10, 2, 0)]])
def test_nothing_to_learn_from_is_said_before_training(sizes: list[GraphSize]) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        plan_steps(sizes, TrainConfig(epochs=1), seed=0)

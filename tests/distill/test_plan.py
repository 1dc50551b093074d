"""The training plan: every graph once an epoch, whatever the number of workers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.config.distil import TrainConfig
from magdi_ray.distill.plan import GraphSize, Step, plan_steps, share
from magdi_ray.errors import ConfigError

SIZES = st.lists(
    st.builds(GraphSize, st.integers(1, 50), st.integers(1, 400), st.integers(1, 12), st.integers(0, 30)), min_size=1, max_size=40
)


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


@pytest.mark.parametrize("sizes", [[], [GraphSize(0, 10, 2, 0)]])
def test_nothing_to_learn_from_is_said_before_training(sizes: list[GraphSize]) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        plan_steps(sizes, TrainConfig(epochs=1), seed=0)

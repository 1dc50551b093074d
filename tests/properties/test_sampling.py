"""What is trained on: every graph once an epoch, for any number of workers, however often a training is broken off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.config.distil import TrainConfig
from magdi_ray.distill.plan import GraphSize, Step, plan_steps
from magdi_ray.distill.units import feed
from tests.properties.rules import rule

STAND_IN = -1
sizes = st.lists(
    st.builds(GraphSize, st.integers(1, 50), st.integers(1, 400), st.integers(1, 12), st.integers(0, 30), st.booleans()),
    min_size=1,
    max_size=30,
)
worlds = st.integers(1, 9)
limits = st.none() | st.integers(1, 800)


class Counted:
    """Units whose batch is the list of its graphs."""

    stand_in = STAND_IN

    def __init__(self, sizes: Sequence[GraphSize]) -> None:
        self.sizes = sizes

    def batch(self, indices: tuple[int, ...]) -> Any:
        return indices


def fed(held: Sequence[GraphSize], steps: Sequence[Step], workers: int, limit: int | None) -> list[list[int]]:
    """The graphs that all workers together forward in each step, and that they take the steps side by side."""
    units: Any = Counted(held)
    own = [list(feed(units, steps, rank=rank, workers=workers, limit=limit)) for rank in range(workers)]
    assert len({tuple(micro.last for micro in mine) for mine in own}) == 1
    found: list[list[int]] = [[]]
    for side_by_side in zip(*own, strict=True):
        for micro in side_by_side:
            graphs: Any = micro.batch
            assert (micro.weight == 0.0) == (graphs == (STAND_IN,))
            found[-1] += graphs if micro.weight else ()
        if side_by_side[0].last:
            found.append([])
    assert found.pop() == []
    return found


def planned(held: Sequence[GraphSize], epochs: int, budget: int, seed: int) -> list[Step]:
    return plan_steps(held, TrainConfig(epochs=epochs, tokens_per_step=budget), seed=seed)


@rule(100)
@given(sizes, st.integers(1, 3), st.integers(1, 300), worlds, limits, st.integers(0, 9))
def test_all_workers_together_forward_every_graph_once_an_epoch(
    held: list[GraphSize], epochs: int, budget: int, workers: int, limit: int | None, seed: int
) -> None:
    steps = planned(held, epochs, budget, seed)
    found = fed(held, steps, workers, limit)
    assert [sorted(graphs) for graphs in found] == [sorted(step.graphs) for step in steps]
    stream = [graph for step in steps for graph in step.graphs]
    for epoch in range(epochs):
        assert sorted(stream[epoch * len(held) : (epoch + 1) * len(held)]) == list(range(len(held)))


@rule(100)
@given(sizes, st.integers(1, 3), st.integers(1, 300), st.lists(st.tuples(worlds, limits), min_size=1, max_size=3), st.data())
def test_a_training_that_goes_on_at_any_step_with_any_number_of_workers_misses_and_repeats_nothing(
    held: list[GraphSize], epochs: int, budget: int, attempts: list[tuple[int, int | None]], data: st.DataObject
) -> None:
    steps = planned(held, epochs, budget, seed=3)
    done, counted = 0, Counter[int]()
    for number, (workers, limit) in enumerate(attempts, start=1):
        end = len(steps) if number == len(attempts) else data.draw(st.integers(done, len(steps)))
        again = planned(held, epochs, budget, seed=3)  # every attempt plans for itself
        counted.update(graph for graphs in fed(held, again[done:end], workers, limit) for graph in graphs)
        done = end
    assert counted == dict.fromkeys(range(len(held)), epochs)


@rule(60)
@given(sizes, st.integers(1, 300), worlds, st.data())
def test_a_step_s_figures_count_each_of_its_graphs_once(
    held: list[GraphSize], budget: int, workers: int, data: st.DataObject
) -> None:
    steps = planned(held, 2, budget, seed=data.draw(st.integers(0, 99)))
    for step, graphs in zip(steps, fed(held, steps, workers, None), strict=True):
        assert (step.supervised, step.nodes, step.pairs) == tuple(
            sum(getattr(held[graph], name) for graph in graphs) for name in ("supervised", "nodes", "pairs")
        )

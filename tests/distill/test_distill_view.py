"""What a person is shown of a training."""

from __future__ import annotations

from typing import Any

import pytest

from magdi_ray.distill.watch.view import cost_summary, duration, progress_note, rough_flops, short

LINE: dict[str, Any] = {
    "stage": "distil", "recipe": "level4", "time": 1.5, "step": 7, "steps": 200, "loss": 2.31, "next_token": 1.7,
    "contrast": 0.61,
    "grad_norm/contrast": 0.2, "weight/contrast": 0.1, "learning_rate": 1e-5, "grad_norm": 3.0, "graphs": 12.0, "tokens": 900.0,
    "tokens_forwarded": 5200.0, "seconds": 1.0, "tokens_per_second": 5200.0, "graphs_per_second": 12.0, "seconds_left": 250.0,
    "dev": {"step": 5, "loss": 2.4, "accuracy": 0.31},
}  # fmt: skip

FACTS: dict[str, Any] = {
    "steps": 120, "planned_steps": 200, "graphs": 1000, "nodes": 9000, "tokens_forwarded": 4_000_000,
    "supervised_tokens": 1_500_000,
    "seconds": 7200.0, "worker_seconds": 14400.0, "workers": 2, "gpus": 2, "parameters": 7_000_000_000,
    "trained_parameters": 20_000_000,
    "peak_memory": [40 * 2**30, 30 * 2**30], "resumed": 2, "stopped_early": True, "best_step": 100, "best_loss": 1.234,
    "dev_loss": 1.3, "dev_accuracy": 0.425, "result": "best",
}  # fmt: skip


def test_the_note_says_loss_parts_dev_speed_and_time_left() -> None:
    assert progress_note(LINE) == (
        "loss 2.310 (next_token 1.700, contrast 0.610), dev loss 2.400, dev accuracy 31%, 5.2k tokens/s, 12 graphs/s, 4 min left"
    )


NOTED: dict[str, str] = {
    "loss": "loss 2.310", "next_token": "1.700", "contrast": "0.610", "dev": "dev", "tokens_per_second": "tokens/s",
    "graphs_per_second": "graphs/s", "seconds_left": "left", "steps": "left",
}  # fmt: skip
"""What a note says because of each figure."""


@pytest.mark.parametrize("missing", sorted(LINE))
def test_a_line_that_lacks_something_still_gives_a_note(missing: str) -> None:
    note = progress_note({name: value for name, value in LINE.items() if name != missing})
    assert note
    if missing in NOTED:
        assert NOTED[missing] in progress_note(LINE)
        assert NOTED[missing] not in note
    else:
        assert note == progress_note(LINE)


def test_the_last_step_has_no_time_left() -> None:
    assert "left" not in progress_note(LINE | {"step": 199})


def test_a_measurement_without_accuracy_shows_its_loss_alone() -> None:
    note = progress_note(LINE | {"dev": {"step": 5, "loss": 2.4, "accuracy": None}})
    assert "dev loss 2.400" in note
    assert "accuracy" not in note


def test_the_summary_says_what_a_training_cost() -> None:
    assert cost_summary(FACTS) == [
        "120 steps of 200 planned, 1,000 graphs, 9,000 nodes, 4M tokens forwarded, 1.5M of them supervised",
        "2 h 00 min, 4 GPU-hours (2 workers at the end), 556 tokens/s",
        "about 1.1e+17 FLOP over 7G parameters, 20M of them trained",
        "at most 40 GiB of GPU memory a worker (30 the least)",
        "interrupted and resumed 2 times",
        "stopped early: the dev loss fell no more, lowest dev loss 1.234 after step 100, last 1.300, dev accuracy 42.5%, "
        "the best weights are the result",
    ]


def test_on_cpus_the_summary_speaks_of_worker_hours_and_memory() -> None:
    text = "\n".join(cost_summary(FACTS | {"gpus": 0}))
    assert "4 worker-hours" in text
    assert "GPU" not in text


SAID: dict[str, tuple[str, ...]] = {
    "steps": ("120 steps",), "planned_steps": ("200 planned",), "graphs": ("1,000 graphs",), "nodes": ("9,000 nodes",),
    "tokens_forwarded": ("4M tokens forwarded", "tokens/s", "FLOP"), "supervised_tokens": ("1.5M of them",),
    "seconds": ("2 h 00 min", "tokens/s"), "worker_seconds": ("GPU-hours",), "workers": ("2 workers",), "gpus": ("GPU",),
    "parameters": ("7G parameters",), "trained_parameters": ("20M of them",), "peak_memory": ("GiB",), "resumed": ("resumed",),
    "stopped_early": ("stopped early",), "best_step": ("lowest",), "best_loss": ("1.234",), "dev_loss": ("1.300",),
    "dev_accuracy": ("accuracy",), "result": ("the best weights",),
}  # fmt: skip
"""What a summary says because of each fact."""


@pytest.mark.parametrize("missing", sorted(FACTS))
def test_a_summary_leaves_out_what_is_not_known(missing: str) -> None:
    whole = "\n".join(cost_summary(FACTS))
    without = cost_summary({name: value for name, value in FACTS.items() if name != missing})
    assert without == cost_summary(FACTS | {missing: None})
    for words in SAID[missing]:
        assert words in whole
        assert words not in "\n".join(without)


def test_operations_that_were_counted_stand_in_place_of_a_rule_of_thumb() -> None:
    assert "about 9.9e+16 FLOP" in "\n".join(cost_summary(FACTS | {"flops": 9.9e16}))


def test_nothing_known_is_no_summary() -> None:
    assert cost_summary({}) == []


def test_full_tuning_costs_six_operations_a_weight_and_token_and_adapters_little_more_than_four() -> None:
    assert rough_flops(10, parameters=100, trained=100) == 6 * 100 * 10
    assert rough_flops(10, parameters=100, trained=1) == 4 * 100 * 10 + 2 * 10


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (89.6, "90 s"),
        (119.6, "2 min"),
        (720, "12 min"),
        (5399, "1 h 30 min"),
        (11100, "3 h 05 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_times_are_readable(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("number", "said"), [(0, "0"), (950, "950"), (5200, "5.2k"), (1_250_000, "1.25M"), (7e9, "7G")])
def test_large_numbers_are_short(number: float, said: str) -> None:
    assert short(number) == said

"""Units as batches: what a worker is handed, and the thread that makes it ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from magdi_ray.distill.units import AHEAD, ahead


def slow_numbers(made: list[int]) -> Iterator[int]:
    for number in range(100):
        made.append(number)
        yield number


def test_items_come_in_order_and_all_of_them() -> None:
    with ahead(slow_numbers([])) as items:
        assert list(items) == list(range(100))


def test_only_a_few_items_are_made_before_they_are_wanted() -> None:
    made: list[int] = []
    with ahead(slow_numbers(made)) as items:
        next(items)
        time.sleep(0.3)
        assert len(made) <= AHEAD + 3


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    with ahead(slow_numbers([])) as items:
        next(items)
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_loop() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("torn file")

    with ahead(failing()) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="torn file"):
            next(items)

"""How many examples a property is tried on: always the same few, unless more are asked for.

`MAGDI_EXAMPLES=20` tries twenty times as many, other ones each time (`make fuzz`).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("MAGDI_EXAMPLES", "1"))


def rule(examples: int) -> settings:
    """The settings of a property that is tried on so many examples."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
    return settings(
        max_examples=examples * TIMES, derandomize=TIMES == 1, deadline=None, database=None, suppress_health_check=slow
    )

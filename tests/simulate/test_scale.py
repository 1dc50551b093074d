"""From few simulated debates to many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magdi_ray.simulate import scale
from magdi_ray.simulate.debate import simulate
from magdi_ray.simulate.scale import project, steady
from magdi_ray.simulate.scenario import Nodes, Scenario
from tests.simulate.worlds import asked, hosted, trace


def test_a_steady_rate_is_that_of_what_sets_the_pace() -> None:
    scenario = Scenario(**asked(trace(), latency=0.2, provider={"capacity": 8}, concurrency=100), max_in_flight=64)
    assert steady(scenario).debates_per_s == pytest.approx(40.0, rel=0.02)


def test_extrapolated_and_simulated_times_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = replace(hosted(replicas=(1, 3)), traces=(trace(), trace(rounds=2)))
    found = steady(scenario)
    simulated = project(scenario, 10_000, found=found)
    monkeypatch.setattr(scale, "DIRECT", 0)
    extrapolated = project(scenario, 10_000, found=found)
    assert (simulated.simulated, extrapolated.simulated) == (10_000, found.outcome.questions)
    assert extrapolated.seconds == pytest.approx(simulated.seconds, rel=0.03)


def test_what_preemptions_cost_is_about_what_is_simulated() -> None:
    scenario = hosted(agent_nodes=Nodes(start_s=60.0, preemptions_per_hour=4.0))
    found = steady(scenario)
    assert found.lost_share == pytest.approx(4 * (60 + 30) / 3600)
    calm, lossy = (simulate(scenario, 8000, preemption=wanted).seconds for wanted in (False, True))
    assert lossy / calm == pytest.approx(1 + found.lost_share, abs=0.05)


def test_time_grows_with_the_questions_and_never_falls() -> None:
    scenario = hosted()
    found = steady(scenario)
    times = [project(scenario, 10**power, found=found).seconds for power in range(1, 10)]
    assert times == sorted(times)
    assert times[-1] / times[-2] == pytest.approx(10, rel=0.01)


def test_a_deadline_multiplies_machines_and_what_uses_them() -> None:
    scenario = hosted()
    found = steady(scenario)
    alone = project(scenario, 10**6, found=found)
    many = project(scenario, 10**6, found=found, deadline_s=alone.seconds / 10)
    assert many.seconds == pytest.approx(alone.seconds / 10)
    assert 10 <= many.machines <= 12
    assert many.machines == many.workers == many.replicas["local"]
    assert not many.late


def test_a_group_that_is_too_small_is_late() -> None:
    scenario = hosted(agent_nodes=Nodes(most=3))
    found = steady(scenario)
    alone = project(scenario, 10**6, found=found)
    few = project(scenario, 10**6, found=found, deadline_s=alone.seconds / 10)
    assert (few.machines, few.late) == (3, True)
    assert few.seconds == pytest.approx(alone.seconds / 3, rel=0.01)


def test_no_number_of_machines_passes_a_providers_limit() -> None:
    scenario = Scenario(**asked(trace(), latency=0.2, rpm=600, concurrency=64), max_in_flight=64)
    found = steady(scenario)
    held = project(scenario, 10**6, found=found, deadline_s=3600.0)
    assert (held.bound, held.late, held.multiple) == ("600 requests/min of p", True, 1.0)
    assert held.seconds == pytest.approx(10**6 / 10, rel=0.05)


def test_what_sets_the_pace_is_named() -> None:
    free = Scenario(**asked(trace(), concurrency=1000), max_in_flight=10)
    assert scale.limit(free, steady(free))[0] == "10 debates in flight (debate.max_in_flight)"
    assert scale.limit(hosted(), steady(hosted()))[0].startswith("replicas of local, ")

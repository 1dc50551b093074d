"""The simulated debate stage, where its time can be worked out by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from magdi_ray.simulate.debate import simulate
from magdi_ray.simulate.scenario import Latency, Nodes, Overheads, Scenario
from tests.simulate.worlds import asked, hosted, trace


def test_a_round_begins_when_the_last_reply_of_the_one_before_is_there() -> None:
    slow = asked(trace(rounds=3, agents=2))
    slow["agents"] = (slow["agents"][0], replace(slow["agents"][1], latency=Latency(4.0)))
    outcome = simulate(Scenario(**slow), 1)
    assert outcome.seconds == pytest.approx(12.0)
    assert outcome.calls == 6


def test_so_many_debates_are_under_way_as_are_allowed_over_all_workers() -> None:
    scenario = Scenario(**asked(trace(), concurrency=1000), max_in_flight=10, workers=2)
    assert simulate(scenario, 128).seconds == pytest.approx(13.0)  # 64 each, five at once


def test_what_a_provider_works_on_at_once_sets_the_pace() -> None:
    scenario = Scenario(**asked(trace(), latency=0.2, provider={"capacity": 8}, concurrency=100))
    assert simulate(scenario, 400).seconds == pytest.approx(400 / 8 * 0.2)


def test_the_runs_own_limit_sets_the_pace_too() -> None:
    assert simulate(Scenario(**asked(trace(), concurrency=5)), 100).seconds == pytest.approx(20.0)


def test_requests_a_minute_are_kept_to_so_that_nothing_is_refused() -> None:
    outcome = simulate(Scenario(**asked(trace(), latency=0.1, provider={"rpm": 600}, rpm=600)), 1000)
    assert outcome.refused == 0
    assert outcome.seconds == pytest.approx(9 * 10.25, rel=0.02)  # a hundred in each window, which is a little longer than 10 s


def test_tokens_a_minute_are_kept_to() -> None:
    scenario = Scenario(**asked(trace(tokens=(900, 100)), tpm=60_000))
    assert simulate(scenario, 300).seconds == pytest.approx(300, rel=0.25)


def test_a_provider_that_refuses_what_is_too_much_is_found_out_and_slows_the_run() -> None:
    refusing = {"capacity": 8, "beyond": "refuse"}
    outcome = simulate(Scenario(**asked(trace(), latency=0.2, provider=refusing, concurrency=32)), 400)
    assert outcome.refused > 0
    assert 400 / 8 * 0.2 < outcome.seconds < 5 * 400 / 8 * 0.2


def test_calls_that_are_refused_too_often_fail_their_debate() -> None:
    outcome = simulate(Scenario(**asked(trace(), provider={"overloaded_share": 1.0})), 20)
    assert (outcome.failed, outcome.refused) == (20, 120)


def test_a_workers_event_loop_bounds_the_calls_of_a_second() -> None:
    scenario = Scenario(**asked(trace(), latency=0.01, concurrency=1000) | {"overheads": Overheads(call_s=0.01)})
    assert simulate(scenario, 1000).seconds == pytest.approx(10.0, rel=0.02)
    assert simulate(replace(scenario, workers=2), 1024).seconds == pytest.approx(5.1, rel=0.05)


def test_a_batch_is_what_waits_when_the_replica_is_free() -> None:
    # One comes first and is decoded alone, then the other three, then one each time that one has ended: 1, 3, 1, 3.
    assert simulate(hosted(max_in_flight=4), 8).seconds == pytest.approx(40.0)


def test_a_continuous_replica_takes_the_next_as_soon_as_one_row_has_ended() -> None:
    assert simulate(hosted(batching="continuous", batch=4), 12).seconds == pytest.approx(30.0)


def test_more_copies_come_after_the_delay_the_machine_and_the_weights() -> None:
    outcome = simulate(hosted(replicas=(1, 3), batch=4), 300)
    assert outcome.replicas == {"local": 3}
    assert outcome.scaled_at == pytest.approx(5.0 + 60.0 + 30.0)
    assert simulate(hosted(batch=4), 300).seconds > 1.7 * outcome.seconds


def test_copies_beyond_the_groups_size_are_not_started() -> None:
    outcome = simulate(hosted(replicas=(1, 3), agent_nodes=Nodes(most=2)), 200)
    assert (outcome.machines, outcome.replicas) == (2, {"local": 2})


def test_a_preempted_machine_costs_time_and_no_debate() -> None:
    calm = simulate(hosted(), 400)
    lossy = simulate(hosted(agent_nodes=Nodes(start_s=60.0, preemptions_per_hour=10.0)), 400)
    assert lossy.preempted > 0
    assert lossy.seconds > calm.seconds
    assert lossy.calls == calm.calls == 400


def test_a_lost_worker_asks_again_only_what_was_not_answered() -> None:
    nodes = Nodes(start_s=20.0, preemptions_per_hour=30.0)
    calm = Scenario(**asked(trace(rounds=3), latency=5.0), max_in_flight=8, workers=2)
    outcome = simulate(replace(calm, worker_nodes=nodes), 200)
    assert outcome.preempted > 0
    assert outcome.calls == 600
    assert 0 < outcome.wasted <= 8 * outcome.preempted
    assert outcome.seconds > simulate(calm, 200).seconds


def test_equal_seeds_give_equal_outcomes_and_others_do_not() -> None:
    scenario = hosted(replicas=(1, 3), agent_nodes=Nodes(60.0, preemptions_per_hour=5.0))
    scenario = replace(scenario, traces=(trace(), trace(rounds=2)))
    assert simulate(scenario, 300, seed=1) == simulate(scenario, 300, seed=1)
    assert simulate(scenario, 300, seed=1).ended != simulate(scenario, 300, seed=2).ended


def test_a_hundred_thousand_calls_are_simulated_in_seconds() -> None:
    scenario = Scenario(**asked(trace(agents=3), trace(rounds=2, agents=3), latency=0.2, concurrency=256), workers=2)
    began = time.process_time()
    assert simulate(scenario, 25_000).calls > 100_000
    assert time.process_time() - began < 15

"""Plans are repeatable, and seeds in a row leave nothing out."""

from __future__ import annotations

from tests.chaos.faults import FAULTS, cards
from tests.chaos.plan import plan_for

PATIENT = frozenset({"worker"})


def test_a_seed_always_means_the_same_blows() -> None:
    assert plan_for(7, cards()) == plan_for(7, cards())
    assert len({str(plan_for(seed, cards())) for seed in range(20)}) == 20


def test_twenty_seeds_meet_every_fault_in_every_stage_it_can_strike() -> None:
    met = {(blow.fault, blow.stage) for seed in range(20) for blow in plan_for(seed, cards())}
    assert met == set(cards())


def test_a_fault_strikes_the_debates_before_another_strikes_later() -> None:
    for seed in range(20):
        first, second = plan_for(seed, cards())
        assert first.stage == "debates"
        assert second.stage != "debates"


def test_a_fault_that_needs_something_at_work_waits_for_it() -> None:
    blows = [blow for seed in range(40) for blow in plan_for(seed, cards(), patient=PATIENT)]
    assert all(blow.share > 0 for blow in blows if blow.fault in PATIENT)
    assert any(blow.share == 0 for blow in blows)


def test_chosen_faults_are_the_only_ones() -> None:
    assert {card[0] for card in cards(["driver-killed"])} == {"driver-killed"}
    assert [fault.name for fault in FAULTS] == sorted({fault.name for fault in FAULTS}, key=[f.name for f in FAULTS].index)

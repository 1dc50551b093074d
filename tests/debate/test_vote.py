"""The vote: who wins, by how much, and that the order of the agents never matters."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magdi_ray.debate.vote import Ballot, Verdict, majority, recalibrate, tally
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
BALLOTS = st.builds(Ballot, st.sampled_from([None, "18", "18.0", "7", "5"]), st.none() | st.floats(0, 1))


@pytest.mark.parametrize(
    ("confidence", "weight"),
    [(1.0, 1.0), (0.99, 0.8), (0.9, 0.8), (0.89, 0.5), (0.8, 0.5), (0.79, 0.3), (0.61, 0.3), (0.6, 0.1), (0.0, 0.1), (None, 0.1)],
)
def test_confidence_counts_in_steps(confidence: float | None, weight: float) -> None:
    assert recalibrate(confidence) == weight


def test_one_sure_agent_outvotes_two_unsure_ones() -> None:
    verdict = tally(TASK, [Ballot("18", 1.0), Ballot("7", 0.5), Ballot("7", 0.5)])
    assert (verdict.answer, verdict.agreement) == ("18", 1 / 3)


def test_without_confidences_the_majority_wins() -> None:
    assert tally(TASK, [Ballot("7", None), Ballot("18", None), Ballot("18", None)]).answer == "18"


def test_equivalent_answers_vote_together() -> None:
    assert tally(TASK, [Ballot("18", None), Ballot("18.0", None), Ballot("7", 0.5)]).agreement == 2 / 3


def test_a_tie_in_weight_goes_to_the_larger_group() -> None:
    three_times_unsure, once = [Ballot("7", 0.1)] * 3, [Ballot("18", 0.7)]
    assert tally(TASK, once + three_times_unsure).answer == "7"


def test_a_full_tie_goes_to_the_answer_that_sorts_first() -> None:
    assert tally(TASK, [Ballot("7", 0.5), Ballot("18", 0.5)]).answer == "18"


def test_empty_ballots_lower_the_agreement_and_prevent_consensus() -> None:
    verdict = tally(TASK, [Ballot("18", 1.0), Ballot(None, 1.0)])
    assert (verdict.answer, verdict.agreement, verdict.consensus) == ("18", 0.5, False)


def test_no_answers_elect_nobody() -> None:
    for ballots in ([], [Ballot(None, 1.0)]):
        verdict = tally(TASK, ballots)
        assert (verdict.answer, verdict.agreement, verdict.consensus) == (None, 0.0, False)


def test_everyone_agreeing_is_consensus() -> None:
    assert tally(TASK, [Ballot("18", None), Ballot("18.00", 0.9)]).consensus


def test_the_majority_outvotes_one_sure_agent() -> None:
    verdict = majority(TASK, [Ballot("18", 1.0), Ballot("7", 0.1), Ballot("7", None)])
    assert (verdict.answer, verdict.agreement) == ("7", 2 / 3)


def test_a_tied_majority_goes_to_the_surer_group_then_to_what_sorts_first() -> None:
    assert majority(TASK, [Ballot("18", 0.5), Ballot("7", 0.9)]).answer == "7"
    assert majority(TASK, [Ballot("7", 0.5), Ballot("18", 0.1)]).answer == "18"
    assert majority(TASK, [Ballot(None, 1.0)]).answer is None


@pytest.mark.parametrize("rule", [tally, majority])
@settings(deadline=None)
@given(ballots=st.lists(BALLOTS, max_size=7), rng=st.randoms())
def test_the_order_of_the_ballots_never_matters(rule: Callable[..., Verdict], ballots: list[Ballot], rng: random.Random) -> None:
    shuffled = rng.sample(ballots, len(ballots))
    assert rule(TASK, ballots) == rule(TASK, shuffled)

"""Of several replies, the answer most of them give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.consistency import votes_over
from magdi_ray.tasks.gsm8k import Gsm8k


def drawn(*said: tuple[str | None, float | None]) -> list[Answer]:
    plain = Answer("q", "test", "level2", "", None, False, 10, 4, task="gsm8k", method="sample", usd=0.5)
    return [replace(plain, answer=answer, confidence=sure, sample=i + 1) for i, (answer, sure) in enumerate(said)]


def votes(*said: tuple[str | None, float | None], gold: str = "18") -> dict[str, str | None]:
    return {vote.method: vote.answer for vote in votes_over(Gsm8k(), drawn(*said), gold)}


def test_the_commonest_answer_wins_by_majority_and_the_surest_by_confidence() -> None:
    assert votes(("18", 0.1), ("18", 0.1), ("7", 0.9)) == {"majority": "18", "confidence": "7"}


def test_equal_answers_are_counted_together_however_they_are_written() -> None:
    assert votes(("7", 0.3), ("18.0", 0.2), ("18", 0.2))["majority"] == "18.0"


def test_a_tie_goes_to_the_more_confident_answer_and_then_to_the_first() -> None:
    assert votes(("7", 0.2), ("18", 0.4))["majority"] == "18"
    assert votes(("7", 0.4), ("18", 0.4)) == {"majority": "7", "confidence": "7"}


def test_a_reply_without_an_answer_has_no_say() -> None:
    assert votes((None, 0.9), (None, 0.9), ("18", 0.1)) == {"majority": "18", "confidence": "18"}
    assert votes((None, 0.9)) == {"majority": None, "confidence": None}


def test_an_unknown_confidence_counts_half() -> None:
    assert votes(("7", None), ("18", 0.6))["confidence"] == "18"
    assert votes(("7", None), ("18", 0.4))["confidence"] == "7"


def rated(*said: tuple[str | None, float | None]) -> dict[str, str | None]:
    """The votes over replies that the student rated so."""
    replies = [replace(one, confidence=0.5, merit=one.confidence) for one in drawn(*said)]
    return {vote.method: vote.answer for vote in votes_over(Gsm8k(), replies, "18", rated=True)}


def test_ratings_weigh_votes_by_their_sum_and_the_best_rated_reply_wins_alone() -> None:
    found = rated(("7", 0.3), ("7", 0.3), ("7", 0.3), ("18", 0.5), ("18", 0.5), ("5", 0.8))
    assert found == {"majority": "7", "confidence": "7", "verifier": "18", "best": "5"}


def test_a_reply_that_could_not_be_rated_weighs_nothing() -> None:
    found = rated(("7", None), ("7", None), ("18", 0.1))
    assert (found["majority"], found["verifier"], found["best"]) == ("7", "18", "18")


def test_without_ratings_there_is_no_vote_by_them() -> None:
    assert set(votes(("7", 0.3))) == {"majority", "confidence"}


def test_tokens_and_cost_are_those_of_all_replies() -> None:
    vote = votes_over(Gsm8k(), drawn(("18", 0.5), ("18", 0.5), ("7", 0.5)), "18")[0]
    assert (vote.tokens_in, vote.tokens_out, vote.usd, vote.sample, vote.correct) == (30, 12, 1.5, 3, True)


def test_only_a_question_that_got_no_reply_at_all_is_an_error() -> None:
    one, two = drawn(("18", 0.5), ("18", 0.5))
    lost = replace(two, answer=None, error="EngineError: gone")
    assert votes_over(Gsm8k(), [one, lost], "18")[0].error is None
    assert votes_over(Gsm8k(), [lost, replace(lost, sample=1)], "18")[0].error == "EngineError: gone"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_order_in_which_replies_come_does_not_matter(order: tuple[int, ...]) -> None:
    replies = drawn(("7", 0.4), ("18", 0.4), ("5", 0.1))
    assert votes_over(Gsm8k(), [replies[place] for place in order], "18")[0].answer == "7"

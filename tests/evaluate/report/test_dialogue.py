"""Round by round, and who changed whose answer: against debates counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from magdi_ray.evaluate.report.dialogue import Dialogue, Influence, Round, Rule, right
from magdi_ray.graph.schema import Edge, Mag
from tests.evaluate.report.made import TASK, debate, node


def rounds(mags: Sequence[Mag], rule: Rule = "confidence") -> list[Round]:
    dialogue = Dialogue(TASK, rule)
    for mag in mags:
        dialogue.add(mag)
    return list(dialogue.rounds())


def influence(*mags: Mag) -> dict[tuple[str, str], Influence]:
    dialogue = Dialogue(TASK, "confidence")
    for mag in mags:
        dialogue.add(mag)
    return {(row.source, row.target): row for row in dialogue.influence()}


def test_a_round_counts_agreement_consensus_votes_and_replies() -> None:
    first, second = rounds([debate("112", "111")])
    assert first == Round("train", 0, 1, pytest.approx(2 / 3), 0.0, 1.0, pytest.approx(2 / 3))
    assert second == Round("train", 1, 1, 1.0, 1.0, 1.0, 1.0)


def test_a_debate_that_stopped_early_keeps_its_last_state() -> None:
    mags = [debate("111", name="a"), debate("222", name="b"), debate("123", "223", "111", name="c")]
    assert [(row.debates, row.consensus, row.vote_accuracy) for row in rounds(mags)] == [
        (3, pytest.approx(2 / 3), pytest.approx(2 / 3)),
        (3, pytest.approx(2 / 3), pytest.approx(1 / 3)),
        (3, 1.0, pytest.approx(2 / 3)),
    ]


def test_splits_are_counted_apart() -> None:
    found = rounds([debate("112", split="test"), debate("112", "111", name="r")])
    assert [(row.split, row.round, row.debates) for row in found] == [("test", 0, 1), ("train", 0, 1), ("train", 1, 1)]


def test_the_vote_follows_the_rule_of_the_debate() -> None:
    mag = debate("122", "111")
    sure = (replace(mag.nodes[0], confidence=1.0), *(replace(n, confidence=0.3) for n in mag.nodes[1:3]), *mag.nodes[3:])
    unsure = replace(mag, nodes=sure)
    assert rounds([unsure], "confidence")[0].vote_accuracy == 1.0
    assert rounds([unsure], "majority")[0].vote_accuracy == 0.0


def test_after_the_last_round_the_teams_answer_counts_as_a_judge_gave_it() -> None:
    judged = debate("12", "12", answer="1", extra=[node("judge", 2, "1", role="judge")])
    assert [(row.round, row.vote_accuracy) for row in rounds([judged])][-1] == (1, 1.0)


def test_judges_and_critics_are_no_debaters() -> None:
    critic = node("carl", 1, "2", role="critic")
    [only] = rounds([debate("11", extra=[critic])])
    assert (only.agreement, only.reply_accuracy) == (1.0, 1.0)
    assert influence(debate("12", extra=[node("judge", 1, "1", role="judge")])) == {}


def test_one_reply_alone_has_nobody_to_agree_with() -> None:
    [only] = rounds([debate("1")])
    assert (only.debates, only.agreement, only.consensus, only.vote_accuracy) == (1, None, None, 1.0)


def test_an_unreadable_reply_agrees_with_nobody_and_is_wrong() -> None:
    [only] = rounds([debate("1-")])
    assert (only.agreement, only.consensus, only.reply_accuracy) == (0.5, 0.0, 0.5)


def test_without_gold_answers_nothing_is_right_or_wrong() -> None:
    mag = debate("12", "11", gold=None)
    assert all(row.vote_accuracy is None and row.reply_accuracy is None for row in rounds([mag]))
    assert influence(mag)["ada", "ben"] == Influence("ada", "ben", shown=1, adopted=1, to_right=None, to_wrong=None)


def test_labels_of_a_vote_are_not_taken_for_the_truth() -> None:
    mag = debate("22", gold="1")
    mag = replace(mag, labels="vote", nodes=tuple(replace(one, correct=True) for one in mag.nodes))
    assert right(TASK, mag, "2") is False
    assert rounds([mag])[0].reply_accuracy == 0.0


def test_an_answer_is_adopted_when_it_was_shown_differed_and_was_given_next() -> None:
    found = influence(debate("12", "11"))
    assert found["ada", "ben"] == Influence("ada", "ben", shown=1, adopted=1, to_right=1, to_wrong=0)
    assert found["ben", "ada"] == Influence("ben", "ada", shown=1, adopted=0, to_right=0, to_wrong=0)


def test_an_answer_that_one_holds_already_is_no_influence() -> None:
    assert influence(debate("11", "11")) == {}


def test_several_sources_of_one_answer_are_credited_in_full_each() -> None:
    found = influence(debate("221", "222"))
    assert [(found[s, "cy"].adopted, found[s, "cy"].to_wrong) for s in ("ada", "ben")] == [(1, 1), (1, 1)]


def test_a_change_to_an_answer_that_nobody_gave_is_nobodys() -> None:
    assert sum(row.adopted for row in influence(debate("12", "33")).values()) == 0


def test_an_answer_out_of_none_is_adopted_too() -> None:
    assert influence(debate("1-", "11"))["ada", "ben"] == Influence("ada", "ben", shown=1, adopted=1, to_right=1, to_wrong=0)


def test_a_critic_convinces_whom_it_criticised() -> None:
    nodes = (node("ada", 0, "2"), node("carl", 1, "1", role="critic"), node("ada", 2, "1"))
    edges = (Edge(0, 1, "peer"), Edge(0, 2, "self"), Edge(1, 2, "critique"))
    mag = replace(debate("1"), agents=("ada", "carl"), nodes=nodes, edges=edges)
    assert influence(mag) == {("carl", "ada"): Influence("carl", "ada", shown=1, adopted=1, to_right=1, to_wrong=0)}

"""Which nodes a recipe calls correct, and which debates it cannot label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from magdi_ray.config.recipes import LabelConfig
from magdi_ray.distill.labels import LeftOut, relabel, weight_of
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import faults
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import make_mag

MAG = replace(make_mag(1, ("18", "7", "7")), answer="7", agreement=2 / 3)
JUDGED = replace(make_mag(1, ("18", "7", "7", "18"), agents=("a", "b", "c", "z")), answer="18", agreement=1 / 3)
JUDGED = replace(JUDGED, nodes=(*JUDGED.nodes[:3], replace(JUDGED.nodes[3], round=1, role="judge")))


def labels(mag: Mag, source: str, **changes: Any) -> list[bool | None] | str:
    config = LabelConfig(source=source, **changes)  # type: ignore[arg-type]  # a literal by name
    found = relabel(mag, config, Gsm8k())
    return found.reason if isinstance(found, LeftOut) else [node.correct for node in found.nodes]


def unlabelled(mag: Mag) -> Mag:
    return replace(mag, labels="none", nodes=tuple(replace(node, correct=None) for node in mag.nodes))


def test_the_same_replies_are_measured_against_gold_or_vote_or_as_the_graph_says() -> None:
    assert labels(MAG, "gold") == [True, False, False]
    assert labels(MAG, "vote") == [False, True, True]
    assert labels(replace(MAG, nodes=MAG.nodes[::-1]), "graph") == [False, False, True]


def test_a_judges_answer_labels_the_debate_it_decided() -> None:
    assert labels(replace(JUDGED, question=replace(JUDGED.question, gold="7")), "judge") == [True, False, False, True]


def test_where_no_judge_was_needed_its_labels_are_what_all_agreed_on() -> None:
    assert labels(replace(MAG, stopped="consensus"), "judge") == [False, True, True]
    assert labels(MAG, "judge") == "neither a judge's answer nor a consensus to label by"


def test_the_vote_that_stood_in_for_an_unreadable_judge_is_no_judgement() -> None:
    silent = replace(JUDGED.nodes[3], answer=None, status="unparsed")
    assert labels(replace(JUDGED, nodes=(*JUDGED.nodes[:3], silent)), "judge") == labels(MAG, "judge")


@pytest.mark.parametrize(
    ("mag", "source", "reason"),
    [
        (replace(MAG, question=replace(MAG.question, gold=None)), "gold", "no gold answer to label by"),
        (replace(MAG, answer=None), "vote", "no answer of the team to label by"),
        (unlabelled(MAG), "graph", "unlabelled"),
    ],
)
def test_a_debate_without_the_named_reference_is_left_out_with_the_reason(mag: Mag, source: str, reason: str) -> None:
    assert labels(mag, source) == reason


def test_an_unlabelled_graph_can_be_labelled_by_its_vote() -> None:
    assert labels(unlabelled(MAG), "vote") == [False, True, True]


@pytest.mark.parametrize("source", ["graph", "gold", "vote"])
def test_debates_that_agreed_too_little_are_left_out(source: str) -> None:
    assert labels(MAG, source, min_agreement=0.75) == "agreement below 0.75"
    assert isinstance(labels(MAG, source, min_agreement=2 / 3), list)


def test_a_node_without_an_answer_is_never_correct() -> None:
    mute = replace(MAG.nodes[0], answer=None, status="unparsed")
    assert labels(replace(MAG, nodes=(mute, *MAG.nodes[1:])), "vote") == [False, True, True]


@pytest.mark.parametrize("source", ["gold", "vote", "judge"])
def test_a_relabelled_graph_is_sound_and_says_where_its_labels_come_from(source: Any) -> None:
    found = relabel(unlabelled(JUDGED), LabelConfig(source=source), Gsm8k())
    assert isinstance(found, Mag)
    assert found.labels == source
    assert list(faults(found)) == []
    assert (found.question.text, found.edges, found.answer) == (JUDGED.question.text, JUDGED.edges, JUDGED.answer)


def test_where_there_is_a_gold_answer_it_labels_and_else_the_vote() -> None:
    without = replace(MAG, question=replace(MAG.question, gold=None))
    assert labels(MAG, "gold_or_vote") == labels(MAG, "gold")
    assert labels(without, "gold_or_vote") == labels(MAG, "vote")
    assert labels(replace(without, answer=None), "gold_or_vote") == "neither a gold answer nor one of the team to label by"


@pytest.mark.parametrize("source", ["vote", "judge"])
def test_a_graph_labelled_by_its_own_debate_comes_back_without_its_gold_answer(source: Any) -> None:
    """Whatever is made of it afterwards cannot have learned from it."""
    published = replace(JUDGED, question=replace(JUDGED.question, solution="9 + 9 = 18"))
    for source_, mag in ((source, published), ("graph", replace(published, labels=source))):
        found = relabel(mag, LabelConfig(source=source_), Gsm8k())
        assert isinstance(found, Mag)
        assert (found.question.gold, found.question.solution) == (None, None)
    gold = relabel(published, LabelConfig(source="gold"), Gsm8k())
    assert isinstance(gold, Mag)
    assert gold.question == published.question


def weight(mag: Mag, **settings: Any) -> float:
    config = LabelConfig(**settings)
    found = relabel(mag, config, Gsm8k())
    assert isinstance(found, Mag)
    return weight_of(found, config)


def test_a_debate_counts_for_as_much_as_its_agents_agreed_where_that_is_asked_for() -> None:
    assert weight(MAG, source="vote") == 1.0
    assert weight(MAG, source="vote", weight="agreement") == weight(MAG, source="gold", weight="agreement") == 2 / 3
    without = replace(MAG, question=replace(MAG.question, gold=None))
    assert weight(MAG, source="gold_or_vote", weight="agreement") == 1.0
    assert weight(without, source="gold_or_vote", weight="agreement") == 2 / 3

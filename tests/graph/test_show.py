"""Graphs for people: a transcript and a table of numbers."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from magdi_ray.graph.schema import Edge, Mag, Node
from magdi_ray.graph.show import excerpt, render_mag
from magdi_ray.graph.stats import describe, render_stats
from magdi_ray.tasks.base import Question

RIGHT = Node("ann", 0, "debater", "m", "[INST] 9*2", "9*2", "18", 0.75, "stated", True, 10, 5, "ok")
WRONG = replace(RIGHT, agent="bob", answer="7", correct=False, confidence=None, confidence_source="none")
LOST = replace(WRONG, answer=None, status="unparsed", text="hm")
NODES = (RIGHT, LOST, replace(RIGHT, round=1), replace(WRONG, round=1))
EDGES = (Edge(0, 2, "self"), Edge(0, 3, "peer"), Edge(2, 3, "peer"))
MAG = Mag(Question("q-1", "How [many]?", "18"), "society", ("ann", "bob"), "18", 0.5, "rounds", "gold", NODES, EDGES)


def printed(what: RenderableType, *, width: int = 80, encoding: str = "utf-8") -> str:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding), width=width, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def wide(agents: int) -> Mag:
    names = tuple(f"agent-{i}" for i in range(agents))
    return replace(MAG, agents=names, nodes=tuple(replace(RIGHT, agent=name) for name in names), edges=())


@pytest.mark.parametrize("agents", [1, 2, 3, 5])
@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_transcript_fits_its_terminal(agents: int, width: int) -> None:
    text = printed(render_mag(wide(agents)), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert all(f"agent-{i}" in text for i in range(agents))


def test_a_transcript_shows_question_outcome_and_every_reply_as_written() -> None:
    text = printed(render_mag(MAG))
    for part in ("q-1", "How [many]?", "gold 18", "stopped by rounds", "[INST] 9*2", "confidence 0.75", "no answer", "50%"):
        assert part in text


def test_right_and_wrong_differ_without_colour() -> None:
    text = printed(render_mag(MAG))
    assert "✓ 18" in text
    assert "✗ 7" in text
    assert "? no answer" in text


def test_a_terminal_without_unicode_still_tells_right_from_wrong() -> None:
    text = printed(render_mag(MAG), encoding="ascii")
    assert text.isascii()
    assert "+ 18" in text
    assert "x 7" in text


def test_who_was_shown_what_is_said() -> None:
    text = " ".join(printed(render_mag(MAG), width=160).split())
    assert "shown: nothing" in text
    assert "shown: self" in text
    assert "peer ann, peer ann (same round)" in text


def criticised() -> Mag:
    critic = replace(RIGHT, agent="bob", role="critic", round=1)
    nodes = (replace(WRONG, agent="ann"), critic, replace(RIGHT, round=2))
    return replace(MAG, protocol="critique", nodes=nodes, edges=(Edge(0, 1, "peer"), Edge(0, 2, "self"), Edge(1, 2, "critique")))


def test_critics_and_their_criticism_are_named() -> None:
    for width in (40, 160):
        text = printed(render_mag(criticised()), width=width)
        assert "confidence 0.75  (critic)" in text
        assert "shown: self, critique bob" in text
        assert "(debater)" not in text


def test_several_replies_of_one_round_are_numbered() -> None:
    text = printed(render_mag(replace(MAG, agents=("ann",), nodes=(RIGHT, replace(RIGHT, answer="7", correct=False)), edges=())))
    assert "round 0, reply 1  ✓ 18" in text
    assert "round 0, reply 2  ✗ 7" in text


def test_a_long_reply_keeps_its_beginning_and_its_end() -> None:
    short = excerpt("begin " + "x" * 1000 + " end", max_chars=50)
    assert short.startswith("begin")
    assert short.endswith("end")
    assert len(short) <= 50
    assert "[...]" in short
    assert excerpt("y" * 1000, max_chars=None) == "y" * 1000


def test_an_empty_graph_can_be_shown() -> None:
    assert "How [many]?" in printed(render_mag(replace(MAG, nodes=(), edges=(), answer=None)))


def test_numbers_count_what_discussion_fixed_and_broke() -> None:
    nodes = (WRONG, replace(WRONG, agent="ann"), replace(RIGHT, round=1))
    fixed = replace(MAG, question=Question("2", "?"), nodes=nodes, edges=())
    stats = describe([MAG, fixed])
    assert (stats.graphs, stats.nodes, stats.edges) == (2, 7, {"self": 1, "peer": 2, "critique": 0})
    assert (stats.fixed, stats.broken, stats.unparsed) == (1, 0, 1)
    assert stats.nodes_per_round == (4, 3)
    assert stats.mean_rounds == 2.0
    assert stats.kinds == {"all right": 0, "mixed": 2, "all wrong": 0, "unlabelled": 0}


def test_numbers_compare_the_first_vote_with_the_last() -> None:
    turned = replace(MAG, nodes=(WRONG, replace(RIGHT, agent="bob", round=1)), edges=())
    stats = describe([turned])
    assert (stats.vote_accuracy_first, stats.vote_accuracy_final) == (0.0, 1.0)
    assert stats.correct_by_agent == {"bob": (0.0, 1.0)}
    assert describe([MAG]).consensus_first == 0.0


def test_numbers_tell_roles_apart() -> None:
    stats = describe([criticised()])
    assert stats.roles == {"debater": 2, "critic": 1, "judge": 0, "student": 0}
    assert (stats.fixed, stats.edges["critique"]) == (1, 1)
    # One reply agrees with nobody; the revision agrees with its critic.
    assert (stats.consensus_first, stats.consensus_final) == (None, 1.0)
    text = printed(render_stats(stats))
    assert "2 debater, 1 critic" in text
    assert "1 self, 1 peer, 1 critique" in text
    assert "role" not in printed(render_stats(describe([MAG])))


def test_a_judge_belongs_to_no_consensus() -> None:
    judged = replace(MAG, nodes=(RIGHT, WRONG, replace(RIGHT, agent="jo", role="judge", round=1)), edges=())
    assert describe([judged]).consensus_final == 0.0


def test_samples_of_one_round_neither_fix_nor_break_each_other() -> None:
    samples = replace(MAG, nodes=(RIGHT, replace(WRONG, agent="ann"), RIGHT), edges=())
    stats = describe([samples])
    assert (stats.fixed, stats.broken, stats.consensus_final) == (0, 0, 0.0)
    assert stats.correct_by_agent == {"ann": (2 / 3,)}


def test_unknown_tokens_are_not_zero_tokens() -> None:
    unknown = replace(MAG, nodes=tuple(replace(node, tokens_in=0, tokens_out=0) for node in NODES))
    assert describe([unknown]).tokens_out is None
    assert describe([MAG]).tokens_out == 20.0


def test_unlabelled_and_no_graphs_can_be_described() -> None:
    unlabelled = replace(MAG, labels="none", nodes=tuple(replace(node, correct=None) for node in NODES))
    assert describe([unlabelled]).kinds["unlabelled"] == 1
    assert describe([unlabelled]).vote_accuracy_final is None
    assert "graphs" in printed(render_stats(describe([])))


def test_the_table_of_numbers_fits_80_columns() -> None:
    text = printed(render_stats(describe([MAG])))
    assert max(map(len, text.splitlines())) <= 80
    assert "answers fixed / broken" in text

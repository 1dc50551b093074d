"""Debates that others published: every record is read as it stands, or skipped with its reason."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.errors import ConfigError, GraphError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import FORMATS, Import, import_debates
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
GOLD = "Step. #### 18"


def chat(*messages: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(messages)]


def quote(*texts: str) -> str:
    return "These are the solutions: " + " ".join(f"\n\n One agent solution: ```{text}```" for text in texts)


def society(tmp_path: Path, *contexts: Any, name: str = "gsm_2_2.json", gold: Any = GOLD) -> Import:
    (tmp_path / name).write_text(json.dumps({"How many eggs?": [list(contexts), gold]}))
    return import_debates("society", tmp_path / name, TASK)


def output(answer: Any, reasoning: Any = "because", confidence: Any = 0.9) -> dict[str, Any]:
    return {"reasoning": reasoning, "answer": answer, "confidence_level": confidence}


def table(tmp_path: Path, *records: Any, format: str = "magdi") -> Import:
    (tmp_path / "x.json").write_text(json.dumps(records))
    return import_debates(format, tmp_path / "x.json", TASK)


def record(**fields: Any) -> dict[str, Any]:
    return {"question": "How many eggs?", "gold_answer": "18", **fields}


def test_an_assistant_message_is_the_reply_of_its_round(tmp_path: Path) -> None:
    [debate] = society(tmp_path, chat("Q", "7", quote("18"), "It is 18"), chat("Q", "18", quote("7"), "18")).debates
    assert [(t.agent, t.round, t.answer) for t in debate.turns] == [
        ("agent-1", 0, "7"),
        ("agent-2", 0, "18"),
        ("agent-1", 1, "18"),
        ("agent-2", 1, "18"),
    ]
    assert (debate.question.gold, debate.answer, debate.agreement, debate.stopped) == ("18", "18", 1.0, "consensus")


@pytest.mark.parametrize(("gold", "solution"), [("9 * 2 = <<9*2=18>>18\n#### 18", "9 * 2 = 18"), ("18", None), (18, None)])
def test_the_gold_text_brings_its_steps_along_where_it_has_any(tmp_path: Path, gold: Any, solution: str | None) -> None:
    [debate] = society(tmp_path, chat("Q", "18"), gold=gold).debates
    assert (debate.question.gold, debate.question.solution) == ("18", solution)


def test_edges_are_the_replies_a_message_really_quotes(tmp_path: Path) -> None:
    first, second = chat("Q", "one", quote("two"), "1"), chat("Q", "two", "Think again", "2")
    [debate] = society(tmp_path, first, second, chat("Q", "six", quote("one", "two"), "3")).debates
    assert [turn.shown for turn in debate.turns[3:]] == [(0, 1), (1,), (0, 1, 2)]


def test_agents_that_spoke_in_turn_were_shown_replies_of_the_same_round(tmp_path: Path) -> None:
    contexts = chat("Q", "one", quote("two"), "new one"), chat("Q", "two", quote("new one"), "new two")
    [debate] = society(tmp_path, *contexts).debates
    assert [turn.shown for turn in debate.turns[2:]] == [(0, 1), (1, 2)]
    assert {(e.source, e.target, e.type) for e in build_mag(debate, TASK).edges} >= {(2, 3, "peer")}


def test_an_absent_reply_is_an_absent_turn(tmp_path: Path) -> None:
    [debate] = society(tmp_path, chat("Q", "18", quote("7"), "18"), chat("Q", "7")).debates
    assert [(t.agent, t.round) for t in debate.turns] == [("agent-1", 0), ("agent-2", 0), ("agent-1", 1)]
    assert (debate.answer, debate.agreement, debate.stopped) == ("18", 0.5, "rounds")


def test_an_unreadable_or_empty_reply_stays_without_an_answer(tmp_path: Path) -> None:
    [debate] = society(tmp_path, chat("Q", "no idea", quote(""), "18"), chat("Q", "", quote("no idea"), "18")).debates
    assert [(t.status, t.answer) for t in debate.turns[:2]] == [("unparsed", None)] * 2
    assert debate.turns[2].shown == (0,), "an empty quotation shows nothing"


def test_a_file_name_may_tell_the_model_and_nothing_else_does(tmp_path: Path) -> None:
    named = society(tmp_path, chat("Q", "18"), name="gsm_Qwen3-14B_persona_zen_agents1_rounds1.json")
    plain = society(tmp_path, chat("Q", "18"))
    assert [d.turns[0].model for d in named.debates + plain.debates] == ["Qwen3-14B", "unknown"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([[chat("Q", "18")], "no number"], "gold"),
        ([[chat("Q", "18")], None], "gold"),
        ([[], GOLD], "agent contexts"),
        ("text", "agent contexts"),
        ([[chat("Q")], GOLD], "no agent gave a reply"),
        ([["text"], GOLD], "chat messages"),
        ([[[{"role": "assistant", "content": None}]], GOLD], "NoneType"),
        ([[chat("Q", "\ud800 18")], GOLD], "Unicode"),
    ],
)
def test_a_record_that_cannot_be_read_is_skipped_with_its_reason(tmp_path: Path, value: Any, reason: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"Bad one?": value, "Good one?": [[chat("Q", "18")], GOLD]}))
    held = import_debates("society", tmp_path / "x.json", TASK)
    assert [d.question.text for d in held.debates] == ["Good one?"]
    assert held.skipped[0].record == "0: Bad one?"
    assert reason in held.skipped[0].reason


def test_a_question_that_is_repeated_is_counted_not_overwritten(tmp_path: Path) -> None:
    one, two = (json.dumps([[chat("Q", answer)], GOLD]) for answer in ("18", "7"))
    (tmp_path / "x.json").write_text(f'{{"Q?": {one}, "Q?": {two}}}')
    held = import_debates("society", tmp_path / "x.json", TASK)
    assert held.debates[0].answer == "18"
    assert "earlier" in held.skipped[0].reason


def test_a_round_table_shows_everyone_all_of_the_previous_round(tmp_path: Path) -> None:
    first = {f"{agent}_output_0": output(a) for agent, a in (("claude", "18"), ("gpt4", "7"), ("bard", "18"))}
    second = {f"{agent}_output_1": output("18") for agent in ("claude", "gpt4", "bard")}
    [debate] = table(tmp_path, record(**first, **second)).debates
    assert debate.agents == ("claude", "gpt4", "bard")
    assert debate.stopped == "consensus"
    assert [turn.shown for turn in debate.turns] == [()] * 3 + [(0, 1, 2)] * 3
    assert debate.turns[1].text == "because\nThe answer is 7."
    assert debate.turns[1].confidence == 0.9


def test_a_missing_output_is_a_missing_node_and_borrows_nothing(tmp_path: Path) -> None:
    [debate] = table(tmp_path, record(claude_output_0=output("7"), bard_output_0=None, claude_output_2=output("18"))).debates
    assert [(t.agent, t.round, t.answer, t.shown) for t in debate.turns] == [("claude", 0, "7", ()), ("claude", 2, "18", ())]
    assert debate.agreement == 1 / 3


def test_a_placeholder_for_a_failed_reply_is_no_answer(tmp_path: Path) -> None:
    [debate] = table(tmp_path, record(claude_output_0=output("0", "", 0.0), bard_output_0=output("0", "", 0.7))).debates
    assert [(t.answer, t.status) for t in debate.turns] == [(None, "unparsed"), ("0", "ok")]


@pytest.mark.parametrize(("stated", "read"), [("1.0", 1.0), ("80%", 0.8), (0.0, None), ("high", None), (7, None), (None, None)])
def test_confidences_come_as_numbers_or_texts(tmp_path: Path, stated: Any, read: float | None) -> None:
    [debate] = table(tmp_path, record(claude_output_0=output("18", confidence=stated))).debates
    assert debate.turns[0].confidence == read


def test_reconcile_names_its_second_agent_otherwise(tmp_path: Path) -> None:
    [debate] = table(tmp_path, record(gpt3_output_0=output(18, ["a.", "b."])), format="reconcile").debates
    assert (debate.turns[0].agent, debate.turns[0].answer, debate.turns[0].text) == ("gpt3", "18", "a. b.\nThe answer is 18.")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"gold_answer": "18", "claude_output_0": output("18")}, "no question"),
        (record(claude_output_0="text"), "must be an object"),
        (record(), "no output of"),
        ("text", "must be an object"),
        (record(gold_answer=None, claude_output_0=output("18")), "gold"),
    ],
)
def test_a_bad_round_table_is_skipped_with_its_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    held = table(tmp_path, bad)
    assert held.debates == ()
    assert reason in held.skipped[0].reason


def test_a_file_in_no_format_is_refused_and_a_pickle_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, complaint in ((b"{oops", "JSON is required"), (b"3", "is required"), (pickle.dumps([1]), "pickle")):
        path.write_bytes(content)
        for name in FORMATS.keys() - {"ford"}:  # a folder (test_formats_ford.py)
            with pytest.raises(GraphError, match=complaint):
                import_debates(name, path, TASK)
    with pytest.raises(ConfigError, match="society, reconcile, magdi"):
        import_debates("csv", path, TASK)
    with pytest.raises(GraphError, match="nothing at"):
        import_debates("magdi", tmp_path / "none", TASK)


def published(path: Path) -> list[Mag]:
    held = import_debates("society", path, TASK)
    assert held.skipped == ()
    return [build_mag(debate, TASK) for debate in held.debates]


def test_the_published_gpt35_debates_are_all_read(data_dir: Path) -> None:
    mags = published(data_dir / "debates" / "du_gsm" / "gsm_3_2_100.json")
    right = Counter(node.round for mag in mags for node in mag.nodes if node.correct)
    edges = Counter((e.type, mag.nodes[e.target].round - mag.nodes[e.source].round) for mag in mags for e in mag.edges)
    assert (len(mags), sum(len(mag.nodes) for mag in mags)) == (100, 600)
    # Two final replies whose box holds a range ("160 to 230") are right by their last number alone; here they give no answer.
    assert right == {0: 224, 1: 236}
    assert edges == {("self", 1): 300, ("peer", 1): 302, ("peer", 0): 298}


@pytest.mark.parametrize(("model", "agents", "nodes"), [("Llama-3.2-3B", 3, 180), ("Qwen3-14B", 5, 300)])
def test_the_published_three_round_debates_show_all_peers(data_dir: Path, model: str, agents: int, nodes: int) -> None:
    [path] = (data_dir / "debates" / "slm_gsm").glob(f"*{model}*")
    mags = published(path)
    assert sum(len(mag.nodes) for mag in mags) == nodes
    assert {n.model for mag in mags for n in mag.nodes} == {model}
    assert all(mag.nodes[e.target].round == mag.nodes[e.source].round + 1 for mag in mags for e in mag.edges)
    assert all(len(mag.edges) == 2 * agents * agents for mag in mags)

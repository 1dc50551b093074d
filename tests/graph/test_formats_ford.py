"""FORD's debates: turns in the order they were taken, each shown what was said before, answers as far as anybody gave one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.errors import GraphError
from magdi_ray.graph.formats import Import, import_debates
from magdi_ray.tasks.base import Task
from magdi_ray.tasks.commonsenseqa import CommonsenseQa
from magdi_ray.tasks.ecare import ECare
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.strategyqa import StrategyQa

SYSTEM = [{"role": "system", "content": "You are in a debate."}, {"role": "user", "content": "Question: ..."}]
CHOICES = "(A) They eat. (B) They live."


def message(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def line(
    *said: tuple[str, str, str | None], question: str = "Would it?", gold: str = "no", options: str = "None"
) -> dict[str, Any]:
    """Replies as (author, text, parsed answer)."""
    return {
        **{"Q": question, "A": gold, "O": options, "R": [*SYSTEM, *(message(text) for _, text, _ in said)]},
        **{"P": ["None", "None", *(parsed for *_, parsed in said)], "M": ["system", "system", *(name for name, *_ in said)]},
    }


def ford(path: Path, files: dict[str, list[Any]], task: Task | None = None) -> Import:
    for name, rows in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return import_debates("ford", path, task or StrategyQa())


FIRST = (("chatgpt", "It sinks.", "yes"), ("davinci", "It floats.", "no"))


def test_lines_that_continue_each_other_are_one_debate_in_which_everyone_saw_what_was_said(tmp_path: Path) -> None:
    third, fourth = ("chatgpt", "Still, it sinks.", "yes"), ("davinci", "Indeed.", "yes")
    files = {
        "round0/strategyqa_candidate.jsonl": [line(*FIRST)],
        "round1_chatgpt/strategyqa_candidate.jsonl": [line(*FIRST, third)],
        "round2_davinci/strategyqa_agreed.jsonl": [line(*FIRST, third, fourth)],
    }
    [debate] = ford(tmp_path, files).debates
    assert [(t.agent, t.round, t.answer, t.shown) for t in debate.turns] == [
        ("chatgpt", 0, "yes", ()),
        ("davinci", 0, "no", ()),
        ("chatgpt", 1, "yes", (0, 1)),
        ("davinci", 2, "yes", (0, 1, 2)),
    ]
    assert (debate.answer, debate.agreement, debate.stopped, debate.question.gold) == ("yes", 1.0, "consensus", "no")


def test_a_debate_that_ends_undecided_keeps_each_models_last_answer(tmp_path: Path) -> None:
    [debate] = ford(tmp_path, {"round1_chatgpt/strategyqa_candidate.jsonl": [line(*FIRST, ("chatgpt", "No.", "yes"))]}).debates
    assert [turn.answer for turn in debate.turns] == ["yes", "no", "no"], "what the text states comes before what was parsed"
    assert (debate.answer, debate.agreement) == ("no", 1.0)


@pytest.mark.parametrize("parsed", [None, "None", "none", "", "maybe", "C"])
def test_what_was_not_parsed_is_no_answer(tmp_path: Path, parsed: str | None) -> None:
    said = (("chatgpt", "It depends.", parsed), ("davinci", "", "no"))
    [debate] = ford(tmp_path, {"round0/strategyqa_candidate.jsonl": [line(*said)]}).debates
    assert [(t.answer, t.status) for t in debate.turns] == [(None, "unparsed"), ("no", "ok")]


def test_a_question_that_occurs_twice_is_counted_and_its_debates_are_not_mixed(tmp_path: Path) -> None:
    other = (("chatgpt", "Never.", "no"), ("davinci", "Always.", "yes"))
    files = {
        "round0/strategyqa_candidate.jsonl": [line(*FIRST), line(*other)],
        "round1_chatgpt/strategyqa_agreed.jsonl": [line(*other, ("chatgpt", "Fine.", "yes"))],
    }
    held = ford(tmp_path, files)
    assert [turn.text for turn in held.debates[0].turns] == ["It sinks.", "It floats."]
    assert [skip.reason for skip in held.skipped] == ["the question occurs earlier in the file"]


def test_three_models_speak_in_turn_and_the_third_is_named_as_later_rounds_name_it(tmp_path: Path) -> None:
    row = line(("chatgpt", "", "A"), ("davinci", "", "B"), ("gpt4", "", None), ("chatgpt", "", "B"), gold="(B)", options=CHOICES)
    first = [message("one"), message("four")], [message("two")], [message("three")]
    held = ford(tmp_path, {"round1_chatgpt/ecare_candidate.jsonl": [{**row, "R": [*SYSTEM, *first]}]}, ECare())
    [debate] = held.debates
    assert debate.agents == ("chatgpt", "davinci", "chatgpt0301")
    assert [(t.text, t.round, t.answer) for t in debate.turns] == [
        ("one", 0, "A"),
        ("two", 0, "B"),
        ("three", 0, None),
        ("four", 1, "B"),
    ]
    assert debate.turns[3].shown == (0, 1, 2)


def test_gpt4_keeps_its_name_in_a_setting_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "debate_chatgpt_gpt4").mkdir()
    said = (("chatgpt", "a", "no"), ("gpt4", "b", "no"))
    [debate] = ford(tmp_path / "debate_chatgpt_gpt4", {"round0/strategyqa_agreed.jsonl": [line(*said)]}).debates
    assert debate.agents == ("chatgpt", "gpt4")


def test_an_answer_that_only_an_earlier_file_parsed_is_kept(tmp_path: Path) -> None:
    again = (("chatgpt", "It sinks.", None), FIRST[1])
    files = {
        "round0/strategyqa_candidate.jsonl": [line(*FIRST)],
        "round1_chatgpt/strategyqa_agreed.jsonl": [line(*again, ("chatgpt", "I see.", "no"))],
    }
    [debate] = ford(tmp_path, files).debates
    assert [turn.answer for turn in debate.turns] == ["yes", "no", "no"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{oops", "an object"),
        ([1], "an object"),
        ({**line(*FIRST), "Q": None}, "Q and A"),
        ({**line(*FIRST), "R": [*SYSTEM, message("one")]}, "R must hold the 2 replies"),
        ({**line(*FIRST), "R": [*SYSTEM, message("one"), {"content": None}]}, "davinci must be a message"),
        ({**line(*FIRST), "P": ["None"] * 3}, "M and P"),
        (line(*FIRST, FIRST[0]), "M and P"),
        (line(), "M and P"),
        (line(*FIRST, gold="maybe"), "gold"),
    ],
)
def test_a_line_that_cannot_be_read_is_counted_with_its_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    held = ford(tmp_path, {"round0/strategyqa_agreed.jsonl": [line(*FIRST, question="Good?"), bad]})
    assert [debate.question.text for debate in held.debates] == ["Good?"]
    [skip] = held.skipped
    assert reason in skip.reason


def test_a_place_without_the_tasks_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="nothing at"):
        import_debates("ford", tmp_path / "none", StrategyQa())
    with pytest.raises(GraphError, match=r"csqa_\*.jsonl is required"):
        ford(tmp_path, {"round0/strategyqa_agreed.jsonl": [line(*FIRST)]}, CommonsenseQa())
    with pytest.raises(GraphError, match="JSON is required"):
        ford(tmp_path, {"round0/csqa_agreed.jsonl": ["{oops"]}, CommonsenseQa())
    with pytest.raises(GraphError, match="found task 'gsm8k'"):
        import_debates("ford", tmp_path, Gsm8k())

"""Panels of different models (LLM-Agora, i2i), of one model (EoT), and one model before and after an explanation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import Import, import_debates
from magdi_ray.tasks.base import Task
from magdi_ray.tasks.commonsenseqa import CommonsenseQa
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.strategyqa import StrategyQa

NUMBERS, LETTERS = Gsm8k(), CommonsenseQa()


def held(path: Path, format: str, content: Any, task: Task = NUMBERS, name: str = "x.json") -> Import:
    (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return import_debates(format, path / name, task)


def agora(**replies: Any) -> dict[str, Any]:
    return {
        "question_id": 0,
        "question": "How many eggs?",
        "agent_response": replies,
        "summarization": ["s"],
        "answer": "#### 18",
    }


def sample(pre: Any, post: Any, **fields: Any) -> dict[str, Any]:
    question = {"question": "What gesture?", "options": ["friends", "hand shake", "smile"], "answer": "3", **fields}
    return {"train_sample": question, "prediction_pre": pre, "prediction_post": post}


def prediction(answer: Any, **fields: Any) -> dict[str, Any]:
    return {"answer_reasoning": "Because.", "answer": answer, "confidence_level": "0.9", **fields}


def test_a_summary_shows_everyone_all_of_the_previous_round(tmp_path: Path) -> None:
    [debate] = held(tmp_path, "llm_agora", [agora(llama=["7", "18"], orca=["", "18"])]).debates
    assert [(t.agent, t.round, t.answer, t.shown) for t in debate.turns] == [
        ("llama", 0, "7", ()),
        ("orca", 0, None, ()),
        ("llama", 1, "18", (0, 1)),
        ("orca", 1, "18", (0, 1)),
    ]
    assert (debate.turns[1].text, debate.turns[1].status, debate.stopped) == ("", "unparsed", "consensus")


def test_a_prompt_that_a_model_wrote_itself_gives_it_no_answer(tmp_path: Path) -> None:
    [debate] = held(tmp_path, "llm_agora", [agora(llama=["18\nUSER: Agent 2 says 7"], orca=["USER: Agent 1 says 18"])]).debates
    assert [(t.answer, "USER" in t.text) for t in debate.turns] == [("18", True), (None, True)]


def test_final_replies_are_one_round_without_edges(tmp_path: Path) -> None:
    row = {
        "question": "Where?\nAnswer Choices: (A) bank (B) mall",
        "answer": "B",
        "response_list": ["So the answer is (B).", "bank", ""],
    }
    [debate] = held(tmp_path, "eot", json.dumps(row) + "\n\n", LETTERS, "Sample_CSQA_EoT_gpt-3.5.jsonl").debates
    assert debate.question.text == "Where?\n(A) bank\n(B) mall"
    assert [(t.agent, t.answer, t.model) for t in debate.turns] == [
        ("agent-1", "B", "gpt-3.5"),
        ("agent-2", "A", "gpt-3.5"),
        ("agent-3", None, "gpt-3.5"),
    ]
    assert build_mag(debate, LETTERS).edges == ()


def test_a_reply_that_breaks_off_gives_no_answer(tmp_path: Path) -> None:
    cut = "At 2 GB per minute the 200 GB of it take \\(200/2 = 100\\) minutes and 40% take \\(80/2 = "
    record = {
        "question": "How many eggs?",
        "ground_truth": "18",
        "consensus_answers": {"a": cut, "b": "9 * 2 = 18 eggs", "c": "**18**", "d": "So **18"},
    }
    [debate] = held(tmp_path, "i2i", {"results": [record]}).debates
    assert debate.agents == ("a", "b", "c", "d")
    assert [turn.answer for turn in debate.turns] == [None, "18", "18", None]
    assert {(turn.round, turn.shown) for turn in debate.turns} == {(0, ())}
    assert debate.turns[0].text == cut


def test_an_explanation_lies_between_two_replies_of_one_model(tmp_path: Path) -> None:
    record = sample(prediction("2", confidence_level=0.8), prediction("smile"))
    [debate] = held(tmp_path, "convincing", [record], LETTERS, "bard.json").debates
    assert debate.question.text == "What gesture?\n(A) friends\n(B) hand shake\n(C) smile"
    assert [(t.agent, t.round, t.answer, t.confidence, t.shown) for t in debate.turns] == [
        ("bard", 0, "B", 0.8, ()),
        ("bard", 1, "C", 0.9, (0,)),
    ]
    assert [edge.type for edge in build_mag(debate, LETTERS).edges] == ["self"]
    assert debate.turns[1].text == "Because.\nThe answer is (C)."


def test_the_explanation_of_a_convincing_sample_is_the_solution_of_its_question(tmp_path: Path) -> None:
    record = sample(prediction("2"), prediction("smile"))
    record["train_sample"]["gold_explanation"] = "One meets with a smile. "
    [debate] = held(tmp_path, "convincing", [record], LETTERS, "bard.json").debates
    assert debate.question.solution == "One meets with a smile."


def test_a_convincing_sample_without_options_is_read_by_its_task(tmp_path: Path) -> None:
    pre = {"question_explanations": ["One.", "Two."], "answer": "no", "confidence_level": "1.0"}
    [debate] = held(tmp_path, "convincing", [sample(pre, prediction("9"), options=[], answer="no")], StrategyQa()).debates
    assert [(t.answer, t.text) for t in debate.turns] == [("no", "One. Two.\nThe answer is no."), (None, "Because.")]


@pytest.mark.parametrize(
    ("format", "bad", "reason"),
    [
        ("llm_agora", "text", "agent_response"),
        ("llm_agora", agora(llama="text"), "list of texts"),
        ("llm_agora", agora(llama=[], orca=[]), "no agent gave a reply"),
        ("llm_agora", agora(), "no agent gave a reply"),
        ("llm_agora", {**agora(llama=["18"]), "answer": None}, "gold"),
        ("i2i", {"question": "How many?", "consensus_answers": {}}, "consensus_answers"),
        ("i2i", {"question": "How many?", "ground_truth": "1", "consensus_answers": {"a": None}}, "must be a text"),
        ("eot", {"question": "How many?", "answer": "1", "response_list": []}, "response_list"),
        ("eot", {"question": " ", "answer": "1", "response_list": ["1"]}, "no question text"),
        ("convincing", "text", "train_sample"),
        ("convincing", sample(None, None, options=[], answer="18"), "prediction_pre must be an object"),
        ("convincing", sample(None, None, options="ab"), "list of texts"),
        ("convincing", sample(prediction("1"), prediction("1"), answer="no number", options=[]), "gold"),
    ],
)
def test_a_bad_record_is_skipped_with_its_reason(tmp_path: Path, format: str, bad: Any, reason: str) -> None:
    content = {"i2i": {"results": [bad]}, "eot": json.dumps(bad) + "\n"}.get(format, [bad])
    found = held(tmp_path, format, content)
    assert found.debates == ()
    assert reason in found.skipped[0].reason


def test_a_malformed_line_is_counted_beside_the_good_ones(tmp_path: Path) -> None:
    good = {"question": "How many?", "answer": "1", "response_list": ["1"]}
    found = held(tmp_path, "eot", f"{json.dumps(good)}\n{{oops\n")
    assert [len(found.debates), [skip.reason for skip in found.skipped]] == [1, ["a line must be a JSON object"]]

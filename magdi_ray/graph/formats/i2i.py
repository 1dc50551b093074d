r"""i2i (github.com/pastanton/i2i, MIT): a panel of five models of 2026 that answer once, each alone.

`benchmarks/results/GSM8K_v2_<time>.json` is one object, `results` an array of

    {"task_id": "gsm001", "question": "Janet's ducks lay 16 eggs per day. ...", "ground_truth": "18",
     "consensus_answers": {"openai/gpt-5.2": "- Eggs used daily: ... **She makes \\$18 per day.**",
                           "anthropic/claude-sonnet-4.5": "...", "google/gemini-3-flash-preview": "...", ...},
     "consensus_answer": "18", "consensus_level": "HIGH", "consensus_correct": true, "error": null, ...}

One round, no edges. Agents are named after their models. Many replies break off in mid-sentence ("which takes 80/2 = "): whatever
number stands last there is a step on the way, so a reply that visibly breaks off gives no answer. The publisher's own reading
of the panel (`consensus_*`) and the reply of a single model (`single_model_answer`) are not used.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Ask, Debate, Turn
from magdi_ray.errors import GraphError
from magdi_ray.graph.formats.base import (
    Import,
    RecordError,
    ended_debate,
    imported_question,
    question_of,
    read_json,
    read_records,
    read_reply,
)
from magdi_ray.tasks.base import Question, Task

FEW_WORDS = 12
"""A reply this short may be "5 + 7 + 6 = 18 km" and end in any word."""
_ENDED = re.compile(r"[^\s:*$=+/×÷-][.!?)\]}$%*\"']*(?<=[0-9.!?)\]}$%*\"'])\Z")


def read(path: Path, task: Task) -> Import:
    """Every question of the file.

    Raises:
        GraphError: the file is missing, no JSON, or holds no `results`.
    """
    held = read_json(path)
    records = held.get("results") if isinstance(held, dict) else None
    if not isinstance(records, list):
        raise GraphError(f'{path}: a JSON object with an array under "results" is required, found {type(held).__name__} without.')
    return read_records([(question_of(record), record) for record in records], partial(_debate, task))


def _debate(task: Task, text: str, record: Any) -> Debate:
    replies = record.get("consensus_answers") if isinstance(record, dict) else None
    if not isinstance(replies, dict) or not replies:
        raise RecordError('a record must be an object with replies under "consensus_answers"')
    if not all(isinstance(reply, str) for reply in replies.values()):
        raise RecordError("a reply must be a text")
    question = imported_question(task, text, record.get("ground_truth"))
    turns = [_turn(task, question, model, reply) for model, reply in replies.items()]
    return ended_debate(task, question, tuple(replies), turns, protocol="i2i")


def _turn(task: Task, question: Question, model: str, text: str) -> Turn:
    turn = read_reply(task, question, Ask(model, 0, ()), text, model)
    return replace(turn, answer=None, status="unparsed") if _breaks_off(text) else turn


def _breaks_off(text: str) -> bool:
    """Whether a text ends within a formula or bold letters or, being of more than a few words, within a sentence."""
    opened = text.count(r"\(") > text.count(r"\)") or text.count(r"\[") > text.count(r"\]") or text.count("**") % 2 == 1
    return opened or (len(text.split()) > FEW_WORDS and not _ENDED.search(text))

r"""ReConcile's convincing samples (github.com/dinobby/ReConcile, MIT): one model before and after a human explanation.

`convincing/<dataset>/<model>.json` is an array; the model is the file's name. SQA is StrategyQA, ECQA is CommonsenseQA, whose
options and answers are numbered from 1 there:

    {"train_sample": {"index": 2151, "question": "When meeting people, what kind of gesture do you usually give?",
                      "options": ["making new friends", "stress", "hand shake", "smile", "being bored"], "answer": "4",
                      "gold_explanation": "When one meets new people, they usually give smile as a gesture. ..."},
     "prediction_pre": {"question_understanding": "...", "answer_reasoning": "The most common gesture ... a handshake. ...",
                        "answer": "3", "confidence_level": "0.9", "confidence_explanations": "..."},
     "prediction_post": {"answer_reasoning": "...", "answer": "4", "confidence_level": 0.9, ...}}

A debate is the model's reply of round 0 and the one of round 1, which was shown the first. The human explanation it was also
shown is nobody's reply and no turn, but the question's solution. The reasoning stands under `question_explanations` in SQA, and
may be a list of sentences; the turn's text is put together as for ReConcile's own outputs (`round_table`). An answer that is an
option's text is read as that option.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Debate
from magdi_ray.graph.formats.base import (
    Import,
    RecordError,
    ended_debate,
    imported_question,
    question_of,
    read_array,
    read_records,
)
from magdi_ray.graph.formats.round_table import read_output
from magdi_ray.tasks.base import Task
from magdi_ray.tasks.choices import lettered


def read(path: Path, task: Task) -> Import:
    """Every sample of the file.

    Raises:
        GraphError: the file is missing, no JSON, or no array.
    """
    records = read_array(path)
    named = [(question_of(record.get("train_sample")) if isinstance(record, dict) else "", record) for record in records]
    return read_records(named, partial(_debate, task, path.stem))


def _debate(task: Task, agent: str, text: str, record: Any) -> Debate:
    sample = record.get("train_sample") if isinstance(record, dict) else None
    if not isinstance(sample, dict):
        raise RecordError('a record must be an object with a question under "train_sample"')
    options = sample.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise RecordError('"options" must be a list of texts')
    question = imported_question(
        task,
        lettered(text, options) if options else text,
        _answer(sample.get("answer"), options),
        solution=sample.get("gold_explanation"),
    )
    turns = []
    for round_, key in enumerate(("prediction_pre", "prediction_post")):
        output = _output(record.get(key), key, options)
        turns.append(read_output(task, question, output, agent=agent, round_=round_, shown=tuple(range(round_))))
    return ended_debate(task, question, (agent,), turns, protocol="convincing")


def _output(prediction: Any, key: str, options: list[str]) -> Mapping[str, Any]:
    if not isinstance(prediction, dict):
        raise RecordError(f"{key} must be an object, found {type(prediction).__name__}")
    return {
        "reasoning": prediction.get("answer_reasoning") or prediction.get("question_explanations"),
        "answer": _answer(prediction.get("answer"), options),
        "confidence_level": prediction.get("confidence_level"),
    }


def _answer(written: object, options: list[str]) -> str:
    """An answer as the task writes it: the number of an option as its letter, anything else as it stands."""
    text = str(written).strip()
    if options and text.isdecimal() and 1 <= int(text) <= len(options):
        return f"({chr(ord('A') + int(text) - 1)})"
    return text

"""The record that ReConcile's run and MAGDi's training data share: one flat object, a key per agent and round.

An output `<agent>_output_<round>` is what was parsed from a reply: `{"reasoning": ..., "answer": ..., "confidence_level": ...}`;
the reply itself is not kept. The turn's text is therefore put together: the reasoning, then the answer in the task's sentence.

From round 1 on every agent was shown all outputs of the previous round, its own among them, grouped by answer.

The writers fill what they could not parse: a failed reply becomes an empty reasoning, a drawn or "0" answer and confidence 0.0.
Such an output is read as a reply without an answer ("unparsed"), because that answer was nobody's. A drawn answer beside a
reasoning that is not empty cannot be told from a real one. A confidence of 0.0 is what is written where none was given, so it
is read as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.graph.formats.base import (
    TOKENS_UNKNOWN,
    Import,
    RecordError,
    ended_debate,
    imported_question,
    question_of,
    read_array,
    read_records,
)
from magdi_ray.tasks.base import Question, Task


def read_round_table(path: Path, task: Task, *, agents: tuple[str, ...]) -> Import:
    """Every debate of a JSON array of such records; `agents` in the order in which they were quoted to each other.

    Raises:
        GraphError: the file is missing, no JSON, or no array.
    """
    records = read_array(path)
    return read_records([(question_of(record), record) for record in records], partial(_debate, task, agents))


def _debate(task: Task, agents: tuple[str, ...], text: str, record: Any) -> Debate:
    if not isinstance(record, dict):
        raise RecordError(f"a record must be an object, found {type(record).__name__}")
    question = imported_question(task, text, record.get("gold_answer"))
    turns: list[Turn] = []
    for round_ in _rounds(record, agents):
        shown = tuple(i for i, turn in enumerate(turns) if turn.round == round_ - 1)
        for agent in agents:
            if output := record.get(f"{agent}_output_{round_}"):
                turns.append(read_output(task, question, output, agent=agent, round_=round_, shown=shown))
    if not turns:
        raise RecordError(f"no output of {', '.join(agents)} in it")
    return ended_debate(task, question, agents, turns, protocol="reconcile")


def _rounds(record: Mapping[str, Any], agents: tuple[str, ...]) -> list[int]:
    key = re.compile(rf"(?:{'|'.join(agents)})_output_([0-9]+)")
    return sorted({int(match[1]) for name in record if (match := key.fullmatch(name))})


def read_output(task: Task, question: Question, output: Any, *, agent: str, round_: int, shown: tuple[int, ...]) -> Turn:
    """The turn of one output.

    Raises:
        RecordError: it is no object.
    """
    if not isinstance(output, dict):
        raise RecordError(f"{agent}_output_{round_} must be an object, found {type(output).__name__}")
    held = output.get("reasoning") or ""
    reasoning = " ".join(map(str, held)) if isinstance(held, list) else str(held)
    confidence = _confidence(output.get("confidence_level"))
    filled = not reasoning.strip() and confidence is None
    answer = None if filled else task.extract(question, str(output.get("answer", "")))
    return Turn(
        agent=agent,
        round=round_,
        shown=shown,
        text=reasoning if answer is None else f"{reasoning}\n{task.state(answer)}".strip(),
        answer=answer,
        confidence=confidence,
        confidence_source="none" if confidence is None else "stated",
        tokens_in=TOKENS_UNKNOWN,
        tokens_out=TOKENS_UNKNOWN,
        model=agent,
        status="unparsed" if answer is None else "ok",
    )


def _confidence(stated: object) -> float | None:
    text = str(stated).strip()
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        return None
    return value if 0.0 < value <= 1.0 else None

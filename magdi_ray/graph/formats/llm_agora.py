r"""LLM-Agora (github.com/gauss5930/LLM-Agora): three open models of 2023 over three rounds, shown a summary of each other.

`GSM8K/gsm_result.json` and `Math/math_result.json` (integer arithmetic, which the GSM8K task's rules judge) are arrays of

    {"question_id": 0, "question": "Amber, Micah, and Ahito ran 52 miles in total. ...",
     "agent_response": {"llama": ["\nAmber ran 8 miles. ...", "<round 1>", "<round 2>"], "wizardlm": [...], "orca": [...]},
     "summarization": ["Here is a summary of responses from other agents: Agent 1 focuses on ...", "..."],
     "answer": "Amber ran 8 miles. ... #### 16"}

Between two rounds a further model summed up all replies, and every agent was shown that summary: so each reply of round r-1, an
agent's own among them, is shown to all of round r. The summary was nobody's answer and is no turn; it is not kept.

An empty reply is a reply without an answer. Base models often go on after their answer and write a next prompt themselves, which
begins "USER:" and quotes the others: the turn's text keeps it, the answer is read from what stands before it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Ask, Debate, Turn
from magdi_ray.graph.formats.base import (
    Import,
    RecordError,
    ended_debate,
    imported_question,
    question_of,
    read_array,
    read_records,
    read_reply,
)
from magdi_ray.tasks.base import Question, Task

_NEXT_PROMPT = re.compile(r"\bUSER:")


def read(path: Path, task: Task) -> Import:
    """Every debate of the file.

    Raises:
        GraphError: the file is missing, no JSON, or no array.
    """
    records = read_array(path)
    return read_records([(question_of(record), record) for record in records], partial(_debate, task))


def _debate(task: Task, text: str, record: Any) -> Debate:
    if not isinstance(record, dict) or not isinstance(record.get("agent_response"), dict):
        raise RecordError('a record must be an object with replies under "agent_response"')
    question = imported_question(task, text, record.get("answer"))
    replies: dict[str, list[str]] = record["agent_response"]
    for agent, texts in replies.items():
        if not isinstance(texts, list) or not all(isinstance(reply, str) for reply in texts):
            raise RecordError(f"the replies of {agent} must be a list of texts")
    turns: list[Turn] = []
    for round_ in range(max(map(len, replies.values()), default=0)):
        shown = tuple(i for i, turn in enumerate(turns) if turn.round == round_ - 1)
        for agent, texts in replies.items():
            if round_ < len(texts):
                turns.append(_turn(task, question, Ask(agent, round_, (), shown), texts[round_]))
    if not turns:
        raise RecordError("no agent gave a reply")
    return ended_debate(task, question, tuple(replies), turns, protocol="llm_agora")


def _turn(task: Task, question: Question, ask: Ask, text: str) -> Turn:
    own = _NEXT_PROMPT.split(text, maxsplit=1)[0]
    return replace(read_reply(task, question, ask, own, ask.agent), text=text)

r"""Exchange-of-Thought (Yin et al. 2023, github.com/yinzhangyue/EoT, Apache-2.0): the final replies of three copies of one model.

`samples/Sample_<dataset>_EoT_<model>.jsonl`, one object a line; options stand in the question's text:

    {"question": "What do people aim to do at work?\nAnswer Choices: (A) complete job (B) learn from each other ...",
     "answer": "A", "response_list": ["The answer should be ... So the answer is (A).", "...", "..."]}

Only final replies are published: no rounds, no prompts, nothing of who was shown what. A debate is one round of "agent-1" to
"agent-3" without an edge. The model is what the file name says behind "_EoT_", else "unknown". Options are written as the
CommonsenseQA task writes them, a line each, so that its questions are known again here.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Ask, Debate
from magdi_ray.graph.formats.base import (
    Import,
    RecordError,
    ended_debate,
    imported_question,
    question_of,
    read_lines,
    read_records,
    read_reply,
)
from magdi_ray.tasks.base import Task
from magdi_ray.tasks.choices import lettered, options_of

_MODEL_IN_NAME = re.compile(r"_EoT_(?P<model>.+)$")
_CHOICES = "\nAnswer Choices:"


def read(path: Path, task: Task) -> Import:
    """Every question of the file.

    Raises:
        GraphError: the file is missing, or no line of it is a JSON object.
    """
    named = _MODEL_IN_NAME.search(path.stem)
    records = [(question_of(record), record) for _, record in read_lines(path)]
    return read_records(records, partial(_debate, task, named["model"] if named else "unknown"))


def _debate(task: Task, model: str, text: str, record: Any) -> Debate:
    if not isinstance(record, dict):
        raise RecordError("a line must be a JSON object")
    replies = record.get("response_list")
    if not isinstance(replies, list) or not replies or not all(isinstance(reply, str) for reply in replies):
        raise RecordError('"response_list" must be a list of texts')
    question = imported_question(task, _with_lines(text), record.get("answer"))
    agents = tuple(f"agent-{number}" for number in range(1, len(replies) + 1))
    turns = [read_reply(task, question, Ask(agent, 0, ()), reply, model) for agent, reply in zip(agents, replies, strict=True)]
    return ended_debate(task, question, agents, turns, protocol="eot")


def _with_lines(text: str) -> str:
    stem, mark, choices = text.rpartition(_CHOICES)
    return lettered(stem, options_of(choices)) if mark and options_of(choices) else text

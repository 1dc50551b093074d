r"""Society of minds (Du et al. 2023, arXiv 2305.14325): agents that are shown each other's raw replies.

The file is `gsm/gsm_<agents>_<rounds>.json` as github.com/composable-models/llm_multiagent_debate writes it, and its many
descendants: an object keyed by the question, its value `[agent contexts, gold answer text]`, a context one agent's whole chat:

    {"Janet's ducks lay 16 eggs per day. ...": [[
        [{"role": "user", "content": "Can you solve the following math problem? Janet's ... in the form \\boxed{answer} ..."},
         {"role": "assistant", "content": "Janet has 16 eggs per day, and eats 3 + 4 = ... Answer: \\boxed{18}."},
         {"role": "user", "content": "These are the solutions ... from other agents: \n\n One agent solution: ```...```"},
         {"role": "assistant", "content": "Yes, based on the previous solutions my answer is: ..."}], ...],
      "Janet sells 16 - 3 - 4 = ... #### 18"]}

The n-th assistant message of a context is the agent's reply of round n. What an agent was shown is looked up, not assumed: its
own previous reply (it is in its chat) and every reply of others, of the previous round or taken earlier in the same round,
whose text stands in the user message it answers. In the published GPT-3.5 files agents spoke in turn: each was shown the
*same* round's replies of those before it. Where an agent gave one text in both rounds, the previous round's
is meant.

The format names no agents and no model: agents are "agent-1", ...; the model is what the file name says between `gsm_` and
`_persona_`, else "unknown". There are no confidences and no token counts.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Ask, Debate, Turn
from magdi_ray.errors import GraphError
from magdi_ray.graph.formats.base import (
    Import,
    Pairs,
    RecordError,
    ended_debate,
    imported_question,
    read_json,
    read_records,
    read_reply,
)
from magdi_ray.tasks.base import Task

_MODEL_IN_NAME = re.compile(r"^[a-z]+_(?P<model>.+?)_persona_")


def read(path: Path, task: Task) -> Import:
    """Every debate of a society-of-minds file.

    Raises:
        GraphError: the file is missing, no JSON, or not an object keyed by the question.
    """
    records = read_json(path, pairs=True)
    if not isinstance(records, Pairs):
        raise GraphError(f"{path}: a JSON object keyed by the question is required, found {type(records).__name__}.")
    named = _MODEL_IN_NAME.match(path.stem)
    return read_records(records, partial(_debate, task, named["model"] if named else "unknown"))


def _debate(task: Task, model: str, text: str, record: Any) -> Debate:
    if not (isinstance(record, list) and len(record) == 2 and isinstance(record[0], list) and record[0]):
        raise RecordError("a record must be [agent contexts, gold answer]")
    question = imported_question(task, text, record[1])
    chats = [_exchanges(context) for context in record[0]]
    agents = tuple(f"agent-{number}" for number in range(1, len(chats) + 1))
    turns: list[Turn] = []
    for round_ in range(max(map(len, chats))):
        for agent, chat in zip(agents, chats, strict=True):
            if round_ < len(chat):
                asked, replied = chat[round_]
                ask = Ask(agent, round_, (), _shown(turns, agent, round_, asked))
                turns.append(read_reply(task, question, ask, replied, model))
    if not turns:
        raise RecordError("no agent gave a reply")
    return ended_debate(task, question, agents, turns, protocol="society")


def _exchanges(context: Any) -> list[tuple[str, str]]:
    """The (user message, reply) pairs of one agent's chat."""
    if not isinstance(context, list) or not all(isinstance(message, Pairs) for message in context):
        raise RecordError("an agent's context must be a list of chat messages")
    exchanges, asked = [], ""
    for message in map(dict, context):
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            raise RecordError(f"a message of role {role!r} holds {type(content).__name__} instead of a text")
        if role == "assistant":
            exchanges.append((asked, content))
            asked = ""
        elif role == "user":
            asked += content
    return exchanges


def _shown(turns: list[Turn], agent: str, round_: int, asked: str) -> tuple[int, ...]:
    shown: dict[str, int] = {}
    for position, turn in enumerate(turns):
        if turn.round < round_ - 1 or turn.agent in shown:
            continue
        quoted = bool(turn.text.strip()) and f"```{turn.text}```" in asked
        if turn.agent == agent or quoted:
            shown[turn.agent] = position
    return tuple(sorted(shown.values()))

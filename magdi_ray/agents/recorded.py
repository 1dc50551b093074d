"""A recorded engine replays replies from a file and answers nothing else. It knows no model.

A line of the file, keyed by its messages (a replied-to conversation may come several times, with different replies):

    {"messages": [{"role": "user", "content": "2 + 2?"}], "text": "4", "tokens_in": 5, "tokens_out": 2,
     "confidence": 0.93, "finish_reason": "stop", "model": "ada"}

Only `messages` and `text` are required.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from magdi_ray.agents.base import FinishReason, Message, Reply, Role, Sampling
from magdi_ray.errors import EngineError


class RecordedMessage(BaseModel):
    """A message as it is written in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: Role
    content: str


class RecordedReply(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    messages: tuple[RecordedMessage, ...] = Field(min_length=1)
    text: str
    tokens_in: int = Field(0, ge=0)
    tokens_out: int = Field(0, ge=0)
    confidence: float | None = Field(None, ge=0.0, le=1.0)
    finish_reason: FinishReason = "stop"
    model: str = "recorded"

    def reply(self) -> Reply:
        """What the engine answers."""
        return Reply(**self.model_dump(exclude={"messages"}))


def conversation_key(messages: Sequence[Message | RecordedMessage]) -> str:
    """SHA-256 of a conversation: equal exactly for equal roles and contents in equal order."""
    plain = [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=True).encode()).hexdigest()


def record(path: str | Path, messages: Sequence[Message], reply: Reply) -> None:
    """Append one reply to a recording, making the file where there is none."""
    line = RecordedReply(messages=tuple(RecordedMessage(role=m.role, content=m.content) for m in messages), **asdict(reply))
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line.model_dump_json() + "\n")


class RecordedAgent:
    """Replays a recording. Among several replies to one conversation, `sampling.seed` chooses (modulo their number)."""

    def __init__(self, path: str | Path) -> None:
        """Read the whole file.

        Raises:
            EngineError: the file is missing, or a line is malformed (its number is named).
        """
        self._path = Path(path)
        self._replies: dict[str, list[Reply]] = {}
        if not self._path.is_file():
            raise EngineError(f"No recording at {self._path}. Name a JSON-lines file of recorded replies.")
        with self._path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    self._add(number, line)

    def _add(self, number: int, line: bytes) -> None:
        try:
            row = RecordedReply.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))[:80] or "the line"
            raise EngineError(f"{self._path}, line {number}: {where}: {first['msg']}.") from None
        self._replies.setdefault(conversation_key(row.messages), []).append(row.reply())

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """The recorded reply.

        Raises:
            EngineError: this conversation was never recorded.
        """
        replies = self._replies.get(conversation_key(messages))
        if replies is None:
            last = messages[-1].content if messages else ""
            shown = last if len(last) <= 80 else f"{last[:77]}..."
            raise EngineError(
                f"{self._path} holds no reply to this conversation ({len(messages)} messages, the last one {shown!r}). "
                "A recorded engine answers only what was recorded, word for word."
            )
        return replies[(sampling.seed or 0) % len(replies)]

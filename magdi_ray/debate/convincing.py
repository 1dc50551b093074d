"""Convincing samples: questions on which a human explanation turned one agent's wrong answer right (arXiv 2309.13007, section 3).

They come as a directory with a file an agent, named after it (`bard.json` holds what convinced the agent `bard`), in the format
of github.com/dinobby/ReConcile (`convincing/`). A file is an array of such records, other keys beside:

    {"train_sample": {"question": "Bobby needs to buy ...", "answer": "730", "gold_explanation": "The cost of labor is ..."},
     "prediction_pre": {"answer": "610", ...}, "prediction_post": {"answer": "730", ...}}

A `train_sample` of a multiple-choice question has `options`, and its answers are their numbers ("4"); they are read as letters.
Only a record whose answer was wrong before and right after the explanation convinced anybody; the others are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question, Task

WHERE = "debate.protocol.convincing"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with the explanation that convinced."""

    question: str
    explanation: str
    answer: str
    """The right one."""


class Taught(BaseModel):
    """`train_sample` of a record."""

    question: str = Field(min_length=1)
    answer: str | int | float
    gold_explanation: str = Field(min_length=1)
    options: list[str] = []


class Prediction(BaseModel):
    """`prediction_pre` or `prediction_post` of a record."""

    answer: str | int | float


class Record(BaseModel):
    """One record of a file."""

    train_sample: Taught
    prediction_pre: Prediction
    prediction_post: Prediction


def read_convincing(directory: Path, task: Task, *, most: int) -> dict[str, tuple[Sample, ...]]:
    """What convinced each agent that has a file there: its first `most` samples.

    Raises:
        ConfigError: there are no such files, or a record is malformed; the file and the record are named.
    """
    files = sorted(directory.glob("*.json")) if directory.is_dir() else []
    if not files:
        raise ConfigError(f"{WHERE}: a directory with a JSON file an agent is required, found none at {directory}.")
    return {file.stem: tuple(_samples(file, task)[:most]) for file in files}


def check_agents(samples: Mapping[str, object], agents: Sequence[str]) -> None:
    """Refuse samples of which none belongs to an agent at the table: they would silently never be shown.

    Raises:
        ConfigError: naming files and agents.
    """
    if samples and not set(samples) & set(agents):
        names = ", ".join(f"{name}.json" for name in sorted(samples))
        raise ConfigError(
            f"{WHERE}: a file is named after the agent it convinced; found {names}, but the agents are {', '.join(agents)}. "
            "Rename it, or the agent."
        )


def _samples(file: Path, task: Task) -> list[Sample]:
    try:
        records = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{WHERE}: {file} is not valid JSON: {error}. Write the file again.") from None
    if not isinstance(records, list):
        raise ConfigError(f"{WHERE}: {file} must hold an array of records, found {type(records).__name__}.")
    found = [_sample(_record(file, number, record), task) for number, record in enumerate(records)]
    return [sample for sample in found if sample is not None]


def _record(file: Path, number: int, record: object) -> Record:
    try:
        return Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise ConfigError(f"{WHERE}: {file}, record {number}: {where}: {first['msg']}. Mend that record.") from None


def _sample(record: Record, task: Task) -> Sample | None:
    """A record as a sample; None where it convinced nobody."""
    taught = record.train_sample
    text = "\n".join([taught.question.strip(), *(f"({letter}) {option}" for letter, option in _lettered(taught.options).items())])
    gold = _answer(taught, taught.answer)
    before, after = (_answer(taught, said.answer) for said in (record.prediction_pre, record.prediction_post))
    if _same(task, text, before, gold) or not _same(task, text, after, gold):
        return None
    return Sample(text, taught.gold_explanation.strip(), gold)


def _lettered(options: Sequence[str]) -> dict[str, str]:
    return {chr(ord("A") + place): option for place, option in enumerate(options)}


def _answer(taught: Taught, written: object) -> str:
    text = str(written).strip()
    letters = list(_lettered(taught.options))
    return letters[int(text) - 1] if text.isdecimal() and 0 < int(text) <= len(letters) else text


def _same(task: Task, question: str, said: str, gold: str) -> bool:
    """Whether an answer is the gold one: by the task's rule where it can read the gold answer, else by spelling."""
    asked = Question("convincing", question)
    right = task.extract(asked, task.state(gold))
    if right is None:
        return said.casefold() == gold.casefold()
    return task.same(task.extract(asked, task.state(said)), right)

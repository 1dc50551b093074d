"""What an earlier attempt left of an evaluation: replies that need no engine any more, and the times replies took. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.store import ReplyStore, reply_key
from magdi_ray.debate.revision import revision_messages
from magdi_ray.evaluate.answers import judge
from magdi_ray.evaluate.exam import Candidate, Examination
from magdi_ray.evaluate.metrics import Key
from magdi_ray.storage import write_atomically
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.load import load_task


def answered(exam: Examination, questions: Sequence[tuple[str, Question]]) -> frozenset[str]:
    """Labels of the local candidates all of whose replies are in the store: they need not be deployed."""
    tasks: dict[str, Task] = {task.name: load_task(task) for task in exam.tasks}
    store = ReplyStore(exam.replies, run=exam.run)

    def key(one: Candidate, messages: Sequence[Message], place: int, sampling: Sampling) -> str:
        return reply_key(provider=one.provider, model=one.identity, messages=messages, sampling=sampling, sample=place)

    def revised(one: Candidate, task: Task, question: Question, first: str, place: int, sampling: Sampling) -> bool:
        reply = store.get(first)
        if reply is None:
            return False
        text = judge(task, question, system=one.system, reply=reply).text
        return key(one, revision_messages(task, question, text), place, sampling) in store

    def plain(one: Candidate, task: Task, question: Question) -> bool:
        asked = [Message("user", task.prompt(question))]
        return all(key(one, asked, place, sampling) in store for place, sampling in exam.asks(one, question))

    def again(one: Candidate, task: Task, question: Question) -> bool:
        place, sampling = exam.asks(one, question)[0]
        return revised(one, task, question, key(one, [Message("user", task.prompt(question))], place, sampling), place, sampling)

    def complete(one: Candidate) -> bool:
        # Keys are at hand, replies have to be read: those only where no key is missing.
        if not all(plain(one, tasks[name], question) for name, question in questions):
            return False
        return not one.revises or all(again(one, tasks[name], question) for name, question in questions)

    found = frozenset(one.label for one in exam.candidates if not one.remote and complete(one))
    store.close()
    return found


def read_times(path: Path, exam: Examination) -> dict[Key, float]:
    """Seconds a reply took, as far as these very candidates were timed before."""
    kept: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: dict[Key, float] = {}
    for name, seconds in kept.items():
        task, split, identity = name.split("|", 2)
        found |= {Key(task, split, one.system): seconds for one in exam.timed if one.identity == identity}
    return found


def write_times(path: Path, exam: Examination, times: Mapping[Key, float]) -> None:
    """Keep what was measured beside what was kept before."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    identity = {one.system: one.identity for one in exam.timed}
    kept |= {f"{key.task}|{key.split}|{identity[key.system]}": seconds for key, seconds in times.items()}
    write_atomically(path, json.dumps(kept, indent=1))

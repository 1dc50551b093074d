"""From the configuration's task section to a task and its questions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence

from magdi_ray.config.sections import FileTask, TaskConfig, TinyTask
from magdi_ray.errors import TaskError
from magdi_ray.tasks import gsm8k
from magdi_ray.tasks.base import Question, Split, Task
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.tiny import Tiny
from magdi_ray.tiny.world import questions

TASKS: dict[str, Callable[[], Task]] = {"gsm8k": Gsm8k, "tiny": Tiny}
"""Every task by name."""


def load_task(config: TaskConfig) -> Task:
    """The task a section names."""
    return TASKS[config.name]()


def load_questions(config: TaskConfig) -> list[Question]:
    """The questions of a task's own files or generator, not yet checked against each other (`check_questions`).

    Raises:
        TaskError: a file is missing, malformed or empty.
    """
    match config:
        case TinyTask():
            counts: dict[Split, int] = {"train": config.train, "dev": config.dev, "test": config.test, "ood": config.ood}
            found = [q for split, count in counts.items() if count for q in questions(split, count, seed=config.seed)]
        case FileTask():
            found = gsm8k.load(config.path, split="train", limit=config.limit) if config.path else []
            if config.test_path:
                found += gsm8k.load(config.test_path, split="test", limit=config.test_limit)
    return found


def fingerprint(question: Question) -> str:
    """Hash of a question's words, blind to case, spacing and punctuation."""
    return hashlib.sha256(" ".join(re.findall(r"\w+", question.text.lower())).encode()).hexdigest()


def check_questions(questions: Sequence[Question]) -> None:
    """Refuse repeated ids, no questions at all, and training questions that are also held out."""
    if not questions:
        raise TaskError("There is no question: the task's files or counts give none. At least one is required.")
    twice = [identity for identity, count in Counter(q.id for q in questions).items() if count > 1]
    if twice:
        raise TaskError(f"Question ids must be unique; {len(twice)} occur more than once, the first is {twice[0]!r}.")
    trained = {fingerprint(q): q.id for q in questions if q.split == "train"}
    leaks = [(trained[fingerprint(q)], q.id) for q in questions if q.split != "train" and fingerprint(q) in trained]
    if leaks:
        raise TaskError(
            f"{len(leaks)} held-out questions are also training questions, "
            f"the first pair is {leaks[0][0]!r} and {leaks[0][1]!r}. "
            "Remove them from one side: an evaluation on questions that were trained on says nothing."
        )

"""Self-revision: a model is shown its own reply to a question and asked to look at it again. Pure.

Taught by `recipe.nodes.revisions`, measured by `evaluate.self_revision`: both put it in these words.
"""

from __future__ import annotations

from magdi_ray.agents.base import Message
from magdi_ray.tasks.base import Question, Task

REVISE = "Check your answer. If it is wrong, revise it."


def revision_messages(task: Task, question: Question, reply: str) -> list[Message]:
    """The conversation that asks for a second reply."""
    return [Message("user", task.prompt(question)), Message("assistant", reply), Message("user", REVISE)]

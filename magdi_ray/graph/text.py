"""The text a student learns from a node: the reasoning without talk of agreement, then the answer sentence. Pure."""

from __future__ import annotations

import re

from magdi_ray.graph.schema import Node
from magdi_ray.tasks.base import Task

SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?](?!\s|$)[^.!?\n]*)*[.!?]*[\s]*")
AGREEMENT = re.compile(
    r"""^\W*
    (?:(?:after|based\s+on|having|upon|given|considering)\b[^,\d]*,\s*)?
    (?:(?:yes|no|ok|okay|so|thus|therefore|overall|hence|indeed|again|also)\b\W*)*
    (?:i|we)\s+(?:(?:do|still|also|fully|strongly|completely|partially|now|not|would|don't|can't|cannot|must|have|to|both)\s+)*
    (?:dis)?agree\b
    (?:\s+(?:with|on|to)\b(?:(?!\b(?:because|since|as|that|but|however|due|so)\b)[^,;:=])*)?
    \W*$""",
    re.IGNORECASE | re.VERBOSE,
)


def drop_agreement(reasoning: str) -> str:
    """Remove the sentences that only say "I agree / disagree with ...": a student has no partner to agree with.

    A sentence that also gives a reason ("I agree because 3 * 4 = 12") is kept. The result may be empty.
    """
    return "".join(s for s in SENTENCE.findall(reasoning) if not AGREEMENT.match(s.strip())).strip()


def student_reply(task: Task, node: Node) -> str | None:
    """What the student is taught to say in place of a node; None when nothing is left to teach.

    Reasoning, then the answer sentence. A node without an answer (status "unparsed") keeps its reasoning alone.
    """
    reasoning = drop_agreement(node.reasoning)
    if not reasoning:
        return None
    return f"{reasoning}\n{task.state(node.answer)}" if node.answer is not None else reasoning

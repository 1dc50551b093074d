"""What models and their providers send, as targets: replies of every task, structured ones, whole answers of an endpoint."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

from magdi_ray.agents.base import Message, Reply
from magdi_ray.agents.completion import Completion, read_completion, read_refusal, retry_after
from magdi_ray.debate.quoting import fenced, one_line, quoted
from magdi_ray.debate.reading import merge_repair, read_turn, reasoning_of, repair_messages
from magdi_ray.debate.structured import read_fields
from magdi_ray.debate.transcript import Ask
from magdi_ray.graph.text import drop_agreement
from magdi_ray.tasks import latex_equal
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.choices import lettered
from magdi_ray.tasks.load import TASKS
from tests.fuzz.target import Feed, Target, text_of

STORY = Question("q", "Janet has 16 eggs and eats 3. How many are left?", "13")
CHOICE = Question("q", lettered("Where?", ("bank", "library", "mall", "new york", "21")), "A")
QUESTIONS = dict.fromkeys(("commonsenseqa", "arc", "aqua", "ecare"), CHOICE)

READERS = (
    "tasks.answers",
    "tasks.choices",
    "tasks.math",
    "tasks.latex",
    "tasks.aqua",
    "tasks.tiny",
    "tasks.gsm8k",
    "tasks.lettered",
)
READERS += ("debate.reading", "debate.structured", "debate.quoting", "tasks.latex_equal", "graph.text")
"""Modules with the expressions that replies go through."""

SAMPLES = (
    "16 - 3 = 13. So she has 13 eggs left.\n\nThe answer is 13.\nConfidence: 0.9",
    "<think>Hmm, 16 - 3 = 13.</think>\n**Answer:** $\\boxed{13}$ eggs\n\nI am 90% sure.",
    '```json\n{"reasoning": ["16 - 3 = 13"], "answer": 13, "confidence": "90%"}\n```',
    "We need $\\frac{1}{2} + \\sqrt{3}$, so that $x = \\left(\\frac{\\pi}{2}, 2 \\pm \\sqrt{5}\\right]$.\nThe answer is "
    "$\\boxed{\\begin{pmatrix} 1 \\\\ -\\frac{1}{2} \\end{pmatrix}}$.",
    "(A) is not plausible. Option (B), library, is the more plausible answer, so the answer is (B).",
    "No, wait. Yes: whales are mammals, so the answer is yes.\nConfidence level: 8 out of 10",
    "#### 1,200.50", "A: between 10 and 20, at least 5 or 6, 2 million dollars", "kim has 8 * 3 = 24 . answer 24", "",
)  # fmt: skip
PHRASES = (
    "answer", "The answer is ", "Answer: ", "answer is not ", "#### ", "\\boxed{", "\\frac{", "\\sqrt{", "\\text{", "\\left(",
    "$", "$$",
    "confidence", "Confidence: 0.", "I am 90% sure", " out of ", " is ", "not ", " or ", " and ", "no, wait, ",
    "wrong answer is ",
    "(A)", "(B) ", "Option C", "yes", "no", "No. ", "cannot be ", "1,111", "1/2", "9", "0", "9" * 50, "1e99", "x=", "5! ", "^{",
    "_",
    "<think>", "</think>", "```json\n", '{"answer": ', '"answer": ["', '", "', '"a" ', '{"reasoning": "', '"confidence": ',
    "\\\\", "\\",
    " million", "\\pm", "\\cup", "\\begin{pmatrix}", "\\end{pmatrix}", "at least ", "between ", ". ", "! ", "? ", ", ", "\n",
    "  ",
)  # fmt: skip


def patterns() -> Iterator[re.Pattern[str]]:
    """Every expression that stands in the modules that read replies."""
    for name in READERS:
        for value in vars(importlib.import_module(f"magdi_ray.{name}")).values():
            for held in value if isinstance(value, list) else (value,):
                found = held[0] if isinstance(held, tuple) and held else held
                if isinstance(found, re.Pattern) and isinstance(found.pattern, str):
                    yield found


def targets() -> Iterator[Target]:
    """All of them."""
    samples = tuple(text.encode() for text in SAMPLES)
    words = tuple(phrase.encode() for phrase in PHRASES)
    for name in TASKS:
        yield Target(f"replies: {name}", _reads(name), samples, words)
    yield Target("structured replies", lambda data, _: _structured(text_of(data)), samples, words)
    yield Target("LaTeX answers that are compared", lambda data, _: _compared(text_of(data)), samples, words)
    completion = (
        b'{"choices": [{"message": {"content": "4", "refusal": null}, "finish_reason": "stop"}], "model": "m", "usage": '
        b'{"prompt_tokens": 11, "completion_tokens": 1}}',
        b'{"choices": [{"message": {"content": [{"type": "text", "text": "4"}, {"text": null}]}}]}',
        b'{"error": {"message": "slow down", "code": 429}}',
    )
    yield Target("providers' answers", lambda data, _: _completed(data), completion)


def read(task: Task, question: Question, text: str) -> None:
    """A reply through all that a debate, a graph and an evaluation do with it."""
    reply = Reply(text, 1, 1, None, "stop", "m")
    turn = read_turn(task, question, Ask("a", 0, ()), reply)
    reasoning = reasoning_of(task, turn.text)
    (fenced(turn.text) + one_line(turn.answer or "") + quoted(reasoning) + drop_agreement(reasoning)).encode()
    assert (turn.status == "unparsed") == (turn.answer is None)
    assert turn.confidence is None or 0.0 <= turn.confidence <= 1.0
    if turn.answer is not None:
        assert task.extract(question, task.state(turn.answer)) is not None
    merge_repair(reply, reply)
    repair_messages((Message("user", "?"),), reply)


def _reads(name: str) -> Feed:
    question = QUESTIONS.get(name, STORY)
    return lambda data, _: read(TASKS[name](), question, text_of(data))


def _structured(text: str) -> None:
    if (fields := read_fields(text)) is not None:
        "".join(filter(None, (fields.reasoning, fields.answer, fields.confidence)))


def _compared(text: str) -> None:
    """Without computer algebra, which has bounds of its own (`magdi_ray.tasks.latex_process`)."""
    left, _, right = text.partition("\n")
    normal, other = latex_equal.normal_form(left), latex_equal.normal_form(right)
    assert latex_equal.decide(normal, normal, lambda *_: False) == bool(normal)
    assert latex_equal.decide(normal, other, lambda *_: False) == latex_equal.decide(other, normal, lambda *_: False)


def _completed(data: bytes) -> None:
    got = read_completion(data, [Message("user", "2 + 2?")], "m")
    assert 0 <= got.tokens_in < 2**63
    assert 0 <= got.tokens_out < 2**63
    if isinstance(got, Completion):
        (got.text + got.model).encode()
    else:
        str(got.error(1)).encode()
    seconds = retry_after({"retry-after": text_of(data)[:200], "retry-after-ms": text_of(data)[:50]})
    assert seconds is None or seconds >= 0.0
    str(read_refusal(429, text_of(data), {}).error(1))

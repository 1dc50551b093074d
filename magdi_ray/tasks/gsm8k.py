r"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al. 2021, arXiv 2110.14168).

A row of `train.jsonl` / `test.jsonl` of github.com/openai/grade-school-math, one JSON object per line; an `id` is optional:

    {"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many
     clips did Natalia sell altogether in April and May?", "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n
     Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from magdi_ray.errors import TaskError
from magdi_ray.tasks.answers import clean, numbers, read_number, same_number
from magdi_ray.tasks.base import Question, Split

PROMPT = '{question}\n\nEnd your answer with the sentence "The answer is N.", where N is a single number without units.'

_SENTENCE_START = re.compile(r"(?:\A|\n|[.!?][*_)\"'$}]*\s)\s*")
_CLOSING = re.compile(
    r"[*_ ]*(?:"
    r"\#{4}[^\n]{0,200}"
    r"|(?:(?:and|so|therefore|thus|hence|finally|in conclusion|the|my|our|final|correct|numerical)[ ,:*_]+)*"
    r"answer\b[*_ ]*(?:is\b|[:=])[^\n]{0,200}"
    r"|A:[^\n]{0,200}"
    r"|[$\\\[(]*\\boxed\{[^\n]{0,200}"
    r")\s*\Z",
    re.IGNORECASE,
)
_FEW_WORDS = 12
_WINDOW = 300


@dataclass(frozen=True, slots=True)
class Gsm8k:
    """The task: one number per question, compared exactly (`magdi_ray.tasks.answers`)."""

    name: str = "gsm8k"

    def prompt(self, question: Question) -> str:
        """The question and how its answer is to be written."""
        return PROMPT.format(question=question.text)

    def extract(self, question: Question, reply: str) -> str | None:
        """The number a reply answers with. A verbatim echo of the question is taken out first: its numbers are no answer."""
        echo = question.text.strip()
        return read_number(reply.replace(echo, "\n") if echo else reply)

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same number, exactly."""
        return same_number(answer, gold)

    def state(self, answer: str) -> str:
        """ "The answer is 18."."""
        return f"The answer is {answer}."

    def reasoning(self, reply: str) -> str:
        r"""The reply without what closes it: "The answer is 18.", "#### 18", "A: 18" or a bare `\boxed{18}`.

        A closing sentence that also calculates, or says more than a few words, is reasoning and stays. A reply that is
        nothing but a closing statement has no reasoning: "".
        """
        text = reply.strip()
        while match := next((m for m in _closings(text) if _only_states(m[0])), None):
            text = text[: match.start()].rstrip()
        return text


def load(path: Path | str, *, split: Split, limit: int | None = None) -> list[Question]:
    """The questions of a jsonl file in file order, the first `limit` of them where given.

    A question without an `id` gets "gsm8k-" and 12 hex digits of its text's SHA-256.

    Raises:
        TaskError: the file is missing or empty, a line is malformed or has no gold answer, or an id occurs twice.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise TaskError(f"limit must be a positive number of questions, found {limit}. Leave it out to read all of {path}.")
    if not path.is_file():
        raise TaskError(f"a GSM8K jsonl file is required, found nothing at {path}. Check the path.")
    questions: list[Question] = []
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, question in _rows(path, lines, split):
            if question.id in seen:
                found = f"{question.id!r}, also in line {seen[question.id]}"
                _refuse(path, number, "an id that occurs once", found, "remove one of the two")
            seen[question.id] = number
            questions.append(question)
            if len(questions) == limit:
                break
    if not questions:
        raise TaskError(f"at least one question is required, {path} is empty. Download it again or check the path.")
    return questions


def question_id(text: str) -> str:
    """The id of a question that has none: "gsm8k-" and 12 hex digits of its text's hash."""
    return f"gsm8k-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _closings(text: str) -> Iterator[re.Match[str]]:
    for start in _SENTENCE_START.finditer(text, max(0, len(text) - _WINDOW)):
        if match := _CLOSING.match(text, start.end()):
            yield match


def _only_states(sentence: str) -> bool:
    sentence = clean(sentence)
    return "=" not in sentence and len(numbers(sentence)) == 1 and len(sentence.split()) <= _FEW_WORDS


def _rows(path: Path, lines: Iterator[str], split: Split) -> Iterator[tuple[int, Question]]:
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            yield number, _row(path, number, line, split)
    except UnicodeDecodeError as error:
        _refuse(path, number + 1, "UTF-8 text", f"{error}", "save the file as UTF-8", error)


def _row(path: Path, number: int, line: str, split: Split) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        _refuse(path, number, "one JSON object per line", repr(line[:80]), f"repair it ({error})", error)
    if not isinstance(row, dict):
        _refuse(path, number, "a JSON object", repr(line[:80]), 'write {"question": ..., "answer": ...}')
    text, answer = row.get("question"), row.get("answer")
    if not isinstance(text, str) or not text.strip() or any("\ud800" <= c <= "\udfff" for c in text):
        _refuse(path, number, 'a text under "question"', repr(text), "add it or remove the line")
    gold = answer.rpartition("####")[2] if isinstance(answer, str) and "####" in answer else ""
    value = read_number(gold)
    if value is None:
        _refuse(path, number, 'an "answer" that ends in "#### <number>"', repr(answer), "add it or remove the line")
    given = row.get("id")
    return Question(id=question_id(text) if given is None else str(given), text=text, gold=value, split=split)


def _refuse(path: Path, line: int, required: str, found: str, remedy: str, cause: Exception | None = None) -> NoReturn:
    raise TaskError(f"{path}, line {line}: required {required}; found {found}. To go on: {remedy}.") from cause

r"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al. 2021, arXiv 2110.14168).

A row of `train.jsonl` / `test.jsonl` of github.com/openai/grade-school-math, one JSON object per line; an `id` is optional:

    {"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many
     clips did Natalia sell altogether in April and May?", "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n
     Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.answers import MAX_TRIED, clean, numbers, read_number, same_number
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.rows import named_question, row_text, written

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
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
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
        for _ in range(MAX_TRIED):
            match = next((m for m in _closings(text) if _only_states(m[0])), None)
            if match is None:
                break
            text = text[: match.start()].rstrip()
        return text


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer.

    Raises:
        ValueError: no question text, or an answer that does not end in a number.
    """
    text, answer = row_text(row, "question"), row.get("answer")
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return named_question("gsm8k", text, None, split, row.get("id"))
    gold = read_number(answer.rpartition("####")[2]) if isinstance(answer, str) and "####" in answer else None
    if gold is None:
        raise ValueError(f'required an "answer" that ends in "#### <number>"; found {answer!r}')
    return named_question("gsm8k", text, gold, split, row.get("id"), solution=worked_solution(answer))


def worked_solution(answer: object) -> str | None:
    """The steps of a published answer: what stands before its "#### 18", without calculator notes such as "<<9*2=18>>".

    None where nothing stands there, or nothing marks the final answer.
    """
    steps, mark, _ = answer.rpartition("####") if isinstance(answer, str) else ("", "", "")
    return written(_CALCULATION.sub("", steps)) if mark else None


def _closings(text: str) -> Iterator[re.Match[str]]:
    for start in _SENTENCE_START.finditer(text, max(0, len(text) - _WINDOW)):
        if match := _CLOSING.match(text, start.end()):
            yield match


def _only_states(sentence: str) -> bool:
    sentence = clean(sentence)
    return "=" not in sentence and len(numbers(sentence)) == 1 and len(sentence.split()) <= _FEW_WORDS

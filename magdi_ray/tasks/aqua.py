r"""AQuA-RAT: algebraic word problems with five options and a written rationale (Ling et al. 2017, arXiv 1705.04146).

A row of the published jsonl (`dev.json`, `test.json`: lines of JSON under a name of `.json`), and of the hub's set `raw`; its
rationale, without the closing statement of its answer, is the question's solution:

    {"question": "Two friends plan to walk along a 43-km trail, starting at opposite ends of the trail at the same time. ...",
     "options": ["A)21", "B)21.5", "C)22", "D)22.5", "E)23"], "rationale": "If Q complete x kilometers, then P completes
     1.15x kilometers.\nx + 1.15x = 43\n ... \nThen P will have have walked 1.15*20=23 km.\nThe answer is E.", "correct": "E"}

A question's text holds its options, a line each. A reply may state an option's value in place of its letter: "The answer is
23.0 km." is "E". It is read where exactly one option is that number, and only from a statement, a box or a reply of a few words
that says no more than a value ("It is 23 km."). The number of an option ("option 3", "the 3rd option") is no value, and not taken
for a letter either; nor is a bound ("at most 21"), one of several, or what "the wrong answer" is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from magdi_ray.tasks.answers import CORRECTED, clean, is_open, numbers, spoken, without_wrong
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.choices import FEW_WORDS, closed_reasoning, lettered, options_of, read_letter
from magdi_ray.tasks.lettered import Lettered, gold_letter
from magdi_ray.tasks.rows import named_question, row_text

LETTERS = "ABCDE"
MAX_CLAUSE = 200
"""Characters of a statement that are read."""

_OPTION = re.compile(r"\s*\(?\s*([A-Za-z])\s*[).:]\s*(.*?)\s*", re.DOTALL)
_STATED = re.compile(r"\#{4}|\\boxed\s*\{|\banswer\b[^.:=\n]{0,60}?(?:\bis\b|[:=])", re.IGNORECASE)
_END = re.compile(r"[.!?](?=\s|$)|\n|\}")
_UNDECIDED = re.compile(r"(?i:\b(?:or|not|nor|neither|between)\b|n['’]t\b)|(?<![A-Za-z])[A-E](?![A-Za-z'’])")
_MORE_THAN_A_NUMBER = re.compile(r"[=:+*^<>≤≥√\\{]|[a-z]\s*/\s*[0-9]|[0-9][a-z]\b")
_POSITION = re.compile(
    r"\b(?:options?|choices?|answers?|numbers?|no\.?|nr\.?)\W{0,3}[0-9]|#\s*[0-9]|[0-9](?:st|nd|rd|th)\b", re.IGNORECASE
)
"""A number that says where an option stands."""

_BARE = re.compile(
    r"(?:(?:so|thus|therefore|hence|then|it|that|this|there|we|you|get|is|are|was|equals|gives|would|be|must|exactly|about|answer|the"
    r"|result|total|[A-Za-z]\s*=)[\s,:]+|[=≈:(]\s*)*[-+$€£]*\\?[0-9.(f](?:(?!\b(?:is|are|was|were|has|have|seems?|looks?|will|would|can"
    r"|cannot|too|wrong|doubts?|options?|choices?|answers)\b|n['’]t).)*"
    r"(?:\bis (?:the )?(?:right |correct )?(?:answer|right|correct|one))?[\s.!*_]*",
    re.IGNORECASE | re.DOTALL,
)
"""A reply without a statement that is a value and little else."""
_MARKUP = "*_`$\\[](): \t\r\n"


@dataclass(frozen=True, slots=True)
class Aqua(Lettered):
    """The task: one letter, "A" to "E"."""

    name: str = "aqua"
    letters: str = "one of the letters"

    def extract(self, question: Question, reply: str) -> str | None:
        """The letter a reply answers with, or that of the one option whose value it states; a verbatim echo aside."""
        echo, options = question.text.strip(), options_of(question.text)
        text = reply.replace(echo, "\n") if echo else reply
        values = [_value(clean(option)) for option in options]
        stated = _stated(text)
        if stated is not None and values.count(stated) == 1:
            return LETTERS[values.index(stated)]
        # By its text an option is named only where it is no number: "21" also occurs in "1,210" and in "21.7".
        return read_letter(text, [option if value is None else "" for option, value in zip(options, values, strict=True)])


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row; its gold is None where the row has no answer.

    Raises:
        ValueError: no question text, not five options, or an answer that is none of them.
    """
    stem, options = row_text(row, "question"), _options(row.get("options"))
    gold = gold_letter(row.get("correct"), LETTERS, key="correct")
    rationale = row.get("rationale")
    solution = closed_reasoning(rationale) if isinstance(rationale, str) else None
    return named_question("aqua", lettered(stem, options), gold, split, row.get("id"), solution=solution)


def _options(options: object) -> list[str]:
    items = options if isinstance(options, Sequence) and not isinstance(options, str) else []
    matches = [_OPTION.fullmatch(item) for item in items if isinstance(item, str)]
    found = [(match[1].upper(), match[2]) for match in matches if match]
    if [letter for letter, _ in found] != list(LETTERS):
        raise ValueError(f'required "options" from "A)..." to "E)..."; found {options!r}')
    return [row_text({"text": text}, "text") for _, text in found]


def _value(text: str) -> Fraction | None:
    """The number that an option or a cleaned statement is, units aside; None where it is anything else ("3:5", "x + 2")."""
    found = numbers(text)
    return found[0] if len(found) == 1 and not _MORE_THAN_A_NUMBER.search(text) else None


def _stated(text: str) -> Fraction | None:
    """The number of the last statement, or of a reply that is one; None where it names a letter or a position, or is open."""
    text = without_wrong(clean(spoken(text)))
    last = next(reversed(list(_STATED.finditer(text))), None)
    if last is None and (len(text.split()) > FEW_WORDS or not _BARE.fullmatch(text.strip(_MARKUP))):
        return None
    start = last.end() if last else 0
    rest = text[start : start + MAX_CLAUSE].lstrip(_MARKUP)
    end = _END.search(rest)
    clause = rest[: end.start()] if end else rest
    asked = end is not None and end[0] == "?"
    if asked or _UNDECIDED.search(clause) or _POSITION.search(clause) or CORRECTED.search(clause) or is_open(clause):
        return None
    return _value(clause.rpartition("=")[2].strip(_MARKUP))

r"""MATH: competition problems whose answer is an expression in LaTeX (Hendrycks et al. 2021, arXiv 2103.03874).

A row as published, one JSON object per problem, whose answer is the last `\boxed{}` of its solution; the hub's copies have the
same fields. A row that states its `answer` (MATH-500) needs no solution, and may name its id `unique_id`:

    {"problem": "What is $\\frac{1}{2} + \\frac{1}{3}$?", "level": "Level 1", "type": "Prealgebra",
     "solution": "We have $\\frac{1}{2} + \\frac{1}{3} = \\frac{3}{6} + \\frac{2}{6} = \\boxed{\\frac{5}{6}}$."}

    {"problem": "Convert ...", "solution": "...", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "Precalculus",
     "level": 2, "unique_id": "test/precalculus/807.json"}

How answers look and when two are the same is the business of `magdi_ray.tasks.latex` and `magdi_ray.tasks.latex_equal`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.answers import CORRECTED, is_open, refuses, spoken, without_negated, without_questions, without_wrong
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.latex import balanced, exact, normal_form, scaled, value
from magdi_ray.tasks.latex_equal import equivalent
from magdi_ray.tasks.latex_process import require_math_verify
from magdi_ray.tasks.rows import named_question, row_text, written

PROMPT = (
    "{question}\n\nThink step by step. End your answer with the sentence "
    '"The answer is $\\boxed{{}}$.", with the final answer in LaTeX, without units, in the box.'
)

MAX_TRIED = 50
"""Boxes, statements and formulas looked into, from the end."""

MAX_CLAUSE = 600
"""Characters of a box, statement or formula that are read; keeps the reading linear in the text's length. No answer is longer."""

FEW_WORDS = 6
"""A statement of more words without a formula or a number states no answer; "Friday" and "a right triangle" do."""

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[0-9A-Za-z]))")
_JOINED = re.compile(
    r"[\s$.,;]*(?:\\[)\]])?\s*(?:,|\band\b|\bor\b)\s*(?:\\[(\[])?[\s$]*(?:[A-Za-z](?:_[0-9a-z])?\s*=\s*)?", re.IGNORECASE
)
_STATEMENT = re.compile(
    r"\#{4}|(?m:^[ \t>*]*A:)|\banswers?\b[*_\"' ]*(?:\([^()\n]{0,60}\)\s*)?(?:"
    r"(?:(?:to|of|for)\b[^.:=\n]{0,160}?)?\s*"
    r"(?:\b(?:is|are|was|equals|would be|should be|must be|will be|comes (?:out )?to)\b|[=:≈])"
    r"|(?=(?:cannot|can't|can not|could not)\b))",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"[\s*_:\"'{$]*(?:unknown|undetermined|indeterminate|unclear|impossible|not (?:known|clear|possible|given|provided)"
    r"|cannot|can't|can not|could not|(?:\\text\{)?I (?:do not|don't|cannot|can't))\b",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?P<a>(?:[^$\\]|\\.){1,600}?)\$\$|(?<!\\)\$(?P<b>(?:[^$\\]|\\.){1,600}?)\$"
    r"|\\\((?P<c>.{1,600}?)\\\)|\\\[(?P<d>.{1,600}?)\\\]",
    re.DOTALL,
)
_DENIAL = r"(?:\bnot|n['’]t|\b(?:rather than|instead of|anything but|except|other than))"
_A_BOX = r"\\(?:boxed|fbox)\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\}){0,200}\}){0,600}\}"
_ANY_FORMULA = rf"(?:{re.sub(r'[?]P<[abcd]>', '?:', _FORMULA.pattern)}|{_A_BOX})"
_DENIED = re.compile(
    rf"({_DENIAL}\s+)(?:(?!only|just|merely)\w+\s+)?{_ANY_FORMULA}(?:\s*(?:,|\bn?or\b)\s*{_ANY_FORMULA})*", re.DOTALL
)
_DENYING = re.compile(rf"[\s*_({{]*{_DENIAL}")
_LONE_DENIAL = re.compile(rf"[\s,;]*{_DENIAL}\s*(?=[.,;:]|\Z)")
_LISTED = re.compile(r"\s*(?:,|,?\s*(?:and|or)\b)\s*", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r"[.!?](?=\s|$)|[.!?](?=[*_\"')}\\]+(?:\s|$))|\n|\"(?=\s*[,}])|,?\s(?:because|since|so that|which|where)\s|\s\((?![\s0-9+-])"
)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*_\"')$]*(?:\s|\Z))|\n")
_A_VALUE = re.compile(r"[0-9]|\\(?:pi|sqrt|infty|emptyset|pm|frac|begin)(?![A-Za-z])")
_PLAIN_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_^.,])-?[$€£]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?(?![A-Za-z0-9_^])"
)
_BARE = re.compile(
    r"(?=.*[0-9]|.*\\(?:pi|infty|emptyset)(?![A-Za-z])|[A-Z]\Z)"
    r"(?:\\[A-Za-z]+|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[^A-Za-z$\n]){1,400}"
)
"""A reply that is nothing but an expression: no words, no dollar signs, one line."""
_ABOUT = re.compile(r"\A(?:(?:about|approximately|roughly|around|exactly|simply|just|probably)\s+)+", re.IGNORECASE)
_BOUND = re.compile(r"(?:at (?:least|most)|(?:more|less|fewer|greater) than|between|either|up to)\b", re.IGNORECASE)
_ROUNDED = re.compile(r"\b(?:about|approximately|roughly|around)\s*\Z", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[a-z](?![A-Za-z(])")
_ASIDE = re.compile(r",\s|\s[-–—]\s|\s(?:as|but|not|and not|rather than|instead of)\s")
_SENTENCE_START = re.compile(r"(?:\A|\n|[.!?][*_)\"'$}\]]*\s)\s*")
_CLOSING = re.compile(
    r"[*_ ]*(?:\#{4}[^\n]{0,600}"
    r"|(?:(?:and|so|therefore|thus|hence|finally|in conclusion|the|my|our|final|correct)[ ,:*_]+)*"
    r"answer\b[*_ ]*(?:is\b|[:=])(?P<said>[^\n]{0,600})"
    r"|[$\\\[(]*\s*\\boxed\{[^\n]{0,600})\s*\Z",
    re.IGNORECASE,
)
_WINDOW = 800


@dataclass(frozen=True, slots=True)
class Math:
    """The task: one LaTeX answer per problem, compared by `magdi_ray.tasks.latex_equal`.

    Raises:
        ConfigError: the package math-verify, which compares, is missing.
    """

    name: str = "math"

    def __post_init__(self) -> None:
        require_math_verify()

    def prompt(self, question: Question) -> str:
        """The problem and how its answer is to be written."""
        return PROMPT.format(question=question.text)

    def extract(self, question: Question, reply: str) -> str | None:
        """The answer a reply gives, in normal form. A verbatim echo of the problem is taken out first."""
        echo = question.text.strip()
        answer = read_latex(reply.replace(echo, "\n") if echo else reply)
        return answer if answer and len(answer) < MAX_CLAUSE and balanced(answer) else None

    def same(self, answer: str | None, gold: str | None) -> bool:
        """Whether both are the same answer. Blocks while algebra computes, see `latex_process.TIMEOUT`."""
        return answer is not None and gold is not None and equivalent(answer, gold)

    def state(self, answer: str) -> str:
        r""" "The answer is $\boxed{\frac{5}{6}}$."."""
        return rf"The answer is $\boxed{{{answer}}}$."

    def reasoning(self, reply: str) -> str:
        r"""The reply without what closes it: "The answer is $\boxed{5}$.", "#### 5", a bare `\boxed{5}`; "" if it is all."""
        text = reply.strip()
        for _ in range(MAX_TRIED):
            match = next((m for m in _closings(text) if _only_states(m)), None)
            if match is None:
                break
            text = text[: match.start()].rstrip()
        return text


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    r"""The question of one published row; its gold is None where the row has neither an answer nor a boxed one.

    Raises:
        ValueError: no problem text, or a solution that boxes nothing while no answer is stated.
    """
    text = row_text(row, "problem" if "problem" in row or "question" not in row else "question")
    solution, answer = written(row.get("solution")), row.get("answer")
    stated = "" if answer is None else str(answer)
    gold = normal_form(stated) or None
    if gold is None and solution is not None:
        gold = _boxed(solution)
        if gold is None:
            raise ValueError(f'required an "answer", or a "solution" with its answer in \\boxed{{}}; found {solution[-80:]!r}')
    given = next((row[key] for key in ("id", "unique_id") if row.get(key) not in (None, "")), None)
    return named_question("math", text, gold, split, given, solution=solution)


def read_latex(reply: str) -> str | None:
    """The answer a reply gives, in normal form; None when it gives none.

    The first rule that yields one: the last box, the last explicit statement, a formula or a number at the end. None of them may
    be denied: "$7$, not $5$" is 7, and a last statement that only denies, "The answer is not $5$.", is no answer.
    """
    text = without_wrong(spoken(reply))
    if (held := _json_answer(text)) is not None:
        return normal_form(held) or None
    text = _DENIED.sub(r"\1,", text)  # the word stays, so that a statement which only denies is known
    if (boxed := _boxed(text)) is not None:
        return boxed
    if (cut := [match.end() for match in _BOXED.finditer(text) if match[0].endswith("{")]) and _closed(text, cut[-1]) is None:
        return None  # the reply ends within its answer
    for match in reversed(list(_STATEMENT.finditer(text))[-MAX_TRIED:]):
        clause = _clause(text, match.end())
        if _UNKNOWN.match(clause):
            return None
        if (stated := _stated(clause)) is not None or _DENYING.match(clause):
            return stated or None
    return _last(without_questions(text))


def _json_answer(text: str) -> str | None:
    """What a reply that is a JSON object holds under "answer"; its backslashes are doubled, so that it cannot be read as text."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}") and '"answer"' in text):
        return None
    try:
        held = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    answer = held.get("answer")
    return answer if isinstance(answer, str) and not _UNKNOWN.match(answer) else ""


def _boxed(text: str) -> str | None:
    """The last box that is closed and not empty; boxes that only "and" or a comma joins to it are listed with it."""
    found: list[str] = []
    begin = len(text)
    for match in reversed(list(_BOXED.finditer(text))[-MAX_TRIED:]):
        end = _closed(text, match.end()) if match[0].endswith("{") else match.end() + 1
        if end is None or end > begin:
            continue  # cut off, or the outer of two nested boxes
        if found and not _JOINED.fullmatch(text[end:begin]):
            break
        held = text[match.end() : end].removesuffix("}" if match[0].endswith("{") else "")
        if not (plain := normal_form(held)) or _UNKNOWN.match(held):
            if found:
                break
            continue
        found.insert(0, plain)
        begin = match.start()
    return normal_form(", ".join(found)) or None


def _closed(text: str, start: int) -> int | None:
    """Where the brace that was opened just before a position is closed behind, or None."""
    depth, limit = 1, min(len(text), start + MAX_CLAUSE)
    for at in range(start, limit):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return at + 1
    return None


def _clause(text: str, start: int) -> str:
    while start < len(text) and text[start] in ' \t\r\n*_:`"':
        start += 1
    window = text[start : start + MAX_CLAUSE]
    masked = _FORMULA.sub(lambda match: "x" * len(match[0]), window)
    end = _CLAUSE_END.search(masked)
    return window[: end.start()] if end else window


def _stated(clause: str) -> str | None:
    """What a statement says; None where it holds no answer, "" where it leaves it open ("at least 5")."""
    back = [match.end() for match in CORRECTED.finditer(clause)]
    clause = clause[back[-1] :] if back and re.search(r"[0-9$\\]", clause[back[-1] :]) else clause
    clause = _LONE_DENIAL.sub("", scaled(without_negated(clause))).strip().removeprefix("but ")
    if first := _FORMULA.search(clause):
        parts, end = [_inside(first)], first.end()
        # "$2$, $3$ and $5$" is one answer of three parts.
        while (mark := _LISTED.match(clause, end)) and (more := _FORMULA.match(clause, mark.end())):
            parts, end = [*parts, _inside(more)], more.end()
        return normal_form(", ".join(_right(part) for part in parts)) or None
    plain = _ABOUT.sub("", clause.strip(" *_`\"'."))
    if _BOUND.match(plain):
        return ""
    whole = normal_form(_right(plain)) if len(plain.split()) <= FEW_WORDS else ""
    if whole and not re.search(r"[A-Za-z] [a-z]+ |\A\$\Z", whole):
        return re.sub(r"\A(?:an?|the) ", "", whole)
    head = _ASIDE.split(plain)[0]
    if numbers := _PLAIN_NUMBER.findall(head):
        if is_open(head, sums=False):
            return ""
        return normal_form(numbers[-1] if "=" in head else numbers[0]) or None
    words = re.sub(r"\A(?:an?|the) ", "", head)
    return normal_form(words) or None if 0 < len(words.split()) <= FEW_WORDS // 2 else None


def _last(text: str) -> str | None:
    """What the last formula that holds a value says, or a number in the last sentence; None where that sentence refuses."""
    if refuses(text):
        return None
    text = scaled(text).strip().rstrip(".!")
    if _BARE.fullmatch(text):
        return normal_form(_right(text)) or None
    starts = [match.end() for match in _SENTENCE_END.finditer(text)]
    tail = text[starts[-1] if starts else 0 :]
    formulas = [match for match in list(_FORMULA.finditer(text))[-MAX_TRIED:] if _A_VALUE.search(_inside(match))]
    formulas = [match for match in formulas if not _ROUNDED.search(text, max(0, match.start() - 20), match.start())] or formulas
    loose = list(_PLAIN_NUMBER.finditer(_FORMULA.sub(lambda match: " " * len(match[0]), without_negated(tail))))
    if loose and not (formulas and formulas[-1].start() >= len(text) - len(tail)):
        return normal_form(loose[-1][0]) or None
    if not formulas:
        return None
    return normal_form(_right(_inside(formulas[-1]))) or None


def _inside(match: re.Match[str]) -> str:
    return next(held for held in match.groups() if held is not None)


def _right(formula: str) -> str:
    """What a calculation comes to; an equation in several variables, such as that of a line, is an answer as a whole."""
    sides = [side.strip() for side in re.split(r"(?<![<>!\\])=", exact(formula))]
    if len(sides) == 2 and (_VARIABLE.search(sides[1]) or not value(normal_form(sides[1]))) and _VARIABLE.search(sides[0]):
        return formula if _VARIABLE.search(sides[1]) or len(set(_VARIABLE.findall(sides[0]))) > 1 else sides[1]
    return sides[-1] or formula


def _closings(text: str) -> Iterator[re.Match[str]]:
    for start in _SENTENCE_START.finditer(text, max(0, len(text) - _WINDOW)):
        if match := _CLOSING.match(text, start.end()):
            yield match


def _only_states(match: re.Match[str]) -> bool:
    """Whether a closing sentence is no more than a statement: a formula, or a few words."""
    said = match["said"]
    if said is None:
        box = _BOXED.search(match[0])
        return box is None or not match[0][: box.start()].strip(" *_$\\[(")
    rest = _FORMULA.sub(" x ", said)
    return "=" not in rest and len(rest.split()) <= FEW_WORDS and read_latex(match[0]) is not None

r"""LaTeX answers: their one normal form, the number one is, and how one is taken apart. Pure and total; knows nothing of replies.

    "\left( \dfrac12 ,\ 95,\!040\text{ cm} \right)."  ->  "(\frac{1}{2},95040)"

The normal form has no markup that only looks: no dollar signs, spacing, \left and \right, \text, \displaystyle. It has no unit,
currency, degree or percent sign either, thousands are not grouped, and "2 million" is 2000000. It is LaTeX still, and can be
shown in a box. A unit is a word of `_UNIT` behind a number, or one that can be nothing else: "6xy", "2 ab" and "2 pi" have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from magdi_ray.tasks import answers

MAX_LENGTH = 2000
"""Characters of an answer; what is longer is cut, and the same as nothing but itself."""

ROUNDS = 8
"""Times the rewriting is repeated at most: what one rule uncovers, another one may rewrite."""

_GLYPHS = str.maketrans(
    {"−": "-", "–": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi "}
    | {"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm "}
    | {
        "′": "'",
        "’": "'",
        "″": "''",
        "°": "",
        "∅": r"\emptyset ",
        "²": "^2",
        "³": "^3",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_WORD = r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf)|mbox|hbox|emph)"
_ATOM = r"(?:\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z0-9])"
_AND = r"(?:,\s*)?(?:and|or)"
_SCALES = {"hundred": 2, **answers.SCALES}
_SCALE = rf"(?:{'|'.join(_SCALES)})s?\b"
_OPEN = r"(?:or|and|to|at|up|if|when|where|not|except|than|mod|halves|thirds|quarters|(?:ten|hundred|thousand|million)ths?)\b"
"""What opens words that are no unit: they say more of the value, or another one."""

_UNIT = (
    r"(?:[kcm]m|kg|mg|ml|cl|ft|yds?|mph|kph|lbs?|hrs?|mins?|secs?|sq|inch(?:es)?|(?:square|cubic)|feet|foot|miles?|units?"
    r"|degrees?|percent|dollars?|cents?|minutes?|seconds?|hours?|days?|weeks?|months?|years?)"
)
_NO_UNIT = (
    r"(?:sqrt|sinh?|cosh?|tanh?|sec|csc|cot|log|ln|exp|arc(?:sin|cos|tan)|frac|cdot|times|infty|infinity|gcd|lcm|mod|min|max"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|root|squared|cubed|plus|minus|over|base)"
)
_MORE_WORDS = rf"(?:\s+(?!{_OPEN}|{_NO_UNIT}\b)(?:[A-Za-z]{{2,}}|a\b))*"


def _fraction(match: re.Match[str]) -> str:
    top, bottom = (part[1:-1] if part.startswith("{") else part for part in match.groups())
    return rf"\frac{{{top}}}{{{bottom}}}"


def _scaled(match: re.Match[str]) -> str:
    number = Fraction(match["n"].replace(",", "")) * 10 ** _SCALES[match["scale"].lower()]
    return answers.normal_form(number) + (match["text"] or "")


_SCALED = re.compile(
    rf"(?<![\w.^{{,}}])(?P<n>[0-9]{{1,3}}(?:,[0-9]{{3}})+(?:\.[0-9]+)?|[0-9]{{1,50}}(?:\.[0-9]{{1,50}})?)\s*"
    rf"(?P<text>{_WORD}\s*\{{)?\s*(?P<scale>{'|'.join(_SCALES)})s?\b",
    re.IGNORECASE,
)

_RULES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:([0-9]+|[A-Za-z])|\(([^()]*)\))"), r"\\sqrt{\1\2}"),
    (re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"), r"\1"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|mathstrut)(?![A-Za-z])\.?"), ""),
    # Thousands: "95,\!040", "10{,}000", "1\,000".
    (re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\[,;:!])(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~"), " "),
    (re.compile(r"\\(?:\$|%)|%|[$€£¥₹]"), ""),
    (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*,"), ", "),
    (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])"), ""),
    (re.compile(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?"), lambda match: "'" * match[1].count("p")),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(rf"\\frac\s*(?!\{{[^{{}}]*\}}\{{)({_ATOM})\s*({_ATOM})"), _fraction),
    (re.compile(r"\\sqrt\s*([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:leq|leqslant)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\(begin|end)\s*\{\s*[bB]?(?:small)?matrix\s*\}"), r"\\\1{pmatrix}"),
    (re.compile(rf"{_WORD}\s*\{{\s*{_AND}\s*\}}"), ","),
    (_SCALED, _scaled),
    # A unit, or what is counted, behind something: "4319 \text{ dollars}", "12\text{ cm}^2".
    (
        re.compile(
            rf"(?<=[^\s=,(\[{{<>:])\s*{_WORD}\s*\{{(?!\s*(?:{_OPEN}|{_SCALE}))[^{{}}]*\}}(?:\s*\^\s*\{{?[0-9]\}}?)?\s*(?=[,;)\]]|\Z)"
        ),
        "",
    ),
    (re.compile(rf"{_WORD}\s*\{{([^{{}}]*)\}}"), r" \1 "),
    (
        re.compile(
            rf"\A([-+]?[0-9][0-9.,]*(?:/[0-9]+)?)(?:\s*{_UNIT}\b|\s+(?!{_OPEN}|{_NO_UNIT}\b)(?=[A-Za-z]*[aeiou])[A-Za-z]{{4,}}){_MORE_WORDS}(?:\^[23])?\Z"
        ),
        r"\1",
    ),
    (re.compile(rf"\A((?:[^{{}}]|\{{[^{{}}]*\}})*(?<=[0-9}}]))\s+(?:square |cubic )?{_UNIT}(?:\^[23])?\Z"), r"\1"),
    (re.compile(r"(?<=[0-9])\s+and\s+(?=[0-9]+/[0-9])"), " "),
    (re.compile(r"(?:,\s*|\s)(?:and|or)\s(?!\s*[0-9]+/[0-9])"), ","),
    (re.compile(r"([_^])\s*\{\s*([0-9A-Za-z])\s*\}"), r"\1\2"),
    (re.compile(r"\A\s*\(\s*([A-Za-z])\s*\)\s*\Z"), r"\1"),
    (re.compile(r"\A\\(?:[(\[])|\\(?:[)\]])\Z"), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(\\[A-Za-z]+) (?![A-Za-z])"), r"\1"),
    # A space stays between words, between the numbers of "2 1/2" and where "45, 135" is a list; anywhere else it only looks.
    (re.compile(r"((?<=[A-Za-z]) (?=[A-Za-z])|(?<=[0-9]) (?=[0-9]+/[0-9])|(?<=[0-9],) (?=[0-9]{3}(?![0-9])))| "), r"\1"),
    (re.compile(r"\A[\s.,:;]+(?![0-9])|[\s.,:;]+\Z"), ""),
]
_ROUNDED = re.compile(r"(?:(?<=[0-9})])|(?<=\\pi))\s*(?:\\approx(?![A-Za-z])|≈).*\Z", re.DOTALL)
_ABOUT = re.compile(r"\\approx(?![A-Za-z])|≈")
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(rf"[-+]?{_DECIMAL}(?:[eE][-+]?[0-9]{{1,2}})?")
_VALUE = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>[0-9]+)?"
    rf"(?:\\frac\{{(?P<t>-?{_DECIMAL})\}}\{{(?P<b>-?{_DECIMAL})\}}|(?<=[0-9]) (?P<mt>[0-9]+)/(?P<mb>[0-9]+))"
    rf"|(?P<n>{_DECIMAL})(?:/(?P<d>{_DECIMAL}))?|(?P<i>[0-9]*)\.(?P<f>[0-9]*)\\overline\{{(?P<r>[0-9]+)\}})"
)
_ENDS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


@lru_cache(maxsize=16384)
def normal_form(text: str) -> str:
    """The one spelling of an answer; "" where nothing is left of it."""
    if answers.PLAIN.fullmatch(text):
        return text
    text = text[:MAX_LENGTH].translate(_GLYPHS).strip()
    for _ in range(ROUNDS):
        before = text
        text = exact(text)
        for pattern, by in _RULES:
            text = pattern.sub(by, text)
        if _GROUPED.fullmatch(text):
            text = text.replace(",", "")
        if _PLAIN.fullmatch(text) and len(text) < answers.MAX_DIGITS:
            text = answers.normal_form(Fraction(text))
        if text == before:
            break
    return text


def scaled(text: str) -> str:
    """A text with "2 million" as 2000000."""
    return _SCALED.sub(_scaled, text)


def exact(text: str) -> str:
    r"""What is meant where a value is then rounded: "\sqrt{2} \approx 1.4" is "\sqrt{2}", but "x \approx 1.4" is "x=1.4"."""
    return _ABOUT.sub("=", _ROUNDED.sub("", text)).strip().removeprefix("=")


def value(text: str) -> Fraction | None:
    r"""The number that a normal form is: an integer, decimal ("2.5", "0.\overline{3}"), fraction or mixed number; else None."""
    match = _VALUE.fullmatch(text)
    if match is None or len(text) > answers.MAX_DIGITS:
        return None
    bottom = Fraction(match["b"] or match["mb"] or match["d"] or 1)
    if not bottom:
        return None
    if match["r"]:
        repeated = Fraction(int(match["r"]), 10 ** len(match["r"]) - 1)
        found = int(match["i"] or 0) + (Fraction(int(match["f"] or 0)) + repeated) / 10 ** len(match["f"])
    else:
        found = int(match["whole"] or 0) + Fraction(match["t"] or match["mt"] or match["n"]) / bottom
    return -found if match["sign"] == "-" else found


def split(text: str, *marks: str) -> list[str]:
    """The parts between marks that stand in no bracket, without space around them."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        mark = next((mark for mark in marks if not depth and text.startswith(mark, at)), None)
        if mark:
            parts.append(text[start:at].strip())
            at = start = at + len(mark)
            continue
        at += text[at] == "\\" and text[at + 1 : at + 2] not in ("{", "}")
        depth = max(0, depth + _ENDS.get(text[at : at + 1], 0))
        at += 1
    return [*parts, text[start:].strip()]


def wrapped(text: str) -> bool:
    """Whether the bracket that a text opens with is closed by the one it ends with; any two kinds will do: "[0,1)"."""
    depth = 0
    for at, sign in enumerate(text):
        depth += _ENDS.get(sign, 0)
        if depth <= 0:
            return at == len(text) - 1 and at > 0
    return False


def balanced(text: str) -> bool:
    """Whether every brace is closed, so that a box can hold the text."""
    depth = 0
    for sign in text:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return not depth

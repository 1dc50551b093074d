r"""Numbers in free text: which number a reply gives as its answer, its one normal form, and when two are equal.

Pure and total: nothing here raises on any text, does I/O or knows what was asked.

Which number is the answer, first rule that yields one:

1. the last `\boxed{...}` that holds a number;
2. the last explicit statement: `#### 18`, "the answer is 18", "Answer: 18", a line `A: 18`; a statement that says the answer
   is unknown ends the search with None;
3. the last number of the text, sentences that ask aside; none where the last sentence only refuses ("I don't know").

What a reply thinks between `<think>` and `</think>` is left out where something stands behind it. Within a box or a statement
only what stands behind its last "=" counts, where a number does; negated numbers never do ("not 5 but 7" is 7). Of several
numbers a statement's first is taken; a box with several different ones ("160 to 230", "3d-70") gives no answer at all.

    "... she earns $<<9*2=18>>18 a day.\nThe answer is **$1,200.00** per year."  ->  "1200"

A percentage is the number before its sign: "50%" reads "50" and is not the same as "0.5". Units and currencies are dropped,
"2 million" and "2 \times 10^6" are 2000000.
Normal form: an integer "-5", else a terminating decimal without trailing zeros "18.5", else a reduced fraction "1/3".
Exponents ("10^2", "m²") and digits inside words ("H2O") are no numbers of their own.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 300
"""A longer digit string is noise, not an answer (and int() refuses 4301 digits)."""

MAX_CLAUSE = 400
"""Characters of a box or statement that are read; keeps the reading linear in the text's length."""

MAX_TRIED = 50
"""Boxes and statements looked into, from the end."""

PLAIN = re.compile(r"-?[1-9][0-9]{0,200}|0")
"""A number that is in normal form already, as nearly all are that were read before."""

VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}

SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}

_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?[0-9.,]+)\s*\}\s*\{\s*([0-9.,]+)\s*\}|([0-9])\s*([0-9]))")
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_^])(?<!\^\{)(?<![0-9]\.)"
    r"(?P<sign>(?<![)\]}])-|(?<==\s)-\s)?(?:[$€£¥₹]\s?)?"
    rf"(?P<a>{_UNSIGNED})(?:[eE](?P<e>[+-]?[0-9]{{1,2}})(?!\w)"
    r"|\s?(?:\\times|\\cdot|[x×*·])\s?10\s?\^\s?\{?(?P<p>[+-]?[0-9]{1,2})(?![0-9])\}?"
    r"|\s(?P<scale>thousand|million|billion|trillion)s?\b)?"
    rf"(?:(?:\s+and)?\s+(?P<n>[0-9]+)/(?P<d>[0-9]+)(?![0-9])|\s?/\s?(?P<b>{_UNSIGNED}))?"
    r"(?!\.?[0-9])(?!\s?\^\s?\{?[0-9])"
)
_NEGATED = re.compile(rf"(?:\bnot|n't)\s+(?:\w+\s+)?[-$€£]*(?:{_UNSIGNED})", re.IGNORECASE)
_EQUALS = re.compile(r"=|≈|\bequals\b", re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATEMENT = re.compile(
    r"\#{4}|(?m:^[ \t>*]*A:)|\banswer\b[*_\"' ]*(?:"
    r"(?:(?:to|of|for)\b[^.:=\n]{0,160}?)?\s*(?:\b(?:is|was|equals|would be|should be|must be|will be|comes (?:out )?to)|[=:≈])"
    r"|(?=(?:cannot|can't|can not|could not)\b))",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"[\s*_:\"'{]*(?:unknown|undetermined|indeterminate|unclear|impossible"
    r"|cannot|can't|can not|could not|not (?:known|clear|possible))\b",
    re.IGNORECASE,
)
_SPACED = re.compile(r"[-$€£\s]*[0-9]{1,3}(?: [0-9]{3})+(?![0-9,/])")
_FENCE = re.compile(r"^[ \t]*```\w*[ \t]*$", re.MULTILINE)
_THOUGHT = re.compile(r"<(?P<end>/?)(?:think|thinking|thought)>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:I|we)(?:['’]m| am| are|['’]re)? "
    r"(?:do not|don['’]t|cannot|can['’]t|can not|could not|couldn['’]t|not able|unable|not sure)\b"
    r"|\b(?:unable to|sorry|no idea|(?:cannot|can['’]t|can not|could not) be|not enough information|insufficient information)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=\n)")
_CLAUSE_END = re.compile(r"[.!?](?=\s|$)|[.!?](?=[*_\"')}$\\]+(?:\s|$))|\n")


def read_number(text: str) -> str | None:
    """The answer a text gives, in normal form; None when it gives none."""
    if PLAIN.fullmatch(text):
        return text
    text = clean(spoken(text))
    for match in reversed(list(_BOXED.finditer(text))[-MAX_TRIED:]):
        if held := set(_result(_box(text, match.end()))):
            return normal_form(held.pop()) if len(held) == 1 else None
    for match in reversed(list(_STATEMENT.finditer(text, _first_statement(text)))[-MAX_TRIED:]):
        clause = _clause(text, match.end())
        if _UNKNOWN.match(clause):
            return None
        if stated := _result(clause):
            return normal_form(stated[0])
    if refuses(text):
        return None
    values = numbers(without_negated(without_questions(text)))
    return normal_form(values[-1]) if values else None


def spoken(text: str) -> str:
    """What a reply says behind its thoughts in `<think>` tags, without the fences of code blocks.

    A thought that is cut off says nothing; one that is closed and all there is says what it says.
    """
    if "```" in text:
        text = _FENCE.sub("", text)
    if "<" not in text:
        return text
    tags = list(_THOUGHT.finditer(text))
    end = next((tag.end() for tag in reversed(tags) if tag["end"]), 0)
    if end and not text[end:].strip():
        return _THOUGHT.sub(" ", text)
    begin = next((tag.start() for tag in tags if tag.start() >= end), len(text))
    return text[end:begin]


def refuses(text: str) -> bool:
    """Whether a text ends in a sentence without a digit that says no answer is known."""
    last = next((part for part in reversed(_SENTENCE_END.split(text)) if part.strip()), "")
    return _REFUSAL.search(last) is not None and not re.search("[0-9]", last)


def without_questions(text: str) -> str:
    """A text without its sentences that end in a question mark."""
    if "?" not in text:
        return text
    return " ".join(part for part in _SENTENCE_END.split(text) if not part.rstrip(" *_\"')").endswith("?"))


def without_negated(text: str) -> str:
    """A text without the numbers it denies: "not 5 but 7" is "but 7"."""
    return _NEGATED.sub(" ", text)


def same_number(left: str | None, right: str | None) -> bool:
    """Whether two answers are exactly the same number: "18" and "18.00", "1/2" and "0.5". None, or no number: False."""
    if left is None or right is None:
        return False
    first, second = read_number(left), read_number(right)
    return first is not None and first == second


def normal_form(value: Fraction) -> str:
    """The one spelling of a number: "-5", "18.5" or "1/3"."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    for factor in (2, 5):
        power = 0
        while rest % factor == 0:
            rest, power = rest // factor, power + 1
        places = max(places, power)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def numbers(text: str) -> list[Fraction]:
    """Every number of a cleaned text, in order."""
    found = []
    for match in _NUMBER.finditer(text):
        if (value := _value(match)) is not None:
            found.append(value)
    return found


def clean(text: str) -> str:
    r"""One spelling for what has many: minus signs, `\$`, `1{,}200`, `1\,200`, `\frac{1}{2}`, `\text{}`, "½", "١٨"."""
    if not text.isascii():
        text = text.translate({0x2212: "-", 0xFE63: "-", 0xFF0D: "-", 0x2044: "/"})
        for glyph, plain in VULGAR.items():
            if glyph in text:
                text = re.sub(rf"(?<=[0-9]){glyph}", f" {plain}", text).replace(glyph, plain)
        text = "".join(str(unicodedata.decimal(sign, sign)) for sign in text)
    text = text.replace("{,}", ",")
    if text.isascii() and "\\" not in text:
        return text  # all that follows looks for a backslash or a space of Unicode's
    text = text.replace("\\$", "$").replace("\\%", "%")
    text = re.sub(r"(?<=[0-9])(?:\\[,!;]|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ",", text)
    text = re.sub(r"(?<=,)\\!(?=[0-9]{3})", "", text)
    text = _LATEX_FRACTION.sub(_plain_fraction, text)
    return re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}", r" \1 ", text)


def _plain_fraction(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[3], match[2] or match[4]
    glued = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if glued else ''}{top}/{bottom}"


def _box(text: str, start: int) -> str:
    depth, end, limit = 1, start, min(len(text), start + MAX_CLAUSE)
    while end < limit and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start : end - (depth == 0)]


def _first_statement(text: str) -> int:
    """Where the search for statements may begin: most of a reply is reasoning, through which it would go letter by letter."""
    if not text.isascii():
        return 0  # beyond ASCII, letters such as "ſ" count as others
    lower = text.lower()
    line = lower.rfind("\n", 0, lower.find("a:") + 1) + 1 if "a:" in lower else -1
    return min((at for at in (text.find("####"), lower.find("answer"), line) if at >= 0), default=len(text))


def _clause(text: str, start: int) -> str:
    while start < len(text) and text[start] in " \t\r\n*_:`\\[(":
        start += 1
    end = _CLAUSE_END.search(text, start, start + MAX_CLAUSE)
    return text[start : end.start() if end else start + MAX_CLAUSE]


def _result(clause: str) -> list[Fraction]:
    if spaced := _SPACED.match(clause):  # "1 200" is one number where nothing but the answer is said
        clause = spaced[0].replace(" ", "") + clause[spaced.end() :]
    clause = without_negated(clause)
    return numbers(_EQUALS.split(clause)[-1]) or numbers(clause)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MAX_DIGITS:
        return None
    power = int(match["e"] or match["p"] or SCALES.get((match["scale"] or "").lower(), 0))
    value = Fraction(match["a"].replace(",", "")) * Fraction(10) ** power
    if match["b"]:
        divisor = Fraction(match["b"].replace(",", ""))
        if not divisor:
            return None
        value /= divisor
    elif match["d"]:
        top, bottom = int(match["n"]), int(match["d"])
        if not bottom:
            return None
        value = Fraction(top, bottom) + (value if top < bottom else 0)
    return -value if match["sign"] else value

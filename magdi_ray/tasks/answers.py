r"""Numbers in free text: which number a reply gives as its answer, its one normal form, and when two are equal.

Pure and total: nothing here raises on any text, does I/O or knows what was asked.

Which number is the answer, first rule that yields one:

1. the last `\boxed{...}` that holds a number;
2. the last explicit statement: `#### 18`, "the answer is 18", "Answer: 18", a line `A: 18`; a statement that says the answer
   is unknown ends the search with None;
3. the last number of the text, sentences that ask aside; none where the last sentence only refuses ("I don't know").

What a reply thinks between `<think>` and `</think>` is left out where something stands behind it. Within a box or a statement
only what stands behind its last "=" counts, where a number does; negated numbers never do ("not 5 but 7" is 7), nor does what
"the wrong answer" is. Of several numbers a statement's first is taken; a box with several different ones ("160 to 230", "3d-70")
gives no answer at all. Neither does a box or statement that is open ("5 or 6", "between 10 and 20", "at least 5") or not worked
out ("20 - 2", "2\sqrt{3}", "$5!$"); "5 dollars or 500 cents" and "1/2 or 0.5" say one thing twice.

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

MAX_TEXT = 200_000
"""Characters at the end of a reply, thoughts aside, that are read."""

MAX_RUN = 60
"""Signs in a row that are neither letters nor digits, of which more say nothing: a longer run is read as its two ends, lest an
expression that skips them (white space, stars, brackets) tries every way to share thousands of them out."""

MAX_CLAUSE = 400
"""Characters of a box or statement that are read; keeps the reading linear in the text's length."""

MAX_TRIED = 50
"""Boxes and statements looked into, from the end."""

FEW_WORDS = 6
"""A reply of no more words that opens with a number or its bound is a statement: "5 or 6", "at least 5"."""

PLAIN = re.compile(r"-?[1-9][0-9]{0,200}|0")
"""A number that is in normal form already, as nearly all are that were read before."""

VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}

SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}

CORRECTED = re.compile(
    r"\b(?:no,?\s+wait|wait|hold on|actually|scratch that|correction|I mean|make that|oops|on second thoughts?)\b"
    r"|[,;]\s*(?:sorry|no),",
    re.IGNORECASE,
)
"""What takes back a choice or number within a statement, for the one behind it: "5, no wait, 6"."""

RETRACTED = re.compile(
    r"[\s.!?*_)\"'…]*(?:no,?\s+wait|scratch that|correction\b|oops|on second thoughts?"
    r"|(?:wait|hold on|actually|no|sorry)\s?[,:–—-])",
    re.IGNORECASE,
)
"""What opens a sentence that takes back the statement before it: "No wait, ..."."""

CONDITIONAL = re.compile(r"\b(?:if|unless|otherwise|depend(?:s|ing))\b", re.IGNORECASE)

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
_NEGATED = re.compile(
    rf"(?:(?:\bnot|n['’]t)\s+(?:\w+\s+)?|\b(?:anything (?:but|except)|other than|except(?: for)?)\s+)[-$€£]*(?:{_UNSIGNED})",
    re.IGNORECASE,
)
_DENYING = re.compile(r"[\s*_$\\({\"']*(?:not\b|anything (?:but|except)\b|other than\b|except\b)", re.IGNORECASE)
_WRONG = re.compile(
    r"\b(?:wrong|incorrect|false|worst|(?:least|less) \w+|unlikely|implausible)\s+(?:answer|option|choice|result|number|one)s?\b"
    r"[*_ ]*(?:\b(?:is|are|was|were|would be)\b|[:=])(?:(?!\b(?:but|while|whereas|and|so)\b)(?:[^.,;!?\n]|[.,](?=[0-9]))){0,200}",
    re.IGNORECASE,
)
_BOUNDED = re.compile(
    r"(?:\b(?:at (?:least|most)|(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|between|either|up to|(?:minimum|maximum) of)"
    r"|[<>≤≥√]|\\(?:le|ge|leq|geq|lt|gt|sqrt\s*\{)|\bsqrt\s*[({]|(?<![A-Za-z0-9])[a-z]\s*[-+/])[\s$€£(]*\Z",
    re.IGNORECASE,
)
_CALCULATED = re.compile(
    r"\s*(?:!|√|π|\^|\\(?:sqrt|pi)(?![A-Za-z])|(?:dollars?|cents?|%|[a-z])?\s*(?:[-+*×·÷–]|\\(?:times|cdot|div)(?![A-Za-z])|x(?=\s?[$0-9]))"
    rf"\s*[$€£(]*-?(?:{_UNSIGNED})|\+(?=[\s.,;$}}]|\Z)|(?:\s[a-z]+)?\s[+*×÷]\s[$€£]?[0-9])",
    re.IGNORECASE,
)
_BARE = re.compile(r"\W*(?:(?:either|between|at (?:least|most)|(?:more|less|fewer) than|up to)\W+)?[0-9]", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?![0-9])")
_MORE = re.compile(
    r"[*_$%\s]*(?:[a-z]+\s+){0,2}?or\s+(?:more|less|fewer|higher|lower|greater|larger|smaller|above|below)\b", re.IGNORECASE
)
_OTHER = re.compile(
    rf"(?P<percent>%?)[*_$\s]*(?P<unit>(?:[a-z]+\s+){{0,2}}?)(?:or|to)\s+(?:else\s+|even\s+|maybe\s+)?(?P<value>[*_$€£]*-?(?:{_UNSIGNED})(?:/[0-9]+)?)"
    r"(?P<also>%?)[*_$]*(?P<other>(?:\s[a-z]+)?)",
    re.IGNORECASE,
)
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
_LONG_RUN = re.compile(rf"[\W_]{{{MAX_RUN},}}+")
_THOUGHT = re.compile(r"<(?P<end>/?)(?:think|thinking|thought)>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:I|we)(?:['’]m| am| are|['’]re)? "
    r"(?:do not|don['’]t|cannot|can['’]t|can not|could not|couldn['’]t|not able|unable|not sure)\b"
    r"|\b(?:unable to|sorry|no idea|(?:cannot|can['’]t|can not|could not) be|not enough information|insufficient information)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=\n)")
_CLAUSE_END = re.compile(
    r"[.?](?=[*_\"')}$\\]*(?:\s|$))|\n"
    # "13!" is an exclamation, "5! = 120", "5! ways", "5!." and "$5!$" are factorials.
    r"|!(?!(?<=[0-9]!)\s*(?:[=≈^]|[-*/+×·÷]\s?[0-9(]|(?<=\s)[a-z]))(?=[*_\"']*(?:\s|$))|(?<![0-9])!(?=[*_\"')}$\\]+(?:\s|$))"
)


def read_number(text: str) -> str | None:
    """The answer a text gives, in normal form; None when it gives none."""
    if PLAIN.fullmatch(text):
        return text
    text = without_wrong(clean(spoken(text)))
    decided, answer = _decided(text)
    if decided:
        return answer
    if refuses(text) or (len(text.split()) <= FEW_WORDS and _BARE.match(text) and is_open(text, sums=False)):
        return None
    values = numbers(without_negated(without_questions(text)))
    return normal_form(values[-1]) if values else None


def _decided(text: str) -> tuple[bool, str | None]:
    """Whether the last box or statement that says anything decides the answer, and how."""
    for match in reversed(list(_BOXED.finditer(text))[-MAX_TRIED:]):
        box = box_at(text, match.end())
        if held := set(_result(box)):
            return True, normal_form(held.pop()) if len(held) == 1 and not is_open(box) else None
    for match in reversed(list(_STATEMENT.finditer(text, _first_statement(text)))[-MAX_TRIED:]):
        clause = _corrected(clause_at(text, match.end()))
        stated = _result(clause)
        unknown = _UNKNOWN.match(clause) or is_open(clause)
        if stated or unknown or (re.search(r"[0-9]", clause) and (_DENYING.match(clause) or "^" in clause)):
            return True, normal_form(stated[0]) if stated and not unknown else None
    return False, None


def spoken(text: str) -> str:
    """What a reply says behind its thoughts in `<think>` tags, without the fences of code blocks.

    A thought that is cut off says nothing; one that is closed and all there is says what it says. Of what is said the last
    `MAX_TEXT` characters count, with long runs of signs shortened (`MAX_RUN`).
    """
    if "```" in text:
        text = _FENCE.sub("", text)
    return _LONG_RUN.sub(lambda run: run[0][: MAX_RUN // 2] + run[0][-MAX_RUN // 2 :], _without_thoughts(text)[-MAX_TEXT:])


def _without_thoughts(text: str) -> str:
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


def without_wrong(text: str) -> str:
    """A text without what it says that a wrong answer is: "the least likely answer is 5, but ..."."""
    return _WRONG.sub(" ", text)


def is_open(clause: str, *, sums: bool = True) -> bool:
    """Whether the number that a cleaned box or statement gives is one of several, a bound, or part of a sum not worked out.

    Without `sums` what is not worked out does not count as open.
    """
    clause = without_negated(clause)
    parts = _EQUALS.split(clause)
    said = parts[-1] if numbers(parts[-1]) else clause
    match = next((match for match in _NUMBER.finditer(said) if _value(match) is not None), None)
    if match is None or _SPACED.match(said) or _DATE.match(said, match.start()):
        return False
    before, behind = said[: match.start()], said[match.end() :]
    if _BOUNDED.search(before) or (sums and _CALCULATED.match(behind)) or _MORE.match(behind):
        return True
    other = _OTHER.match(behind)
    return other is not None and not _says_again(match, other)


def _says_again(match: re.Match[str], other: re.Match[str]) -> bool:
    """Whether "or" repeats a number, as in "1/2 or 0.5", "0.5 or 50%" and "5 dollars or 500 cents"."""
    first, second = _value(match), numbers(other["value"])
    units = [other[name].strip().lower().rstrip("s") for name in ("unit", "other")]
    if all(units) and units[0] != units[1]:
        return True
    return bool(second) and first in (
        second[-1],
        second[-1] / 100 if other["also"] else second[-1] * 100 if other["percent"] else None,
    )


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


def box_at(text: str, start: int) -> str:
    """What a box holds that is opened just before a position."""
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


def clause_at(text: str, start: int, skipped: str = " \t\r\n*_:`\\[(", ends: re.Pattern[str] = _CLAUSE_END) -> str:
    """What a statement says from a position on, up to the end of its sentence."""
    while start < len(text) and text[start] in skipped:
        start += 1
    end = ends.search(text, start, start + MAX_CLAUSE)
    return text[start : end.start() if end else start + MAX_CLAUSE]


def _corrected(clause: str) -> str:
    """What stands behind the last correction of a statement ("5, no wait, 6"), where that holds a number."""
    back = [match.end() for match in CORRECTED.finditer(clause)]
    return clause[back[-1] :] if back and numbers(clause[back[-1] :]) else clause


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

r"""When two LaTeX answers are the same: what is plain to see is decided here, the rest by computer algebra, piece by piece.

    "(1,2)"  is not  "(2,1)", "[1,2]" or "1,2"         "x=5" is "5"          "1\pm\sqrt{2}"  is  "1-\sqrt{2}, 1+\sqrt{2}"

Equal normal forms are the same, and numbers are by their exact values: one third is not 0.33. Tuples and intervals have order and
brackets, lists and sets neither. The relation is symmetric; it holds of nothing where an expression is beyond the algebra's time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from magdi_ray.tasks.latex import normal_form, split, value, wrapped
from magdi_ray.tasks.latex_process import this_process

MAX_ALGEBRA = 400
"""Characters of an expression that is given to the algebra; longer ones are equal in normal form only."""

MAX_PARTS = 50
"""Parts of a list that is taken apart."""

Algebra = Callable[[str, str], bool | None]
"""Whether two expressions are equivalent; None where that took too long or broke the child."""

_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_BASE = re.compile(r"(-?[0-9A-F]+)_(?:\{?([0-9]+)\}?)")
_DIGITS = re.compile(r"-?[0-9A-F]*[0-9][0-9A-F]*")
_WORDS = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{4,}|(?<![\\A-Za-z])[A-Za-z]{2,} [A-Za-z]{2,}|\A(?:yes|no|odd|even|true|none)\Z", re.IGNORECASE
)
_NAME = re.compile(r"(?:\\?[A-Za-z]+(?:_(?:[0-9A-Za-z]|\{[^{}]*\}))?'?|[A-Za-z]+ ?(?:\([^()=]*\))|[A-Za-z ]{2,}|\\[a-z]+ [A-Z]+)")
_RELATION = re.compile(r"[<>=]|\\(?:le|ge|ne|in|lt|gt)(?![A-Za-z])")
_MEMBER = re.compile(r"[A-Za-z]\\in(?![A-Za-z])\s*(?=[\[(\\])")


class _Undecided(Exception):
    """The algebra gave up on a part: no further part is worth its time."""


def equivalent(left: str, right: str) -> bool:
    """Whether two answers are the same; remembered by pair.

    Raises:
        ConfigError: it takes computer algebra, and the package math-verify is missing.
    """
    first, second = sorted((normal_form(left), normal_form(right)))
    return bool(first) and (first == second or _remembered(first, second))


@lru_cache(maxsize=65536)
def _remembered(left: str, right: str) -> bool:
    return decide(left, right, this_process().equivalent)


def decide(left: str, right: str, algebra: Algebra) -> bool:
    """Whether two normal forms are the same, by an algebra of the caller's."""
    try:
        return _same(left, right, algebra)
    except (_Undecided, RecursionError):
        return False


def _same(left: str, right: str, algebra: Algebra) -> bool:
    if left == right:
        return bool(left)
    numbers = value(left), value(right)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _BASE.fullmatch(left) or _BASE.fullmatch(right):
        return _same_in_base(left, right)
    return _same_parts(left, right, algebra)


def _same_parts(left: str, right: str, algebra: Algebra) -> bool:
    (kind, parts), (other, others) = _parts(_MEMBER.sub("", left)), _parts(_MEMBER.sub("", right))
    kinds = {kind, other}
    if kinds == {"one"}:
        return _same_expression(parts[0], others[0], algebra)
    if kinds <= {"set", "one"} or (kinds == {"union"} and len(parts) == len(others)):
        return _same_set(parts, others, algebra)
    if kind == other and kind != "union":
        return len(parts) == len(others) and all(_same(a, b, algebra) for a, b in zip(parts, others, strict=True))
    # A condition may be the same as a set that is written in another way, "x \le 3" and "(-\infty,3]", and so may two unions.
    condition = (kind == "one" and _RELATION.search(left)) or (other == "one" and _RELATION.search(right))
    return bool(condition or kinds == {"union"}) and _by_algebra(left, right, algebra)


def _parts(text: str) -> tuple[str, list[str]]:
    r"""What an answer is, and of what: a "set" (a list, braces, \pm), a "union", a "matrix 2x3", "()" or "[)", or "one" thing."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [split(row, "&") for row in split(matrix[1], r"\\") if row]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if text.startswith(r"\{") and text.endswith(r"\}") and wrapped(text[1:-2] + "}"):
        return "set", _each(split(text[2:-2], ",", ";"))
    if len(listed := split(text, ";" if ";" in text else ",")) > 1:
        return "set", _each(listed)
    if len(joined := split(text, r"\cup")) > 1:
        return "union", joined
    if text[:1] in ("(", "[") and wrapped(text):
        inner = split(text[1:-1], ",")
        return (text[0] + text[-1], inner) if len(inner) > 1 else _parts(inner[0])
    return ("set", _each([text])) if r"\pm" in text else ("one", [text])


def _each(parts: list[str]) -> list[str]:
    both: list[str] = []
    for part in parts:
        plus, minus = (re.sub(r"\\pm\s*", sign, part).removeprefix("+") for sign in "+-")
        both += [plus, minus] if plus != minus else [part]
    return both


def _same_set(left: list[str], right: list[str], algebra: Algebra) -> bool:
    if len(left) != len(right) or len(left) > MAX_PARTS:
        return False
    rest = list(right)
    for part in left:
        found = part if part in rest else next((other for other in rest if _same(part, other, algebra)), None)
        if found is None:
            return False
        rest.remove(found)
    return True


def _same_in_base(left: str, right: str) -> bool:
    """Digits decide; a base that only one side names is the question's."""
    first, second = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if first and second:
        return first.groups() == second.groups()
    based, plain = (first, right) if first else (second, left)
    return based is not None and _DIGITS.fullmatch(plain) is not None and based[1] == plain


def _same_expression(left: str, right: str, algebra: Algebra) -> bool:
    sides, others = split(left, "="), split(right, "=")
    if len(sides) == len(others) == 1:
        if _WORDS.search(left) or _WORDS.search(right):
            return left.casefold() == right.casefold()
        return _by_algebra(left, right, algebra)
    if len(sides) == 1 or len(others) == 1 or sides[0] == others[0]:
        first, second = result(sides), result(others)
        return first is not None and second is not None and _same(first, second, algebra)
    return _by_algebra(left, right, algebra)


def result(sides: list[str]) -> str | None:
    """What an equation says that something is: the right of "x=5", "f(3)=5", "2+3=5", "x+y=5", "a+b=2+3=5"; None for "x+y=0"."""
    first, last = sides[0], sides[-1]
    if _NAME.fullmatch(last) and not _NAME.fullmatch(first):
        return first
    stated = len(sides) != 2 or _NAME.fullmatch(first) or not re.search("[A-Za-z]", first) or value(last)
    return last if stated else None


def _by_algebra(left: str, right: str, algebra: Algebra) -> bool:
    if not left or not right or max(len(left), len(right)) > MAX_ALGEBRA:
        return False
    verdict = algebra(left, right)
    if verdict is None:
        raise _Undecided
    return verdict

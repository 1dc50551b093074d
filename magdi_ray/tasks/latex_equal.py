r"""When two LaTeX answers are the same: what is plain to see is decided here, the rest by computer algebra, piece by piece.

    "(1,2)"  is not  "(2,1)", "[1,2]" or "1,2"         "x=5" is "5"          "1\pm\sqrt{2}"  is  "1-\sqrt{2}, 1+\sqrt{2}"

Equal normal forms are the same, and numbers are by their exact values: one third is not 0.33. Tuples and intervals have order and
brackets, lists and sets neither. The relation is symmetric; it holds of nothing where an expression is beyond the algebra's time.

An equation is the same as a bare value where it says what something is: its one side is a name ("x", "AB", "\angle A"), a name
applied ("f(3)", "f'(x)"), or a calculation without a variable ("2+3"). "x^2+y^2=4" and "x+y=5" are equations and not 4 and 5. Two
equations that say what different names are differ: "x=5" and "y=5", "f(2)=9" and "f(3)=9". So do lists of them, in their order:
"x=1, y=2" is "1, 2" and not "2, 1". An inequality is the same as its interval, but for one in "y", which may bound a half plane.
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
_SUBSCRIPT = r"(?:_(?:[0-9A-Za-z]|\{[^{}]*\}))?"
_POINTS = (
    r"(?:[A-Z]{1,4}(?![A-Za-z])"
    r"|\\(?:overline|overrightarrow|vec|widehat)\{[A-Za-z]+\}|\\(?:angle|triangle|measuredangle) ?[A-Z]+)"
)
_SIMPLE = r"(?:-?[0-9A-Z./]+|-?\\[a-z]+(?:\{[^{}]*\})*|[A-Za-z])"
_FUNCTION = r"(?:gcd|lcm|max|min|deg|det|\\(?:gcd|max|min|det|deg|phi|tau|sigma)|[A-Za-z])"
_NAME = re.compile(
    rf"\\(?!(?:pi|infty)(?![A-Za-z]))[A-Za-z]+{_SUBSCRIPT}|[A-Za-z]{_SUBSCRIPT}'*"
    rf"|m?{_POINTS}|\|{_POINTS}\||\[[A-Z]+\]|\\(?:sin|cos|tan|cot|sec|csc) ?(?:[A-Z]|\\angle ?[A-Z]+)"
    rf"|{_FUNCTION}{_SUBSCRIPT}(?:'*|\^\{{-1\}}|\^\{{\([0-9n]\)\}})\(\|?{_SIMPLE}\|?(?:,{_SIMPLE})*\)"
    r"|[fghpqFGHPQR]'*\([^()=]*\)|P\([^()=]*\)"
    r"|(?=.*[A-Za-z]{4}|[A-Za-z]+ )[A-Za-z]+(?: [A-Za-z]+)*"
)
"""What an answer may be said to be: "x_1", "AB", "\angle A", "f'(x)", "gcd(4,6)", "area of ABC".
"xy" and "x(y+1)" are products."""

_COMMANDS = re.compile(
    r"\\(?:frac|sqrt|cdot|times|div|pi|binom|sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan|circ|infty|overline|pmod|mod)"
    r"(?![A-Za-z])"
)
_VARIABLE = re.compile(r"\\[A-Za-z]+|[A-Za-df-hj-z]")
_MONOMIAL = re.compile(r"(-?[0-9]*)([A-Za-z]*)")
"""A product of letters, or a whole number: decided here, as the algebra's parser takes some letters for units."""
_PRIME = re.compile(r"'|\\prime")
_RELATION = re.compile(r"[<>=]|\\(?:le|ge|ne|in|lt|gt)(?![A-Za-z])")
_COMPARISON = re.compile(r"\\(?:le|ge|ne|in|lt|gt|infty|frac|sqrt|pi|cup|cap)(?![A-Za-z])")
_MEMBER = re.compile(r"(?P<name>[A-Za-z])\\in(?![A-Za-z])\s*(?=[\[(\\])")


class _Undecided(Exception):
    """The algebra gave up on a part: no further part is worth its time."""


def equivalent(left: str, right: str) -> bool:
    """Whether two answers are the same; remembered by pair, but for pairs that the algebra gave up.

    Raises:
        ConfigError: it takes computer algebra, and the package math-verify is missing.
    """
    first, second = sorted((normal_form(left), normal_form(right)))
    try:
        return bool(first) and (first == second or _remembered(first, second))
    except (_Undecided, RecursionError):
        return False  # not remembered: it may have been the machine that was slow


@lru_cache(maxsize=65536)
def _remembered(left: str, right: str) -> bool:
    return _same(left, right, this_process().equivalent)


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
    (name, left_set), (other_name, right_set) = _member(left), _member(right)
    if name and other_name and name != other_name:
        return False
    (kind, parts), (other, others) = _parts(left_set), _parts(right_set)
    kinds = {kind, other}
    if kinds == {"one"}:
        return _same_expression(parts[0], others[0], algebra)
    if kinds <= {"set", "one"} or (kinds == {"union"} and len(parts) == len(others)):
        ordered = len(parts) == len(others) and _named_apart(parts) != _named_apart(others)
        return _same_tuple(parts, others, algebra) if ordered else _same_set(parts, others, algebra)
    if kind == other and kind != "union":
        return _same_tuple(parts, others, algebra)
    # A condition may be the same as a set that is written in another way, "x \le 3" and "(-\infty,3]", and so may two unions.
    condition = left if kind == "one" else right if other == "one" else ""
    if condition:
        return bool(_RELATION.search(condition)) and _variables(condition) != {"y"} and _by_algebra(left, right, algebra)
    return kinds == {"union"} and _by_algebra(left_set, right_set, algebra)


def _member(text: str) -> tuple[str, str]:
    r"""The name and the set of "x\in(0,1)"; no name where an answer is anything else."""
    match = _MEMBER.match(text)
    return (match["name"], text[match.end() :]) if match and len(split(text, ",", ";")) == 1 else ("", text)


def _named_apart(parts: list[str]) -> bool:
    """Whether a list says of different names what they are: then its order counts beside one that names none."""
    names = [_member(part)[0] or (subject(split(part, "=")) or ("",))[0] for part in parts]
    return all(names) and len(set(names)) > 1


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


def _same_tuple(left: list[str], right: list[str], algebra: Algebra) -> bool:
    return len(left) == len(right) and all(_same(a, b, algebra) for a, b in zip(left, right, strict=True))


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


def _same_term(left: str, right: str, algebra: Algebra) -> bool:
    if _WORDS.search(left) or _WORDS.search(right):
        return left.casefold() == right.casefold()
    if (product := _MONOMIAL.fullmatch(left)) and (other := _MONOMIAL.fullmatch(right)):
        return (product[1], sorted(product[2])) == (other[1], sorted(other[2]))
    relations = _RELATION.search(left), _RELATION.search(right)
    apart = bool(relations[0] and relations[1]) and _variables(left) != _variables(right)
    return not apart and _by_algebra(left, right, algebra)


def _same_expression(left: str, right: str, algebra: Algebra) -> bool:
    sides, others = split(left, "="), split(right, "=")
    if len(sides) == len(others) == 1:
        return _same_term(left, right, algebra)
    said, also = subject(sides), subject(others)
    if said and also:
        (name, first), (other, second) = said, also
        if not name or not other or name == other:
            return _same(first, second, algebra)
        turned = name in _VARIABLE.findall(second) and other in _VARIABLE.findall(first)  # "y=2x" and "x=y/2"
        return turned and _by_algebra(left, right, algebra)
    if len(sides) == 1 or len(others) == 1:
        return False
    return _same(sides[-1], others[-1], algebra) if sides[:-1] == others[:-1] else _by_algebra(left, right, algebra)


def subject(sides: list[str]) -> tuple[str, str] | None:
    """What an answer is about, and what it says that this is: ("x", "5") of "x=5", "5=x" and "x=2+3=5", ("f(3)", "9").

    The name is "" of a bare value and of a calculation, "2+3=5". None for an equation that says of nothing what it is, "x+y=5".
    """
    first, last = sides[0], sides[-1]
    if len(sides) == 1:
        return None if _RELATION.search(first) else ("", first)
    if _NAME.fullmatch(first):
        return first, last
    if _NAME.fullmatch(last):
        return last, first
    return ("", last) if not _variables(first) else None


def _variables(text: str) -> set[str]:
    return set(_VARIABLE.findall(_COMPARISON.sub(" ", _COMMANDS.sub(" ", text))))


def _by_algebra(left: str, right: str, algebra: Algebra) -> bool:
    # A prime is read over there: f' would be f, and y'' would be y.
    if not left or not right or max(len(left), len(right)) > MAX_ALGEBRA or _PRIME.search(left + right):
        return False
    verdict = algebra(left, right)
    if verdict is None:
        raise _Undecided
    return verdict

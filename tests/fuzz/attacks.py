r"""Texts that make a regular expression go back as often as it can, made from the expression itself.

Whoever writes a reply knows nothing of our expressions, but a hostile one may read them. Of each repetition within an expression
one text is made of what leads there, the repeated part many times over, and something that cannot follow: `\s*=?\s*[0-9]` gives
a thousand spaces and a letter. What takes time out of proportion to such a text is found by reading it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

MANY = 4
"""A repetition that may come more often than this can be pumped."""
NOTHING_FOLLOWS = ("", "\x00", "!", "x", "\n", '"', "}")
SIGNS = " \t\n0aA\"'*$([{\\-.,:=!é"
"""Tried for a sign that may be any of a class."""
CATEGORIES = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a"}
OTHERS = {"CATEGORY_NOT_SPACE": "a", "CATEGORY_NOT_DIGIT": "a", "CATEGORY_NOT_WORD": "."}


def attacks(pattern: re.Pattern[str], *, length: int, seed: int = 0) -> Iterator[str]:
    """Texts of about `length` characters, several for every repetition of an expression and for every way to it."""
    parser: Any = re._parser  # type: ignore[attr-defined]  # the standard library's own, the only reader of its expressions
    draw = random.Random(seed)
    tree = list(parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG))
    found: dict[tuple[str, str], None] = {}
    for _ in range(3):
        for lead, pumped in _pumps(tree, "", draw):
            found[lead, pumped] = None
    for lead, pumped in found:
        if not pumped:
            continue
        times = max(2, (length - len(lead)) // len(pumped))
        for end in NOTHING_FOLLOWS:
            yield lead + pumped * times + end
        if lead:
            yield (lead + pumped) * (length // (len(lead) + len(pumped)))
            yield lead * (length // len(lead))


def _pumps(tree: list[Any], lead: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """What leads to each repetition, and what is repeated there."""
    for operation, argument in tree:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, items = argument
            yield from _pumps(list(items), lead, draw)
            if most > MANY:
                for _ in range(6):
                    yield lead, _sample(list(items), draw)
        elif name == "SUBPATTERN":
            yield from _pumps(list(argument[-1]), lead, draw)
        elif name == "BRANCH":
            for branch in argument[1]:
                yield from _pumps(list(branch), lead, draw)
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from _pumps(list(argument[1]), lead, draw)
        elif name == "ATOMIC_GROUP":
            yield from _pumps(list(argument), lead, draw)
        lead += _sample([(operation, argument)], draw)


def _sample(tree: list[Any], draw: random.Random) -> str:
    """A text that most likely matches."""
    return "".join(_one(str(operation), argument, draw) for operation, argument in tree)


def _one(name: str, argument: Any, draw: random.Random) -> str:  # noqa: PLR0911 - one a kind of node
    match name:
        case "LITERAL":
            return chr(argument)
        case "NOT_LITERAL":
            return draw.choice([sign for sign in SIGNS if sign != chr(argument)])
        case "ANY":
            return draw.choice(SIGNS)
        case "IN":
            return _of_class(argument, draw)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, items = argument
            return "".join(_sample(list(items), draw) for _ in range(draw.randint(least, max(least, min(most, least + 2)))))
        case "SUBPATTERN":
            return _sample(list(argument[-1]), draw)
        case "ATOMIC_GROUP":
            return _sample(list(argument), draw)
        case "BRANCH":
            return _sample(list(draw.choice(argument[1])), draw)
    return ""  # what stands for a place and not for a sign


def _of_class(items: list[Any], draw: random.Random) -> str:
    held = "".join(filter(None, (_member(str(name), value, draw) for name, value in items)))
    if str(items[0][0]) == "NEGATE":
        return draw.choice([sign for sign in SIGNS if sign not in held] or ["~"])
    return draw.choice(held) if held else "~"


def _member(name: str, value: Any, draw: random.Random) -> str:
    if name == "LITERAL":
        return chr(value)
    if name == "RANGE":
        return chr(value[0]) + chr(draw.randint(*value))
    return {**CATEGORIES, **OTHERS}.get(str(value), "") if name == "CATEGORY" else ""

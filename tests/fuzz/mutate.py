"""From a real sample to something nobody would send: bytes changed, texts pumped up, JSON with the wrong things in it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

LONGEST = 100_000
"""Bytes of an example, about."""

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 10**30, 1e308, float("inf"), float("-inf"), float("nan"), 0.1, -0.0),
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "9" * 5000,
        "1e999999",
        "9**9**9",
        "-1",
        "0x10",
        "1/0",
        "1e-400",
        "nan",
        "Infinity",
    ),
    *(
        "١٨",
        "۳",
        "१८",
        "\u202e18\u202c",
        "\u200f",
        "\ufeff18",
        "１８",
        "²",
        "½",
        "ſ",
        "İ",
        "a\u0300" * 50,
        "\u2028",
        "\x85",
        "\r",
        "🎈",
    ),
    *("{{ 7 * 7 }}", "{% for i in range(99999) %}{% endfor %}", "${HOME}", "%s%n", "../../etc/passwd", "\\", "'\"`", "<think>"),
    *(
        "None",
        "null",
        "true",
        "yes",
        "[]",
        "{}",
        "(A)",
        "x" * 20_000,
        [],
        {},
        [[]],
        [None],
        {"": None},
        [1, "1"],
        {"a": {"a": []}},
    ),
)
"""Values that stand where others are expected."""

WORDS: tuple[bytes, ...] = tuple(
    word.encode("utf-8", "surrogatepass")
    for word in (
        *(
            "\x00",
            "\n",
            "\r\n",
            "\t",
            " ",
            "\u2028",
            "\ufeff",
            "\u202e",
            "١٨",
            "½",
            "9" * 400,
            "1e999",
            "-",
            "+",
            ".",
            ",",
            ":",
            "=",
            "|",
        ),
        *(
            "{",
            "}",
            "[",
            "]",
            "(",
            ")",
            '"',
            "'",
            "\\",
            "/",
            "#",
            "&",
            "*",
            "!",
            "%",
            "@",
            "`",
            "```",
            "<",
            ">",
            "~",
            "^",
            "_",
            "$",
        ),
        *(
            '{"',
            '":',
            '",',
            "[[",
            "]]",
            "{{",
            "}}",
            "${",
            "<<",
            ">>",
            "&a ",
            "*a",
            "!!",
            "\\u",
            "\\ud800",
            "\\x",
            "<think>",
            "</think>",
        ),
    )
)
"""What means something to one parser or another."""

BYTES = (
    b"\xff",
    b"\xfe\xff",
    b"\xff\xfe",
    b"\x80",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\x1f\x8b",
    b"PAR1",
    b"\x00" * 9,
)
"""What is no UTF-8, or says that something else begins."""


def mutated(sample: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    """A sample with one to four changes, most often of its text."""
    text = sample
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        text = draw.choice(CHANGES)(text, others, words, draw)
    return text[: 2 * LONGEST]


Change = Callable[[bytes, Sequence[bytes], Sequence[bytes], random.Random], bytes]


def _place(text: bytes, draw: random.Random) -> tuple[int, int]:
    begin = draw.randint(0, len(text))
    return begin, min(len(text), begin + draw.choice((0, 1, 2, 5, 20, 200, 5000)))


def _cut(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    begin, end = _place(text, draw)
    return draw.choice((text[:begin], text[begin:], text[:begin] + text[end:]))


def _insert(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    begin, end = _place(text, draw)
    return text[:begin] + draw.choice((*words, *WORDS, *BYTES)) + text[draw.choice((begin, end)) :]


def _pump(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    begin, end = _place(text, draw)
    piece = text[begin : min(end, begin + 40)] if draw.random() < 0.3 else b""
    piece = piece or b"".join(draw.choice((*words, *WORDS)) for _ in range(draw.choice((1, 1, 1, 2, 3))))
    return text[:begin] + piece * (draw.choice((3, 30, 1000, 5000, LONGEST)) // max(1, len(piece)) + 1) + text[begin:]


def _splice(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    other = draw.choice(list(others) or [b""])
    (begin, _), (start, end) = _place(text, draw), _place(other, draw)
    return text[:begin] + other[start:end] + text[begin:]


def _flip(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    changed = bytearray(text)
    for _ in range(draw.choice((1, 1, 4, 16))):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _values(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    """JSON, or a line of it, with other values in it; any other text as `_insert` leaves it."""
    lines = text.split(b"\n")
    whole = draw.random() < 0.5
    place = draw.randrange(len(lines))
    try:
        held = json.loads(text if whole else lines[place])
    except (ValueError, RecursionError):
        return _insert(text, others, words, draw)
    written = encoded(replaced(held, draw), draw)
    return written if whole else b"\n".join((*lines[:place], written, *lines[place + 1 :]))


def _nested(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    begin, _ = _place(text, draw)
    opened, closed = draw.choice(
        ((b"[", b"]"), (b'{"a":', b"}"), (b"{", b"}"), (b"(", b")"), (b"- ", b""), (b"\\frac{", b"}{2}"))
    )
    deep = draw.choice((20, 200, 950, 990, 1500, 20_000))
    return text[:begin] + opened * deep + b"1" + closed * draw.choice((0, deep, deep - 1)) + text[begin:]


def _recoded(text: bytes, others: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> bytes:
    return text.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7")), "replace")


CHANGES: tuple[Change, ...] = (_cut, _insert, _insert, _pump, _pump, _splice, _flip, _values, _values, _values, _nested, _recoded)


def encoded(value: Any, draw: random.Random) -> bytes:
    """A value as JSON, in one of the ways it may be written."""
    return json.dumps(value, ensure_ascii=draw.random() < 0.6).encode("utf-8", "surrogatepass")


def replaced(value: Any, draw: random.Random) -> Any:
    """A value of JSON with something in it changed, taken out, doubled or put under another name."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        if draw.random() < 0.8:
            return {**value, name: replaced(value[name], draw)}
        rest = {key: held for key, held in value.items() if key != name}
        return draw.choice((rest, {**rest, name + " ": value[name]}, {**value, str(draw.choice(NASTY))[:50]: value[name]}))
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        if draw.random() < 0.8:
            return [*value[:place], replaced(value[place], draw), *value[place + 1 :]]
        return draw.choice((value[:place] + value[place + 1 :], [*value, value[place]], value * 3, value[place]))
    if isinstance(value, str) and draw.random() < 0.5:
        at = draw.randint(0, len(value))
        return value[:at] + str(draw.choice(NASTY)) + value[at:]
    return draw.choice(NASTY)

"""Text of others (replies, providers' errors, file names), made fit for a terminal and for a log that people read.

A terminal obeys escape sequences wherever they come from: they can hide lines, set titles, or fill the clipboard. A line break in
a message can begin what looks like another entry of a log.
"""

from __future__ import annotations

PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),  # would turn the direction of what follows
}
"""Control character -> what is shown in its place: ESC is ␛."""


def harmless(text: str) -> str:
    """A text without control characters but line breaks and tabs."""
    return text if text.isascii() and text.isprintable() else text.translate(PICTURES)


def one_entry(text: str) -> str:
    """An entry of a log, whose further lines are indented: none of them looks like the beginning of another one."""
    return harmless(text).replace("\n", "\n    ")

"""What one agent said, made fit to stand in another's prompt: it cannot pass for the prompt's own words.

Templates put replies between marks: in a fence (society, critique), or as the items of a list (reconcile, the judge). A reply may
say anything, but it must not end its fence, begin what looks like another agent's item or the protocol's next instruction,
spell a chat format's tokens for a provider that would obey them, or be so long that it pushes the question out of sight.
A reply that does none of this is quoted word for word; so prompts, and the hashes under which replies are kept, stay as they are.

Whether a model is talked into something by a reply's plain words is another matter: that is what debates are for.
"""

from __future__ import annotations

import re
from functools import lru_cache

LONGEST = 32_000
"""Characters of a reply that others are shown."""

END = 8_000
"""Of these, the characters from its end, where conclusions stand."""

BREAKS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
"""What begins a new line, in any reader's eyes."""

BLANKS = rf"(?:[^\S{BREAKS}]|[\u200b-\u200f\u2060\ufeff])*"
"""Space within a line, that of no width included."""

FENCE = re.compile(r"`{3,}")

TOKEN = re.compile(
    r"<(?=\|[^|<>\n]{1,64}\|>)"
    r"|<(?=｜[^｜<>\n]{1,64}｜>)"
    r"|<(?=/?s>|<?/?SYS>>|(?:start|end)_of_turn>|(?:bos|eos|pad)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
"""The sign that opens a control token of a known chat format. Local engines read such tokens as text whatever is spelled
(`agents.literal`); an endpoint may not."""

OWN_WORDS = (
    # "- You (confidence 0.90):", "Agent 2:", "Agent 2 thinks the answer is", "2 agents think the answer is"
    r"(?:You|Agent\s*\#?\d+)[ \t]*(?:\(confidence[^)\n]{0,20}\))?[ \t]*[*_]{0,3}:",
    r"(?:Agent\s*\#?\d+|\d+\s+agents?)\s+thinks?\s+the\s+answer\s+is",
    r"(?:One|Another)\s+agent's\s+(?:reply|criticism)\b",
    r"(?:This\s+(?:is|was)|These\s+(?:are|were))\s+(?:your|their|the|another\s+agent's)\s+(?:last\s+)?repl(?:y|ies)\b",
    r"Several\s+agents\b.{0,40}\bthis\s+question",
    r"(?:Nobody|No\s+other\s+agent|Another\s+agent)\b.{0,30}\b(?:gave|criticised)\b",
    r"On\s+other\s+questions,\s+explanations\s+such",
    r"Which\s+of\s+these\s+views\s+do\s+you\s+agree",
    r"Decide\s+which\s+answer\s+is\s+right",
    r"Take\s+these\s+replies\s+as",
    r"Check\s+(?:each|the\s+steps)\s+of\b|Check\s+each\s+point\b",
    r"Reason\s+step\s+by\s+step\b|End\s+with\s+one\s+line\b",
    r"(?:system|developer|user|human|assistant)(?:\s+(?:prompt|message|instructions?))?[ \t]*[*_]{0,3}:",
)
"""How lines of the protocols' own templates begin, and those of the plainest chat formats."""

FORGED = re.compile(
    rf"(?:\A|(?<=[{BREAKS}]))"
    rf"(?={BLANKS}(?:[-*+•\#]+{BLANKS}|\d+[.)]{BLANKS})?[*_]{{0,3}}"
    rf"(?:{'|'.join(OWN_WORDS)}))",
    re.IGNORECASE,
)
"""Where a line begins as only the prompt's own do."""


@lru_cache(maxsize=4096)  # every other agent is shown the same words
def quoted(text: str) -> str:
    """A reply, or a part of it, as an item of a list: a line that would pass for the prompt's own is marked as a quotation."""
    return FORGED.sub("> ", TOKEN.sub(r"\g<0> ", shortened(text)))


@lru_cache(maxsize=4096)
def fenced(text: str) -> str:
    """A reply as it may stand between triple backticks: it has none of its own."""
    return FENCE.sub(lambda fence: "'" * len(fence.group()), quoted(text))


def one_line(text: str) -> str:
    """An answer as it may stand within a sentence."""
    text = shortened(text)
    if re.search(f"[{BREAKS}]", text):
        text = " ".join(text.split())
    return TOKEN.sub(r"\g<0> ", text)


def shortened(text: str) -> str:
    """A text of `LONGEST` characters at most, and a word on what is left out: its beginning and its end."""
    if len(text) <= LONGEST:
        return text
    begin = text[: LONGEST - END - 60]
    return f"{begin} [... {len(text) - len(begin) - END} characters are left out ...] {text[-END:]}"

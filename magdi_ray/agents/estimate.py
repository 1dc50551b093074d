"""How many tokens a text is likely to be, before any provider has counted it. A rule of thumb: it knows no model's vocabulary.

Counted are words (long ones as several), groups of up to three digits, signs and line breaks, which is how byte-pair tokenizers
trained on English cut a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from magdi_ray.agents.base import Message

MESSAGE_OVERHEAD = 4
"""Tokens a chat format puts around each message."""
REPLY_OVERHEAD = 3
"""Tokens that open the reply."""

_PIECE = re.compile(r"[A-Za-z]{1,9}|[0-9]{1,3}|\n+|[^\sA-Za-z0-9]")


@lru_cache(maxsize=1024)  # all agents are asked in the same words
def estimate_tokens(text: str) -> int:
    """Tokens of one text."""
    return len(_PIECE.findall(text))


def estimate_prompt(messages: Sequence[Message]) -> int:
    """Tokens a provider is likely to count for a conversation."""
    return REPLY_OVERHEAD + sum(MESSAGE_OVERHEAD + estimate_tokens(message.content) for message in messages)

"""A row of a published file, and what every task's `read_row` shares: the check of its texts and the id it gives.

    {"qid": "2bc9c4f9c19c167187f2", "question": "Are more people today related to ...?", "answer": true}

A row knows nothing of files or lines: whoever reads the file names the place of a row that is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from magdi_ray.tasks.base import Question, Split

HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def row_text(row: Mapping[str, Any], key: str) -> str:
    """The text under a key.

    Raises:
        ValueError: there is none, it is blank, or no file could hold it (half of a surrogate pair).
    """
    text = row.get(key)
    if not isinstance(text, str) or not text.strip() or HALF_A_PAIR.search(text):
        raise ValueError(f'required a text under "{key}"; found {text!r}')
    return text


def written(text: object) -> str | None:
    """A text without the white space around it; None where there is none, it is blank, or no file could hold it."""
    return text.strip() or None if isinstance(text, str) and not HALF_A_PAIR.search(text) else None


def named_question(
    task: str, text: str, gold: str | None, split: Split, given: object = None, *, solution: object = None
) -> Question:
    """A question under the id its row gives, else under the task's name and 12 hex digits of its text's SHA-256.

    A `solution` that is no text (`written`) is none.

    Raises:
        ValueError: no file could hold the id (half of a surrogate pair).
    """
    named = f"{task}-{hashlib.sha256(text.encode()).hexdigest()[:12]}" if given is None or given == "" else str(given)
    if HALF_A_PAIR.search(named):
        raise ValueError(f"required an id of valid Unicode; found {named!r}")
    return Question(id=named, text=text, gold=gold, split=split, solution=written(solution))

r"""A structured reply: one that holds a JSON object with the answer in a field of its own. Pure and total; knows no task.

    <think>9 * 2 is 18.</think>
    ```json
    {"reasoning": ["16 - 7 = 9", "9 * 2 = 18"], "answer": 18, "confidence": "90%"}
    ```

The object may stand alone, in a fence, behind thoughts or among other text; of several, the last one counts. Models write
broken JSON: raw line breaks, LaTeX with single backslashes, and replies that are cut off. Fields that are complete are taken
then; a value that is cut off is no value, because "1" may have been going to be "18".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

ANSWER_KEYS = ("answer", "final_answer")
CONFIDENCE_KEYS = ("confidence", "confidence_level", "confidence_score")
REASONING_KEYS = ("reasoning", "explanation", "thoughts", "answer_reasoning")

MAX_TRIED = 50
"""Objects looked at, from the end: keeps the reading linear in the text's length."""

_KNOWN = "|".join((*ANSWER_KEYS, *CONFIDENCE_KEYS, *REASONING_KEYS)).replace("_", "[_ ]?")
_OPENING = re.compile(r'\{\s*"')
_OURS = re.compile(rf'\{{\s*"(?:{_KNOWN})"\s*:|"(?:final[_ ]?)?answer"\s*:', re.IGNORECASE)
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_FIELD = re.compile(
    rf'"(?P<key>{_KNOWN})"\s*:\s*(?:(?P<quoted>{_STRING}|\[\s*+(?:{_STRING}\s*+(?:,\s*+)?)*+\])(?=\s*(?:[,}}\n]|$))'
    r"|(?P<bare>-?[0-9][0-9.,]*%?|true|false)(?=\s*[,}\n]))",
    re.IGNORECASE | re.DOTALL,
)
_LONE_BACKSLASH = re.compile(r'\\(?!["\\/nrt]|u[0-9a-fA-F]{4})')
_WRAPPER = re.compile(r'\{\s*"[^{}]*\Z')
"""What stands before an object inside another: {"response": {"answer": ...}}"""
_FENCE = re.compile(r"```[a-zA-Z]*\s*\Z")
# Numbers stay as they are written: "18.50" is no float, and int() refuses more than 4300 digits.
_DECODER = json.JSONDecoder(strict=False, parse_float=str, parse_int=str, parse_constant=str)


@dataclass(frozen=True, slots=True)
class Fields:
    """What a structured reply says, each part as it is written."""

    reasoning: str
    """The field; where there is none, what stands before the object, or the thoughts before that."""
    answer: str | None
    """None where the object has no complete answer."""
    confidence: str | None


def read_fields(text: str) -> Fields | None:
    """The fields of a structured reply; None for any other text."""
    thoughts, _, spoken = text.rpartition("</think>")
    found = _last_object(spoken)
    if found is None:
        return None
    start, held = found
    before = _FENCE.sub("", _WRAPPER.sub("", spoken[:start])).strip()
    reasoning = _first(held, REASONING_KEYS) or before or thoughts.replace("<think>", "").strip()
    answer = {key: _only(held[key]) for key in ANSWER_KEYS if key in held}
    return Fields(reasoning, _first(answer, ANSWER_KEYS), _first(held, CONFIDENCE_KEYS))


def _last_object(text: str) -> tuple[int, dict[str, Any]] | None:
    """Where the last object with an answer begins, and its fields by normal key; a broken one where no other has an answer."""
    found, broken, end = None, None, 0
    for start in [match.start() for match in _OPENING.finditer(text)][-MAX_TRIED:]:
        if start < end:
            continue  # inside the object before
        try:
            value, after = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            held = _complete_fields(text[start:]) if _OURS.search(text, start) else {}
            if any(key in held for key in ANSWER_KEYS):
                return start, held
            broken = broken or ((start, held) if _OURS.search(text, start) else None)
            continue
        held = {_normal(key): item for key, item in value.items()}
        if any(key in held for key in ANSWER_KEYS):
            found, end = (start, held), after
    return found or broken


def _complete_fields(text: str) -> dict[str, Any]:
    return {_normal(match["key"]): _loads(match["quoted"] or match["bare"]) for match in _FIELD.finditer(text)}


def _only(value: Any) -> Any:
    """The one item of a list or object; None where there are several: which of them is meant is not said."""
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list):
        return value
    return _only(items[0]) if len(items) == 1 else None


def _loads(raw: str) -> Any:
    if raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    try:
        return _DECODER.decode(_LONE_BACKSLASH.sub(r"\\\\", raw))
    except (ValueError, RecursionError):
        return raw.strip('",')


def _normal(key: str) -> str:
    return key.strip().lower().replace(" ", "_").replace("finalanswer", "final_answer")


def _first(held: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((text for key in keys if (text := _plain(held.get(key)))), None)


def _plain(value: Any) -> str | None:
    """A field's value as text: lists a line an item, true and false as yes and no; None for nothing."""
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            # \frac and \boxed with a single backslash are valid JSON for a form feed and a backspace, which nobody writes.
            value = value.replace("\f", "\\f").replace("\b", "\\b")
            # Half a surrogate pair, written as an escape, is no Unicode: no file could hold it.
            return value.encode("utf-8", "replace").decode("utf-8").strip() or None
        case dict():
            return " ".join(filter(None, map(_plain, value.values()))) or None
        case list():
            return "\n".join(filter(None, map(_plain, value))) or None
    return None

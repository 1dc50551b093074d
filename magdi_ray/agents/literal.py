"""Text that spells a special token, read as text: whoever writes `<|end|>` into a question ends nothing with it.

Tokenizers look for their special tokens in the finished prompt, where those of the chat template and those that somebody typed
look alike. So what was typed is hidden while the template is filled in, the template's own special tokens are then given names
that nobody can guess, and a copy of the tokenizer that knows them by those names reads the prompt. All else is as it was.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from magdi_ray.agents.base import PromptError


class Literal:
    """Reads prompts for one tokenizer where contents spell special tokens. Threads may share it."""

    def __init__(self, tokenizer: Any) -> None:
        """Copy a tokenizer of the `tokenizers` library; the copy does not see what is added to the first one later."""
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        added = [token for token in told["added_tokens"] if token["special"]]
        ids = {token["content"]: token["id"] for token in added}
        secret = secrets.token_hex(16)
        self._hidden = {text: f"{secret}h{place}." for place, text in enumerate(ids)}
        self._names = {text: f"{secret}n{place}." for place, text in enumerate(ids)}
        self._spelled = any_of(ids)
        self._unhidden = {name: text for text, name in self._hidden.items()}
        self._any_hidden = any_of(self._unhidden)
        for token in added:
            token["content"] = self._names[token["content"]]
        self._tokenizer = Tokenizer.from_str(json.dumps(told))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = frozenset(ids.values())
        self._ids = {self._tokenizer.token_to_id(name): ids[text] for text, name in self._names.items()}
        """The id of every special token by that of its name in the copy."""
        self._unknown: int | None = tokenizer.unk_token_id

    def hide(self, content: str) -> str:
        """A content for the template, in which no special token is spelled."""
        return replaced(content, self._spelled, self._hidden)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a prompt whose contents were hidden.

        Raises:
            PromptError: the tokenizer has no way to write a special token's name as text.
        """
        named = replaced(text, self._spelled, self._names)
        read = self._tokenizer.encode(replaced(named, self._any_hidden, self._unhidden), add_special_tokens=add_special_tokens)
        return [self._own(id, framing) for id, framing in zip(read.ids, read.special_tokens_mask, strict=True)]

    def _own(self, id: int, framing: int) -> int:
        """What the tokenizer itself calls a token of the copy. `framing` tokens are those that it puts around any text."""
        if id in self._ids:
            return self._ids[id]
        if framing or id not in self._special or id == self._unknown:
            return id
        # A vocabulary of whole words holds the special tokens' names as words.
        if self._unknown is None:
            raise PromptError(
                "A message spells one of the model's special tokens, which cannot be written as text. Leave it out."
            )
        return self._unknown


_known: WeakKeyDictionary[Any, tuple[int, re.Pattern[str], list[Literal]]] = WeakKeyDictionary()
"""Of each tokenizer: its size, what its special tokens look like, and its copy where one was needed."""


def literal(tokenizer: Any, contents: Iterable[str]) -> Literal | None:
    """Who reads a prompt of these contents; None where none of them spells a special token, which the tokenizer itself reads.

    Tokenizers that are written in Python cannot be copied, and read all prompts themselves.
    """
    if not getattr(tokenizer, "is_fast", False):
        return None
    size = len(tokenizer)
    if (known := _known.get(tokenizer)) is None or known[0] != size:
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        known = _known[tokenizer] = (size, any_of(special), [])
    _, spelled, made = known
    if not any(map(spelled.search, contents)):
        return None
    if not made:
        made.append(Literal(tokenizer))
    return made[0]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of some texts, of several the longest; of none, nothing."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def replaced(text: str, pattern: re.Pattern[str], by: Mapping[str, str]) -> str:
    """A text with all that is found replaced."""
    return pattern.sub(lambda found: by[found.group()], text)

"""From what is to be continued to token ids, for an engine that serves: nothing that is sent may hold up the other replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from magdi_ray.agents.base import ContextLengthError, Message, PromptError
from magdi_ray.agents.literal import literal
from magdi_ray.agents.streaming import Prompt
from magdi_ray.agents.transformers import read_prompt

ABSURD = 64
"""Characters for each token of the context that no prompt has: a longer one is refused before it is read."""

USUAL = 8
"""Characters for each token of the context that hardly any prompt has: the beginning of a longer one is counted first."""

SLACK = 16
"""Tokens by which the count of a beginning may exceed its share of the whole: where it was cut, words fall apart."""

LONG = 20_000
"""Characters that are tokenised beside the event loop, not on it."""


class PromptReader:
    """Reads prompts for one model. Threads may share it."""

    def __init__(
        self, tokenizer: Any, *, system_prompt: str | None, context_length: int | None, vocabulary: int, model: str
    ) -> None:
        """`vocabulary` is the number of tokens the model embeds; `model` is what errors call it."""
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._model = model
        literal(tokenizer, tokenizer.all_special_tokens)  # copies a large tokenizer now, and not while replies are written

    async def read(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a long one is read in a thread. Raises what `encode` raises."""
        if self._characters(prompt) > LONG:
            return await asyncio.to_thread(self.encode, prompt)
        return self.encode(prompt)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, at least one.

        Raises:
            PromptError: it is empty, or cannot be put to this model; `ContextLengthError` where it is too long by far.
        """
        forms = [name for name in ("messages", "text", "ids") if getattr(prompt, name) is not None]
        if len(forms) != 1:
            raise PromptError(f"A prompt is one of messages, text and ids; found {' and '.join(forms) or 'none of them'}.")
        if prompt.ids is not None:
            return self._checked(prompt.ids)
        if self._context_length is not None and (found := self._characters(prompt)) > ABSURD * self._context_length:
            raise ContextLengthError(
                f"The prompt's {found} characters exceed the {self._context_length} tokens that {self._model} can read, however "
                "they are counted. Shorten it."
            )
        self._check_beginning(max([prompt.text or "", *(message.content for message in prompt.messages or ())], key=len))
        if prompt.text is not None:
            return self._plain(prompt.text)
        messages = list(prompt.messages or ())
        if self._system_prompt is not None:
            messages = [Message("system", self._system_prompt), *messages]
        return read_prompt(self._tokenizer, messages)

    @staticmethod
    def _characters(prompt: Prompt) -> int:
        return len(prompt.text or "") + sum(len(message.content) for message in prompt.messages or ())

    def _check_beginning(self, text: str) -> None:
        """Refuse a long text by its beginning, where that is too long already: reading all of it may take many seconds."""
        if self._context_length is None or len(text) <= USUAL * self._context_length:
            return
        beginning = text[: USUAL * self._context_length]
        found = len(self._tokenizer(beginning, add_special_tokens=False)["input_ids"])
        if found > self._context_length + SLACK:
            raise ContextLengthError(
                f"The first {len(beginning)} of the prompt's {len(text)} characters are {found} tokens already; {self._model} "
                f"can read {self._context_length}. Shorten the prompt."
            )

    def _plain(self, text: str) -> list[int]:
        if not text:
            raise PromptError("The prompt is empty: it has no text to continue.")
        ids = list(self._tokenizer(text)["input_ids"])
        ids = ids[:-1] if ids and ids[-1] == self._tokenizer.eos_token_id else ids
        if not ids:
            raise PromptError("The prompt's text has no token to continue from.")
        return ids

    def _checked(self, ids: Sequence[int]) -> list[int]:
        if not ids:
            raise PromptError("The prompt is empty: it has no token to continue from.")
        if self._context_length is not None and len(ids) > self._context_length:
            raise ContextLengthError(
                f"The prompt's {len(ids)} tokens exceed the {self._context_length} that {self._model} can read. Shorten it."
            )
        beyond = next((id for id in ids if not 0 <= id < self._vocabulary), None)
        if beyond is not None:
            raise PromptError(f"A token id lies between 0 and {self._vocabulary - 1}, found {beyond}.")
        return list(ids)

"""From messages to the token ids a model reads: the chat template where the tokenizer has one, else a plain prompt.

Training and answering must agree on this to the token, so it is written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import Message
from magdi_ray.agents.literal import literal


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids up to where the reply begins.

    Without a chat template the contents are joined by blank lines and closed by one, with the tokenizer's own special tokens
    in front (a beginning-of-sequence token, where it adds one) and none behind.

    A special token that a content spells (`<|end|>`) is text there, and never the token.
    """
    reader = literal(tokenizer, [message.content for message in messages])
    contents = [message.content if reader is None else reader.hide(message.content) for message in messages]
    if tokenizer.chat_template:
        chat = [{"role": message.role, "content": content} for message, content in zip(messages, contents, strict=True)]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    else:
        text = "".join(f"{content}\n\n" for content in contents)
    framed = not tokenizer.chat_template
    if reader is not None:
        ids = reader.encode(text, add_special_tokens=framed)
    else:
        ids = list(tokenizer(text, add_special_tokens=framed)["input_ids"])
    return ids[:-1] if framed and ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_reply(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a reply, without the token that ends it.

    A special token that the reply spells is text: else a teacher could write the end of a turn, or another speaker's turn, into
    what a student learns.

    Raises:
        PromptError: the tokenizer has no way to write a special token's name as text.
    """
    reader = literal(tokenizer, [text])
    if reader is None:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return reader.encode(reader.hide(text), add_special_tokens=False)

"""From messages to the token ids a model reads: the chat template where the tokenizer has one, else a plain prompt.

Training and answering must agree on this to the token, so it is written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import Message


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids up to where the reply begins.

    Without a chat template the contents are joined by blank lines and closed by one, with the tokenizer's own special tokens
    in front (a beginning-of-sequence token, where it adds one) and none behind.
    """
    if tokenizer.chat_template:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    text = "".join(f"{message.content}\n\n" for message in messages)
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids

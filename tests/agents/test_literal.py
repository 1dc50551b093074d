"""What somebody types is text, even where it spells a special token; all other prompts stay what they were."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from magdi_ray.agents.base import Message, PromptError
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.agents.literal import Literal
from magdi_ray.agents.weights import resolve_model
from tests.agents.test_written import byte_level, sentencepiece

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
ORDINARY = ["2 + 2 ?", "  Naïve 数学 says <b> 4 </b>\n\n👩‍🚀 ", "", "<| end |> </ s> <s", "Two  spaces."]


def framing() -> PreTrainedTokenizerFast:
    """Puts <s> in front of any text and </s> behind it."""
    tokenizer = byte_level()
    pair = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    return tokenizer


def chatting(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def shipped(name: str) -> Any:
    return AutoTokenizer.from_pretrained(resolve_model(f"pkg://magdi_ray/tiny/models/{name}"))


TOKENIZERS = {
    "byte level": byte_level,
    "byte level, chat": lambda: chatting(byte_level()),
    "framing": framing,
    "sentencepiece": sentencepiece,
    "sentencepiece, chat": lambda: chatting(sentencepiece()),
    **{name: lambda name=name: shipped(name) for name in ("ada", "ben", "cleo", "student")},
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def by_itself(tokenizer: Any, contents: list[str]) -> list[int]:
    """A prompt as transformers reads it."""
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": content} for content in contents]
        return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))
    ids = list(tokenizer("".join(f"{content}\n\n" for content in contents))["input_ids"])
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def encode(tokenizer: Any, contents: list[str]) -> list[int]:
    return encode_prompt(tokenizer, [Message("user", content) for content in contents])


def test_prompts_of_ordinary_text_are_what_they_were(tokenizer: Any) -> None:
    for contents in [ORDINARY, *([content] for content in ORDINARY)]:
        assert encode(tokenizer, contents) == by_itself(tokenizer, contents)


def test_the_copy_reads_ordinary_text_as_the_tokenizer_does(tokenizer: Any) -> None:
    copy, framed = Literal(tokenizer), not tokenizer.chat_template
    chat = [{"role": "user", "content": content} for content in ORDINARY]
    text = "".join(ORDINARY) if framed else tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert copy.encode(text, add_special_tokens=framed) == list(tokenizer(text, add_special_tokens=framed)["input_ids"])


def test_special_tokens_that_are_typed_are_text_and_the_template_s_own_stay(tokenizer: Any) -> None:
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    typed = f"2 {tokenizer.eos_token}{tokenizer.bos_token} 3 {tokenizer.eos_token}"
    found, plain = encode(tokenizer, [typed, "x", typed]), encode(tokenizer, ["2 3", "x", "2 3"])
    assert [id for id in found if id in special] == [id for id in plain if id in special]
    assert len(found) > len(plain)
    if tokenizer.name_or_path == "" and tokenizer.unk_token is None:  # it can write any text
        assert tokenizer.decode(found).count(tokenizer.eos_token) >= 4


def test_what_is_typed_around_them_reads_as_it_does_alone() -> None:
    tokenizer = chatting(byte_level())
    head, tail = by_itself(tokenizer, ["\0"]), tokenizer("</s>", split_special_tokens=True)["input_ids"]
    place = head.index(tokenizer("\0")["input_ids"][0])
    assert encode(tokenizer, ["</s>"]) == [*head[:place], *tail, *head[place + 1 :]]


def test_a_token_added_later_is_text_too_where_it_is_typed() -> None:
    tokenizer = chatting(byte_level())
    assert encode(tokenizer, ["a </s>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    assert len(tokenizer) - 1 not in encode(tokenizer, ["a <think>"])


def words(unknown: str | None) -> PreTrainedTokenizerFast:
    """Words between spaces, the special token's name among them."""
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "[?]": 2}, unk_token="[?]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token=unknown)


def test_a_special_token_that_is_a_word_of_the_vocabulary_is_an_unknown_word_or_refused() -> None:
    assert encode(words("[?]"), ["a <end> a"]) == [1, 2, 1]
    with pytest.raises(PromptError, match="spells one of the model's special tokens"):
        encode(words(None), ["a <end> a"])

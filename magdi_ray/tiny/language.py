"""The language of tiny models: a word-level vocabulary of one or two hundred tokens, and untrained models of any size.

One token per word, number and punctuation mark, so that a number is learned as one thing. Nothing here is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from magdi_ray.debate.reconcile import Prompts
from magdi_ray.tasks.tiny import compact
from magdi_ray.tiny.world import DISTRACTOR, ENDING, ITEMS, LARGEST, NAMES, SENTENCES, START

PAD, BOS, USER, ASSISTANT, END, UNKNOWN = "<|pad|>", "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<|unknown|>"
SPECIAL = (PAD, BOS, USER, ASSISTANT, END, UNKNOWN)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }} {{ message['content'] }} <|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SOLUTION_WORDS = "first then answer + - * / = . , ? : ;"
DISCUSSION_WORDS = "say own peer none sure likely unsure revise"

Size = Mapping[str, int]
"""Fields of `LlamaConfig`."""
TEACHER_SIZE: Size = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
"""About 0.5 million parameters: 2.1 MB as float32."""
STUDENT_SIZE: Size = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
"""About 0.2 million parameters: 0.8 MB as float32."""


@cache
def prompts() -> Prompts:
    """The protocol's templates in the tiny vocabulary (`prompts.yaml`)."""
    source = files("magdi_ray.tiny").joinpath("prompts.yaml").read_text(encoding="utf-8")
    return Prompts.model_validate(yaml.safe_load(source))


def vocabulary(more: Iterable[str] = ()) -> tuple[str, ...]:
    """Every token: the special ones first, the numbers in order, the words of stories and debates and `more` sorted."""
    templates = [START, DISTRACTOR, ENDING, *(text for texts in SENTENCES.values() for text in texts)]
    blank = {"n": "", "m": "", "k": "", "i": ""}
    words = {word for text in templates for word in compact(text.format(**blank)).split()}
    words |= {word.lower() for word in (*NAMES, *ITEMS)} | {*SOLUTION_WORDS.split(), *DISCUSSION_WORDS.split(), *more}
    return (*SPECIAL, *(str(number) for number in range(LARGEST + 1)), *sorted(words))


def make_tokenizer(words: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer that all models of a world share; None: of the tiny world's `vocabulary`."""
    index = {word: i for i, word in enumerate(words or vocabulary())}
    backend = Tokenizer(models.WordLevel(index, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def make_model(size: Size, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """A model with random weights that depend on the seed only."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.05,
        num_key_value_heads=size["num_attention_heads"],
        **size,
        **special,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for name, value in special.items():
        setattr(model.generation_config, name, value)
    return model

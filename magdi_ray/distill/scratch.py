"""A student from nothing: random weights and a tokenizer trained on the run's own graphs. For where no weights can be had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from magdi_ray.config.distil import ScratchModel
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.text import student_reply
from magdi_ray.tasks.base import Task

START, END, PAD = "<s>", "</s>", "<pad>"


def make_student(config: ScratchModel, *, mags: Iterable[Mag], task: Task, directory: Path, seed: int) -> None:
    """Write a plain Hugging Face directory. The same graphs, configuration and seed give the same files."""
    disable_progress_bar()
    tokenizer = train_tokenizer(_texts(mags, task), config.vocab_size)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text can be written with it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PAD, padding_side="left")


def _texts(mags: Iterable[Mag], task: Task) -> Iterator[str]:
    for mag in mags:
        if mag.question.split == "train":
            yield task.prompt(mag.question)
            yield from (text for node in mag.nodes if (text := student_reply(task, node)))

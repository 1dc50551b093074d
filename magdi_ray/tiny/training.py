"""Training and sampling of tiny models: plain loops over plain examples.

An example is a prompt and the reply to learn. Knows nothing of stories or debates. Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from magdi_ray.agents.base import Reply

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True, slots=True)
class Example:
    """A user message and the reply to learn."""

    prompt: str
    reply: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a model is trained: one pass over the examples."""

    rate: float
    """Learning rate after `warmup` steps; falls to 5% of this along a cosine."""
    batch: int = 32
    """Examples per step."""
    warmup: int = 50
    """Steps of linear rise."""

    def at(self, step: int, steps: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, steps - self.warmup)
        return self.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[list[int]]:
    """The token ids of chats in which the assistant is about to answer."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> list[tuple[list[int], int]]:
    """For each example its token ids, the end token included, and how many of them are the prompt."""
    if not examples:
        return []
    prompts = encode_prompts(tokenizer, [example.prompt for example in examples])
    replies = tokenizer([example.reply for example in examples], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [([*prompt, *reply, end], len(prompt)) for prompt, reply in zip(prompts, replies, strict=True)]


def batches(rows: Sequence[tuple[list[int], int]], size: int, *, seed: int) -> list[list[tuple[list[int], int]]]:
    """All rows in random order, in batches of similar length (so that padding is rare)."""
    rng = random.Random(seed)
    rows = list(rows)
    rng.shuffle(rows)
    pool = size * 40
    found = []
    for start in range(0, len(rows), pool):
        block = sorted(rows[start : start + pool], key=lambda row: len(row[0]))
        cut = [block[i : i + size] for i in range(0, len(block), size)]
        rng.shuffle(cut)
        found += cut
    return found


def collate(rows: Sequence[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """`ids_BT`, padded on the right, and `labels_BT` with prompts and padding ignored."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.full((len(rows), longest), pad)
    labels_BT = torch.full((len(rows), longest), IGNORED)
    for index, (ids, start) in enumerate(rows):
        ids_BT[index, : len(ids)] = torch.tensor(ids)
        labels_BT[index, start : len(ids)] = torch.tensor(ids[start:])
    return ids_BT, labels_BT


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    schedule: Schedule,
    *,
    seed: int,
) -> float:
    """One pass over the examples; mean cross-entropy over reply tokens, AdamW. Changes the model in place.

    Returns the mean loss of the last tenth of the steps, in nats per token.
    """
    plan = batches(encode(tokenizer, examples), schedule.batch, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    model.train()
    losses = []
    for step, rows in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step, len(plan))
        ids_BT, labels_BT = (tensor.to(model.device) for tensor in collate(rows, tokenizer.pad_token_id))
        # Padding is on the right and attention is causal, so no real token ever sees padding.
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    if not losses:
        return math.nan
    final = losses[-max(1, len(losses) // 10) :]
    return sum(final) / len(final)


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    temperature: float,
    seed: int,
    name: str = "",
    max_tokens: int = 64,
    batch: int = 256,
) -> list[Reply]:
    """One reply to each prompt, in order. Confidence is the mean probability of the reply's tokens at temperature 1."""
    rows = encode_prompts(tokenizer, prompts)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    generator = torch.Generator(model.device).manual_seed(seed)
    replies: dict[int, Reply] = {}
    model.eval()
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        drawn = _decode(model, [rows[index] for index in chosen], tokenizer, temperature, generator, max_tokens)
        for index, (ids, probability) in zip(chosen, drawn, strict=True):
            stopped = ids[-1] == tokenizer.eos_token_id
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
            replies[index] = Reply(text, len(rows[index]), len(ids), probability, "stop" if stopped else "length", name)
    return [replies[index] for index in range(len(rows))]


def _decode(
    model: LlamaForCausalLM,
    rows: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerFast,
    temperature: float,
    generator: torch.Generator,
    max_tokens: int,
) -> list[tuple[list[int], float]]:
    padded = tokenizer.pad({"input_ids": list(rows)}, padding=True, return_tensors="pt").to(model.device)
    ids_BT, mask_BT = padded["input_ids"], padded["attention_mask"]
    position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    ended = [False] * len(rows)
    tokens: list[list[int]] = [[] for _ in rows]
    total = [0.0] * len(rows)
    cache = None
    for _ in range(max_tokens):
        output = model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits_BV = output.logits[:, -1]
        next_B = _choose(logits_BV, temperature, generator)
        probability_B = logits_BV.softmax(-1).gather(1, next_B[:, None])[:, 0]
        for index, (token, probability) in enumerate(zip(next_B.tolist(), probability_B.tolist(), strict=True)):
            if not ended[index]:
                tokens[index].append(token)
                total[index] += probability
                ended[index] = token == tokenizer.eos_token_id
        if all(ended):
            break
        ids_BT, position_BT = next_B[:, None], position_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
    return [(ids, mass / len(ids)) for ids, mass in zip(tokens, total, strict=True)]


def _choose(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0.0:
        return logits_BV.argmax(-1)
    return torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)[:, 0]

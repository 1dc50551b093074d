"""An engine on local weights: concurrent requests are decoded together, and none can tell that it was not alone.

A reply depends on weights, messages, sampling and seed only. Every row of a batch draws from a stream of its own, made from its
seed, by inverting the cumulative distribution in vocabulary order: one number a token, and no Python loop over rows. What remains
of the neighbours is floating-point rounding (padding changes the order of sums, about 1e-6), which turns a token only where two
candidates are that close.

Of the model's own `generation_config` only the ids of the begin, end and padding tokens are kept (with the tokenizer's end token
added); its temperature, top_k, penalties and the like are dropped, so that `Sampling` alone says how a reply is drawn.

Tensor names: B batch rows, S the rows that sample, T generated tokens, L padded prompt length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from magdi_ray.agents.base import ContextLengthError, Message, PromptError, Reply, Sampling
from magdi_ray.agents.batching import Collector
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.agents.choosing import draw
from magdi_ray.agents.weights import base_and_adapter, check_model_directory, has_tokenizer
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.errors import ConfigError, EngineError, MagdiError


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt that waits to be decoded."""

    ids: list[int]
    sampling: Sampling


class TokenChooser(LogitsProcessor):
    """Chooses every row's next token, leaves it as the only maximum, and notes its probability.

    The noted probability is the model's own, whatever temperature and top_p made of it.
    """

    def __init__(self, samplings: Sequence[Sampling], *, prompt_length: int, device: torch.device) -> None:
        self.prompt_length = prompt_length
        self.probabilities: list[torch.Tensor] = []
        """One B-vector a step."""
        rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0.0]
        self.rows_S = torch.tensor(rows, dtype=torch.long, device=device)
        self.all_greedy = not rows
        drawing = [samplings[row] for row in rows]
        steps = max((sampling.max_tokens for sampling in drawing), default=0)
        uniforms_ST = np.zeros((len(drawing), steps))
        for row, sampling in enumerate(drawing):
            uniforms_ST[row, : sampling.max_tokens] = np.random.default_rng(sampling.seed).random(sampling.max_tokens)
        self.uniforms_ST = torch.from_numpy(uniforms_ST).to(device)
        self.temperature_S1 = torch.tensor([[s.temperature] for s in drawing], device=device)
        self.top_p_S1 = torch.tensor([[s.top_p] for s in drawing], device=device)
        self.any_nucleus = any(sampling.top_p < 1.0 for sampling in drawing)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen_B = scores.argmax(dim=-1)
        step = input_ids.shape[1] - self.prompt_length
        if not self.all_greedy and step < self.uniforms_ST.shape[1]:
            chosen_B[self.rows_S] = draw(
                scores[self.rows_S],
                self.uniforms_ST[:, step, None],
                temperature_S1=self.temperature_S1,
                top_p_S1=self.top_p_S1,
                nucleus=self.any_nucleus,
            )
        chosen_B1 = chosen_B[:, None]
        log_probability_B = scores.gather(1, chosen_B1).squeeze(1) - scores.logsumexp(dim=-1)
        self.probabilities.append(log_probability_B.exp())
        if self.all_greedy:
            return scores
        scores.scatter_(1, chosen_B1, torch.inf)
        return scores


class RowEnd(StoppingCriteria):
    """Ends a row at its own `max_tokens`, or when one of its stop strings has been written."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        *,
        prompt_length: int,
        device: torch.device,
        end_ids: frozenset[int],
        decode: Callable[[list[int]], str],
    ) -> None:
        self.prompt_length = prompt_length
        self.lengths = [sampling.max_tokens for sampling in samplings]
        """Tokens each row may hold: its `max_tokens`, or fewer once a stop string was seen."""
        self._limit_B = torch.tensor(self.lengths, device=device)
        self._end_ids = end_ids
        self._decode = decode
        self._open = {row: stops for row, s in enumerate(samplings) if (stops := tuple(filter(None, s.stop)))}

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_length
        if self._open:
            self._look_for_stops(input_ids, step)
        return self._limit_B <= step

    def _look_for_stops(self, input_ids: torch.Tensor, step: int) -> None:
        rows = list(self._open)
        written = input_ids[rows, self.prompt_length :].tolist()
        for row, ids in zip(rows, written, strict=True):
            if has_stop(ids, self._open[row], self._decode):
                self.lengths[row] = step
                self._limit_B[row] = step
                del self._open[row]
            elif ids[-1] in self._end_ids or step >= self.lengths[row]:
                del self._open[row]


def has_stop(ids: list[int], stops: Sequence[str], decode: Callable[[list[int]], str]) -> bool:
    """Whether the last of these tokens completed a stop string; none of `stops` is empty."""
    # A character takes at most 4 tokens (UTF-8 bytes); the last few characters decide, so mostly only those are decoded.
    window = 4 * max(map(len, stops)) + 8
    return any(stop in decode(ids[-window:]) for stop in stops) and any(stop in decode(ids) for stop in stops)


def read_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to where the reply begins; `encode_prompt` says how it is written.

    Raises:
        PromptError: there is no message or no token, or the chat template refuses the conversation.
    """
    if not messages:
        raise PromptError("A reply needs at least one message, found none.")
    try:
        ids = encode_prompt(tokenizer, messages)
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError) as error:  # a template is a program
        roles = ", ".join(message.role for message in messages)
        raise PromptError(f"The model's chat template refuses a conversation of roles [{roles}]: {error}") from None
    if not ids:
        raise PromptError("The conversation is empty: it has no token to continue from.")
    return ids


def fit_context(sampling: Sampling, tokens_in: int, *, context_length: int | None, model: str) -> Sampling:
    """The sampling, its reply shortened to what a prompt of `tokens_in` tokens leaves of the context, where that was asked for.

    Raises:
        ContextLengthError: prompt and `max_tokens` exceed the context; both counts are named.
    """
    room = sampling.max_tokens if context_length is None else context_length - tokens_in
    if sampling.clip_to_context and 0 < room < sampling.max_tokens:
        return sampling.model_copy(update={"max_tokens": room})
    if sampling.max_tokens > room:
        raise ContextLengthError(
            f"The prompt's {tokens_in} tokens and max_tokens={sampling.max_tokens} exceed the {context_length} tokens "
            f"that {model} can read. Shorten the messages or lower max_tokens."
        )
    return sampling


class TransformersAgent:
    """Decodes with `model.generate` from transformers, on one device."""

    def __init__(self, config: TransformersEngine, *, device: str | None = None) -> None:
        """Load weights and tokenizer onto a device; None takes the first GPU where there is one.

        Raises:
            ConfigError: files are missing (said before anything is loaded), or `context_length` exceeds the model's own.
            EngineError: the files are there but cannot be loaded.
        """
        check_model_directory(config.model)
        self.config = config
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            self.model, self.tokenizer = load_model(config.model, dtype=config.dtype)
        except MagdiError:
            raise
        except Exception as error:  # transformers, safetensors and the hub raise dozens of types
            raise EngineError(f"Model {config.model!r} could not be loaded: {type(error).__name__}: {error}") from error
        self.model.to(self.device).eval()
        self.context_length = _context_length(self.model, config)
        """Tokens of prompt and reply together, at most; None where neither architecture nor configuration sets a bound."""
        self._reader_name = Path(config.model).name + (" (with its context_length)" if config.context_length else "")
        """What a prompt's errors call the model."""
        self._generation = _token_ids_only(self.model, self.tokenizer)
        self._end_ids = frozenset(self._generation.eos_token_id or ())
        # Whatever generate() is not told, it would otherwise take from the model's own sampling settings.
        self.model.generation_config = self._generation
        self.tokenizer("warm-up")  # settles padding, so that threads can share the tokenizer
        self._collector: Collector[Request, Reply] = Collector(self._decode_batch, max_batch_size=config.max_batch_size)

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Answer one conversation, together with whatever else is waiting.

        Raises:
            ContextLengthError: prompt and `max_tokens` exceed the model's context; both counts are named.
            EngineError: the chat template refuses the messages, or decoding failed.
        """
        request = self._request(messages, sampling)
        try:
            return await self._decode(request)
        except MagdiError:
            raise
        except Exception as error:  # whatever torch raises is one failed reply for the caller
            raise EngineError(f"{self.config.model} could not decode: {type(error).__name__}: {error}") from error

    def _request(self, messages: Sequence[Message], sampling: Sampling) -> Request:
        """The prompt, and a sampling that fits behind it."""
        if self.config.system_prompt is not None:
            messages = [Message("system", self.config.system_prompt), *messages]
        ids = read_prompt(self.tokenizer, messages)
        return Request(ids, fit_context(sampling, len(ids), context_length=self.context_length, model=self._reader_name))

    async def _decode(self, request: Request) -> Reply:
        return await self._collector.submit(request)

    def _decode_batch(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies for all requests, from one call of `generate`."""
        samplings = [request.sampling for request in requests]
        prompt_BL, mask_BL = self._pad(requests)
        length = prompt_BL.shape[1]
        chooser = TokenChooser(samplings, prompt_length=length, device=self.device)
        ends = RowEnd(samplings, prompt_length=length, device=self.device, end_ids=self._end_ids, decode=self._text)
        settings = copy(self._generation)
        settings.max_new_tokens = max(sampling.max_tokens for sampling in samplings)
        with torch.inference_mode():
            ids_BLT = self.model.generate(
                input_ids=prompt_BL,
                attention_mask=mask_BL,
                generation_config=settings,
                logits_processor=LogitsProcessorList([chooser]),
                stopping_criteria=StoppingCriteriaList([ends]),
            )
        written = ids_BLT[:, length:].tolist()
        probabilities = torch.stack(chooser.probabilities, dim=1).tolist()
        return [
            self._reply(request, ids[:limit], probability)
            for request, ids, limit, probability in zip(requests, written, ends.lengths, probabilities, strict=True)
        ]

    def _pad(self, requests: Sequence[Request]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts and attention mask, padded on the left: every row's next token is in the last column."""
        length = max(len(request.ids) for request in requests)
        pad = self._generation.pad_token_id
        prompt_BL = torch.tensor([[pad] * (length - len(request.ids)) + request.ids for request in requests])
        mask_BL = torch.tensor([[0] * (length - len(request.ids)) + [1] * len(request.ids) for request in requests])
        return prompt_BL.to(self.device), mask_BL.to(self.device)

    def _reply(self, request: Request, ids: list[int], probabilities: list[float]) -> Reply:
        """What one row says: `ids` may run on after its end token, with padding."""
        end = next((position for position, token in enumerate(ids) if token in self._end_ids), None)
        ids = ids if end is None else ids[: end + 1]
        text = self._text(ids)
        cuts = [cut for stop in request.sampling.stop if stop and (cut := text.find(stop)) >= 0]
        return Reply(
            text=text[: min(cuts)] if cuts else text,
            tokens_in=len(request.ids),
            tokens_out=len(ids),
            confidence=min(1.0, sum(probabilities[: len(ids)]) / len(ids)),
            finish_reason="stop" if cuts or end is not None else "length",
            model=self.config.model,
        )

    def _text(self, ids: list[int]) -> str:
        return decode_text(self.tokenizer, ids)


def decode_text(tokenizer: Any, ids: list[int]) -> str:
    """What tokens say, without special tokens."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def load_model(name: str, *, dtype: str = "float32") -> tuple[Any, Any]:
    """Model and tokenizer of what `name` stands for (see `weights`); an adapter is merged into its base, which decodes faster
    than beside it.

    Weights are read from safetensors only, and no code that comes with a model is run.
    """
    base, adapter = base_and_adapter(name)
    model = _load_weights(base, dtype)
    tokenizer = load_tokenizer(name)
    if adapter is not None:
        from peft import PeftModel

        _check_hub_adapter(adapter)
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise EngineError(f"{Path(name).name}: the tokenizer knows {len(tokenizer)} tokens, the model embeds only {rows}.")
    return model, tokenizer


def _check_hub_adapter(adapter: str) -> None:
    """PEFT would take a hub's `adapter_model.bin`, a pickle, where there is nothing else. Directories were checked before."""
    if Path(adapter).is_dir():
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(adapter, "adapter_model.safetensors")
    except LocalEntryNotFoundError:
        raise  # nobody could be asked
    except EntryNotFoundError:
        raise ConfigError(
            f"The adapter {adapter} has no adapter_model.safetensors, and other formats can run code when they are loaded. "
            "Convert it where you trust it, and name its directory."
        ) from None


def load_tokenizer(name: str) -> Any:
    """The adapter's own tokenizer where it brings one, else the base's."""
    base, adapter = base_and_adapter(name)
    directory = adapter if adapter is not None and has_tokenizer(adapter) else base
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def _load_weights(name: str, dtype: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False)


def _context_length(model: Any, config: TransformersEngine) -> int | None:
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None) or None
    asked = config.context_length
    if own is not None and asked is not None and asked > own:
        raise ConfigError(f"{config.model} reads {own} tokens at most; context_length={asked} exceeds that.")
    return asked or own


def _token_ids_only(model: Any, tokenizer: Any) -> GenerationConfig:
    """Greedy generation that knows the model's special tokens and nothing else of its generation_config."""
    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    end_ids = sorted({token for token in [*ends, tokenizer.eos_token_id] if token is not None})
    pads = [own.pad_token_id, tokenizer.pad_token_id, *end_ids, 0]
    return GenerationConfig(
        do_sample=False,
        use_cache=True,
        disable_compile=True,
        bos_token_id=own.bos_token_id,
        eos_token_id=end_ids or None,
        pad_token_id=next(token for token in pads if token is not None),
    )

"""Which token comes next, for every row of a batch at once, and what the model thought of it.

`draw` is how any of our engines samples: the cumulative distribution in vocabulary order is inverted at one number a token, taken
from the row's own stream. So a reply depends on weights, prompt, decoding and seed, and not on the rows around it.

`RowChooser` does it for transformers' continuous batching, whose loop calls it in every step where it would process logits. It
knows no event loop and no text.

Tensor names: B rows of a step that get a token, S those of them that sample, P those with penalties, V vocabulary, K likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isnan
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch

from magdi_ray.agents.base import FinishReason
from magdi_ray.agents.streaming import Decoding

MINIMAL_TEMPERATURE = 1e-5
"""Below this, logits divided by the temperature leave the range of float32; drawing is greedy long before."""

Top = tuple[tuple[int, float], ...]
"""Ids of the likeliest tokens with their log-probabilities, likeliest first."""


def draw(
    logits_SV: torch.Tensor, uniform_S1: torch.Tensor, *, temperature_S1: torch.Tensor, top_p_S1: torch.Tensor, nucleus: bool
) -> torch.Tensor:
    """Token ids (S) drawn from softmax(logits / temperature), cut to the nucleus; uniforms are float64 in [0, 1).

    `nucleus` says whether any top_p is below 1: only then is anything sorted.
    """
    shifted_SV = logits_SV - logits_SV.amax(dim=-1, keepdim=True)
    p_SV = (shifted_SV / temperature_S1.clamp_min(MINIMAL_TEMPERATURE)).softmax(dim=-1)
    if nucleus:
        sorted_SV, order_SV = p_SV.sort(dim=-1, descending=True)
        before_SV = sorted_SV.cumsum(dim=-1) - sorted_SV
        outside_SV = (before_SV >= top_p_S1) & (top_p_S1 < 1.0)
        outside_SV[:, 0] = False  # the likeliest token always stays
        p_SV = p_SV.masked_fill(torch.zeros_like(outside_SV).scatter(1, order_SV, outside_SV), 0.0)
    cumulative_SV = p_SV.double().cumsum(dim=-1)
    target_S1 = uniform_S1 * cumulative_SV[:, -1:]
    return torch.searchsorted(cumulative_SV, target_S1, right=True).squeeze(1).clamp_max(p_SV.shape[1] - 1)


@dataclass(slots=True, eq=False)
class Row:
    """One reply while it is decoded. The loop's thread writes it; whoever asked for it reads it."""

    decoding: Decoding
    adapter: int | None = None
    """Place of its adapter among the engine's; None is the model alone."""
    tokens: list[int] = field(default_factory=list)
    """Generated so far, the end-of-sequence token included."""
    logprobs: list[float] = field(default_factory=list)
    """Of each token under the model's own distribution."""
    tops: list[Top] = field(default_factory=list)
    """Of each token, where `top_logprobs` asks for any."""
    end: FinishReason | None = None
    """Why there will be no further token; None while there may be."""
    error: str | None = None
    """Why there will be no reply; None unless it failed."""
    entered_s: float = field(default_factory=perf_counter)
    started_s: float | None = None
    """When the model began to read the prompt; None before."""
    uniforms: np.random.Generator = field(init=False)
    penalty_V: torch.Tensor | None = None
    """What is subtracted from its logits; None without penalties, and before the first token."""

    def __post_init__(self) -> None:
        self.uniforms = np.random.default_rng(self.decoding.seed)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.end is not None or self.error is not None

    @property
    def queued_s(self) -> float:
        """Seconds it waited until the model read it."""
        return 0.0 if self.started_s is None else self.started_s - self.entered_s

    def confidence(self, tokens: int) -> float:
        """Mean probability of the first tokens, at least one; rounding must not lift it above 1."""
        return min(1.0, sum(map(exp, self.logprobs[:tokens])) / tokens)

    def add(self, token: int, logprob: float, top: Top | None, *, end_ids: frozenset[int]) -> None:
        """Write one more token, and note whether it was the last."""
        if isnan(logprob):
            self.error = "the model's numbers are no numbers (NaN); another dtype may help (bfloat16 instead of float16)"
            return
        self._penalise(token)
        if top is not None:
            self.tops.append(top)
        self.logprobs.append(logprob)
        self.tokens.append(token)
        if token in end_ids:
            self.end = "stop"
        elif len(self.tokens) >= self.decoding.max_tokens:
            self.end = "length"

    def _penalise(self, token: int) -> None:
        if self.penalty_V is not None:
            presence = 0.0 if token in self.tokens else self.decoding.presence_penalty
            self.penalty_V[token] += self.decoding.frequency_penalty + presence


class Witness(Protocol):
    """Who has to know which rows are read in a step, before it."""

    def enter(self, step: Sequence[tuple[int | None, int, bool]]) -> None:
        """Adapter, tokens read, and whether a token follows, of every row of the step in order."""
        ...


class RowChooser:
    """Stands where continuous batching has its logits processors, and leaves each row's token as its only maximum.

    The loop then takes the maximum (`do_sample=False`). Everything else about a token is handed over here, row by row, so that
    the loop's own outputs, which repeat a whole reply for every token, are not needed.
    """

    # What the loop asks of its logits processors: there are some, and they keep no numbers in the step's tensors.
    do_processing = True
    tensors_required = 0

    def __init__(
        self,
        rows: Mapping[str, Row],
        *,
        end_ids: frozenset[int],
        deliver: Callable[[list[tuple[str, Row]]], None],
        abandon: Callable[[str], None],
        witness: Witness | None = None,
    ) -> None:
        """`rows` are those somebody waits for, by their request's name; others in a step are decoded greedily for nobody.
        `deliver` gets the rows that were written, once a step, in the loop's thread; `abandon` takes a request that is read for
        nobody out of the loop, and may be called for it again."""
        self._rows = rows
        self._end_ids = end_ids
        self._deliver = deliver
        self._abandon = abandon
        self._witness = witness
        self._step: list[tuple[str, Row | None]] = []
        self.tokens_generated = 0
        """Since the start, for nobody included."""
        self.stepped_s = perf_counter()
        """When the last step began."""

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Requests bring no settings of their own to the loop: their rows hold them."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """There are no settings in the step's tensors."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Learn which rows the coming step reads, in their order."""
        self.stepped_s = now = perf_counter()
        self._step = []
        read = []
        for request in requests_in_batch:
            name = request.state.request_id
            row = self._rows.get(name)
            if row is None:  # the loop forgets a cancellation that it reads before the request
                self._abandon(name)
            elif row.started_s is None:
                row.started_s = now
            if request.has_new_token:
                self._step.append((name, row))
            read.append((row.adapter if row else None, request.query_length, request.has_new_token))
        if self._witness is not None:
            self._witness.enter(read)
        return arg_storage

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor, _args: torch.Tensor) -> torch.Tensor:
        """Choose the tokens of one step; `scores` holds a row of logits for each, and perhaps rows of no meaning behind them."""
        rows = [row for _, row in self._step]
        if not rows:
            return scores
        raw_BV = scores[: len(rows)]
        normaliser_B = raw_BV.logsumexp(dim=-1)
        tops = self._likeliest(rows, raw_BV, normaliser_B)
        logits_BV = self._penalised(rows, raw_BV)
        chosen_B = logits_BV.argmax(dim=-1)
        drawn = self._draw(rows, logits_BV, chosen_B)
        logprob_B = raw_BV.gather(1, chosen_B[:, None]).squeeze(1) - normaliser_B
        ids, logprobs = torch.stack([chosen_B.double(), logprob_B.double()]).tolist()  # one transfer from the device
        if drawn or logits_BV is not raw_BV:
            raw_BV.scatter_(1, chosen_B[:, None], torch.inf)
        self._write(ids, logprobs, tops)
        return scores

    def _write(self, ids: list[float], logprobs: list[float], tops: dict[int, Top]) -> None:
        self.tokens_generated += len(ids)
        written = []
        for place, (name, row) in enumerate(self._step):
            if row is not None and not row.over:
                row.add(int(ids[place]), logprobs[place], tops.get(place), end_ids=self._end_ids)
                written.append((name, row))
        self._deliver(written)

    @staticmethod
    def _likeliest(rows: Sequence[Row | None], raw_BV: torch.Tensor, normaliser_B: torch.Tensor) -> dict[int, Top]:
        """The likeliest tokens of the rows that ask for any, by their place in the step."""
        asked = {place: number for place, row in enumerate(rows) if row and (number := row.decoding.top_logprobs)}
        if not asked:
            return {}
        places = list(asked)
        logprobs_BK, ids_BK = raw_BV[places].topk(min(max(asked.values()), raw_BV.shape[1]), dim=-1)
        logprobs_BK = logprobs_BK - normaliser_B[places, None]
        pairs = zip(places, ids_BK.tolist(), logprobs_BK.tolist(), strict=True)
        return {place: tuple(zip(ids[: asked[place]], logprobs[: asked[place]], strict=True)) for place, ids, logprobs in pairs}

    @staticmethod
    def _penalised(rows: Sequence[Row | None], raw_BV: torch.Tensor) -> torch.Tensor:
        """The logits less each row's penalties; the very same tensor where there are none."""
        places = [
            place
            for place, row in enumerate(rows)
            if row is not None and (row.decoding.frequency_penalty or row.decoding.presence_penalty)
        ]
        if not places:
            return raw_BV
        penalties = []
        for place in places:
            row = rows[place]
            assert row is not None
            if row.penalty_V is None:
                row.penalty_V = torch.zeros_like(raw_BV[0])
            penalties.append(row.penalty_V)
        logits_BV = raw_BV.clone()
        logits_BV[places] -= torch.stack(penalties)
        return logits_BV

    @staticmethod
    def _draw(rows: Sequence[Row | None], logits_BV: torch.Tensor, chosen_B: torch.Tensor) -> bool:
        """Put drawn tokens in the place of the likeliest, for the rows that sample; whether there was one."""
        places = [place for place, row in enumerate(rows) if row is not None and row.decoding.temperature > 0.0]
        if not places:
            return False
        sampling = [row for row in rows if row is not None and row.decoding.temperature > 0.0]
        settings = [
            [row.uniforms.random() for row in sampling],
            [row.decoding.temperature for row in sampling],
            [row.decoding.top_p for row in sampling],
        ]
        uniform_S1, temperature_S1, top_p_S1 = torch.tensor(settings, dtype=torch.float64, device=logits_BV.device).unsqueeze(2)
        everywhere = len(places) == len(rows)
        ids_S = draw(
            logits_BV if everywhere else logits_BV[places],
            uniform_S1,
            temperature_S1=temperature_S1.float(),
            top_p_S1=top_p_S1.float(),
            nucleus=min(settings[2]) < 1.0,
        )
        chosen_B[slice(None) if everywhere else places] = ids_S
        return True

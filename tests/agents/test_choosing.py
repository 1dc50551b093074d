"""Which token comes next: drawn alike by every engine, row by row, whoever else is in the step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from magdi_ray.agents.base import Sampling
from magdi_ray.agents.choosing import Row, RowChooser
from magdi_ray.agents.streaming import Decoding
from magdi_ray.agents.transformers import TokenChooser

VOCABULARY = 50


def step(chooser: RowChooser, names: list[str], logits_BV: torch.Tensor, *, silent: tuple[str, ...] = ()) -> list[int]:
    """The tokens that the loop takes after one step; rows in `silent` still read their prompts."""
    requests: list[Any] = [
        SimpleNamespace(state=SimpleNamespace(request_id=name), has_new_token=name not in silent, query_length=1)
        for name in names
    ]
    chooser.prepare_tensor_args(requests, torch.empty(0))
    return chooser(torch.empty(0), logits_BV.clone(), torch.empty(0)).argmax(dim=-1).tolist()


def make(rows: dict[str, Row], delivered: list[list[str]] | None = None, abandoned: list[str] | None = None) -> RowChooser:
    seen, left = ([] if some is None else some for some in (delivered, abandoned))

    def deliver(written: list[tuple[str, Row]]) -> None:
        seen.append([name for name, _ in written])

    return RowChooser(rows, end_ids=frozenset({0}), deliver=deliver, abandon=left.append)


def logits(steps: int, rows: int) -> torch.Tensor:
    return torch.randn(steps, rows, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 2


def test_tokens_are_those_of_the_dynamic_engine_for_the_same_sampling() -> None:
    samplings = [
        Sampling(max_tokens=30),
        Sampling(temperature=0.7, seed=1, max_tokens=30),
        Sampling(temperature=2.0, top_p=0.6, seed=2, max_tokens=30),
        Sampling(temperature=1e-9, seed=3, max_tokens=30),
    ]
    numbers = logits(30, len(samplings))
    dynamic = TokenChooser(samplings, prompt_length=3, device=torch.device("cpu"))
    expected = [
        dynamic(torch.zeros(4, 3 + place, dtype=torch.long), numbers[place].clone()).argmax(dim=-1).tolist()
        for place in range(30)
    ]
    rows = {str(place): Row(Decoding(**dict(sampling))) for place, sampling in enumerate(samplings)}
    chooser = RowChooser(rows, end_ids=frozenset(), deliver=lambda _: None, abandon=lambda _: None)
    assert [step(chooser, list(rows), numbers[place]) for place in range(30)] == expected
    assert len({tuple(column) for column in zip(*expected, strict=True)}) == 4


def test_a_row_draws_the_same_whatever_rows_join_leave_or_stand_before_it() -> None:
    decoding, numbers = Decoding(temperature=1.5, seed=7, top_p=0.9, frequency_penalty=1.0), logits(12, 1)
    alone = Row(decoding)
    for place in range(12):
        step(make({"a": alone}), ["a"], numbers[place])
    company = Row(decoding)
    for place in range(12):
        others = {f"o{other}": Row(Decoding(temperature=1.0)) for other in range(place % 4)}
        crowd = torch.cat([torch.randn(len(others), VOCABULARY), numbers[place]])
        step(make({**others, "a": company}), [*others, "a"], crowd)
    assert company.tokens == alone.tokens
    assert company.logprobs == pytest.approx(alone.logprobs)


def test_penalties_are_taken_off_what_the_reply_holds_and_logprobs_are_not_penalised() -> None:
    numbers = torch.zeros(1, VOCABULARY)
    numbers[0, 10:14] = torch.tensor([3.0, 2.5, 2.0, 0.9])
    row = Row(Decoding(frequency_penalty=0.75, presence_penalty=0.5))
    for _ in range(6):
        step(make({"a": row}), ["a"], numbers)
    # 3.0 falls to 1.75, 2.5 to 1.25, 2.0 to 0.75; the second time by 0.75 each: 1.0, 0.5
    assert row.tokens == [10, 11, 12, 10, 11, 10]
    expected = numbers.log_softmax(dim=-1)[0]
    assert row.logprobs == pytest.approx([float(expected[token]) for token in row.tokens])


def test_likeliest_tokens_are_told_to_those_who_ask_and_so_many() -> None:
    rows = {
        "a": Row(Decoding(top_logprobs=3)),
        "b": Row(Decoding()),
        "c": Row(Decoding(top_logprobs=1)),
        "d": Row(Decoding(top_logprobs=0)),
    }
    numbers = logits(1, 4)[0]
    step(make(rows), list(rows), numbers)
    best = numbers.log_softmax(dim=-1).topk(3)
    assert [id for id, _ in rows["a"].tops[0]] == best.indices[0].tolist()
    assert [logprob for _, logprob in rows["a"].tops[0]] == pytest.approx(best.values[0].tolist())
    assert [len(row.tops and row.tops[0]) for row in rows.values()] == [3, 0, 1, 0]


def test_rows_that_still_read_or_that_nobody_waits_for_get_and_cost_nothing() -> None:
    rows, delivered = {"a": Row(Decoding()), "b": Row(Decoding())}, []  # type: ignore[var-annotated]
    chooser = make(rows, delivered)
    numbers = logits(1, 3)[0]
    chosen = step(chooser, ["a", "gone", "b"], numbers, silent=("a",))
    assert chosen[:2] == numbers[:2].argmax(dim=-1).tolist()
    assert (rows["a"].tokens, rows["b"].tokens) == ([], chosen[1:2])
    assert delivered == [["b"]]
    assert chooser.tokens_generated == 2
    assert rows["a"].started_s is not None


def test_a_request_that_is_read_for_nobody_is_taken_out_again_and_the_others_are_not() -> None:
    abandoned: list[str] = []
    chooser = make({"a": Row(Decoding())}, abandoned=abandoned)
    step(chooser, ["gone", "a", "reading"], logits(1, 3)[0], silent=("reading",))
    assert abandoned == ["gone", "reading"]


def test_a_row_ends_at_its_end_token_or_its_length_and_says_which() -> None:
    ends, long = Row(Decoding(max_tokens=9)), Row(Decoding(max_tokens=2))
    numbers = torch.zeros(2, VOCABULARY)
    numbers[1, 4] = 1.0
    chooser = make({"a": ends, "b": long})
    step(chooser, ["a", "b"], numbers)
    step(chooser, ["a", "b"], numbers)
    assert (ends.tokens, ends.end) == ([0], "stop")
    assert (long.tokens, long.end) == ([4, 4], "length")


def test_numbers_that_are_none_fail_the_row_and_not_its_neighbours() -> None:
    rows = {"a": Row(Decoding(temperature=1.0)), "b": Row(Decoding())}
    numbers = logits(1, 2)[0]
    numbers[0, 3] = torch.nan
    step(make(rows), ["a", "b"], numbers)
    assert "NaN" in str(rows["a"].error)
    assert (rows["b"].error, len(rows["b"].tokens)) == (None, 1)

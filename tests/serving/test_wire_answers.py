"""Responses in OpenAI's words: every chunk that is put together by hand is what its model says."""

from __future__ import annotations

import pytest

from magdi_ray.agents.streaming import Piece, Scores, TokenLogprob
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.ensemble import Ensembled, Vote, Wish
from magdi_ray.serving.wire.chat import ChatChunk, ChatChunks, ChatResponse
from magdi_ray.serving.wire.completions import CompletionChunk, CompletionChunks, CompletionLogprobs, CompletionResponse
from magdi_ray.serving.wire.fields import Head, Usage
from magdi_ray.serving.wire.score import ScoreResponse
from magdi_ray.serving.wire.votes import MagdiReport

HEAD = Head("chatcmpl-1", 5, 'stu"dent', None)
EURO = "€".encode()
TOKENS = (TokenLogprob("a", b"a", -1.0, (("a", b"a", -1.0), ("b", b"b", -2.0))),)


def test_usage_counts_a_prompt_once_and_every_choice() -> None:
    pieces = [Piece("a", 5, 2, finish_reason="stop"), Piece("b", 5, 3, finish_reason="length")]
    answer = ChatResponse.of(HEAD, pieces, logprobs=False)
    assert answer.usage.model_dump() == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    several = CompletionResponse.of(HEAD, pieces * 2, per_prompt=2, logprobs=None)
    assert several.usage.prompt_tokens == 10
    assert [choice.finish_reason for choice in several.choices] == ["stop", "length"] * 2


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("logprobs", [False, True])
def test_chat_chunks_are_what_their_model_says(usage: bool, logprobs: bool) -> None:
    chunks = ChatChunks(HEAD, logprobs=logprobs, usage=usage)
    written = chunks.of(1, Piece('"\n€', 3, 1, TOKENS)) + chunks.of(1, Piece("z", 3, 2, (), "stop"))
    read = [ChatChunk.model_validate_json(chunk, strict=True).choices[0] for chunk in written]
    assert [one.delta.content for one in read] == ["", '"\n€', "z", None]
    assert [one.delta.role for one in read] == ["assistant", None, None, None]
    assert [one.finish_reason for one in read] == [None, None, None, "stop"]
    assert (read[1].logprobs is not None) == logprobs
    assert all((b'"usage":null' in chunk) == usage for chunk in written)


def test_completion_chunks_are_what_their_model_says() -> None:
    chunks = CompletionChunks(HEAD, logprobs=2, usage=False)
    written = chunks.of(0, Piece("a", 3, 1, TOKENS)) + chunks.of(0, Piece("a", 3, 2, TOKENS, "length"))
    read = [CompletionChunk.model_validate_json(chunk, strict=True).choices[0] for chunk in written]
    assert [one.logprobs.text_offset for one in read if one.logprobs] == [[0], [1]]
    assert [(one.text, one.finish_reason) for one in read] == [("a", None), ("a", "length")]


def test_the_usage_chunk_has_no_choices() -> None:
    chunk = ChatChunk.model_validate_json(ChatChunks(HEAD, logprobs=False, usage=True).usage(Usage.of(3, 4)))
    assert (chunk.choices, chunk.usage) == ([], Usage.of(3, 4))


def test_offsets_count_characters_also_where_tokens_are_parts_of_one() -> None:
    tokens = [TokenLogprob("\ufffd", EURO[:1], -1.0), TokenLogprob("\ufffd", EURO[1:], -1.0), TokenLogprob("b", b"b", -1.0)]
    found = CompletionLogprobs.of(tokens, offset=10, top=False)
    assert found.text_offset == [10, 10, 11]
    assert found.top_logprobs is None


def test_offsets_are_those_the_engine_tells_where_a_token_is_not_in_the_text() -> None:
    tokens = tuple(TokenLogprob(text, text.encode(), -1.0, offset=at) for text, at in (("a", 0), ("<think>", 1), ("b", 1)))
    assert CompletionLogprobs.of(tokens, offset=0, top=False).text_offset == [0, 1, 1]
    chunks = CompletionChunks(HEAD, logprobs=0, usage=False)
    written = [*chunks.of(0, Piece("a", 3, 2, tokens[:2])), *chunks.of(0, Piece("b", 3, 3, tokens[2:], "length"))]
    read = [CompletionChunk.model_validate_json(chunk, strict=True).choices[0].logprobs for chunk in written]
    assert [one.text_offset for one in read if one] == [[0, 1], [1]]


def test_a_score_has_its_mean() -> None:
    scores = ScoreResponse.of("m", Scores(logprob=-3.0, tokens=4, contrast=None, correct=0.5)).scores
    assert (scores.mean_logprob, scores.contrast, scores.correct) == (-0.75, None, 0.5)


def test_a_report_tells_votes_and_the_teachers() -> None:
    teachers = Escalated("q1", "It is 4.", "4", 1.0, 2, ("ada", "ben"), 30, 12, False, None)
    votes = (Vote("5", 2, 2.0), Vote("4", 1, 1.0))
    piece = Piece("It is 4.", 3, 9, finish_reason="stop")
    report = MagdiReport.of(Ensembled(piece, "4", 0.5, votes, 1, 2, Wish(4, "majority", 0.6), teachers)).model_dump()
    assert report["votes"][0] == {"answer": "5", "count": 2, "weight": 2.0}
    assert (report["samples"], report["unread"], report["failed"], report["aggregate"]) == (4, 1, 2, "majority")
    assert report["escalated"]["tokens"] == 42
    assert report["escalated"]["agents"] == ["ada", "ben"]

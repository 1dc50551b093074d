"""Text from tokens as they come: nothing is told that changes later, and the parts are the whole."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from magdi_ray.agents.choosing import Row
from magdi_ray.agents.streaming import Decoding, Piece, joined
from magdi_ray.agents.transformers import decode_text
from magdi_ray.agents.weights import resolve_model
from magdi_ray.agents.written import UNFINISHED, Scribe, Spelling, Written, overlap

TEXT = "Naïve 数学 says 2 + 2 = 4 👩‍🚀🎉 — done.\n  Two  spaces, é́ and 한국어 too. "


def byte_level() -> PreTrainedTokenizerFast:
    """Knows every byte and a few words: most of what is no ASCII takes several tokens a character."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"], show_progress=False
    )
    words.train_from_iterator(["the spaces say that two and two are four"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """Llama's first tokenizer in small: underlined spaces, the first of which is not written, and byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", "▁says", "▁Two", "▁2", "▁+", "▁=", "▁4", "▁done", *map(chr, range(33, 127))]
    words = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    words.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def shipped() -> Any:
    return AutoTokenizer.from_pretrained(resolve_model("pkg://magdi_ray/tiny/models/ada"))


TOKENIZERS = {"byte level": byte_level, "sentencepiece": sentencepiece, "shipped": shipped}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def known(tokenizer: Any) -> str:
    """A text that the tokenizer can write."""
    return " ".join(map(tokenizer.decode, range(6, 60))) if tokenizer.name_or_path else TEXT


def told(tokenizer: Any, ids: list[int], sizes: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    """What is taken after every so many tokens."""
    written = Written(lambda some: decode_text(tokenizer, some), stops)
    texts, place = [], 0
    for size in sizes:
        written.add(ids[place : place + size])
        texts.append(written.take())
        place += size
    written.add(ids[place:])
    written.finish()
    return [*texts, written.take()]


@pytest.mark.parametrize("sizes", [[1] * 400, [3] * 100, []])
def test_the_parts_of_a_text_are_the_text_however_they_are_cut(tokenizer: Any, sizes: list[int]) -> None:
    ids = tokenizer(known(tokenizer) * 2, add_special_tokens=False)["input_ids"]
    texts = told(tokenizer, ids, sizes)
    assert "".join(texts) == decode_text(tokenizer, ids)
    assert not any(UNFINISHED in text for text in texts)
    assert len(sizes) == 0 or sum(map(bool, texts)) > 20


def test_tokens_that_are_no_text_are_told_in_the_end_and_not_held_for_ever() -> None:
    tokenizer = byte_level()
    broken = tokenizer.convert_tokens_to_ids("Ł")  # byte 0x9F, which stands inside characters only
    ids = [broken] * 60 + tokenizer("fine", add_special_tokens=False)["input_ids"]
    texts = told(tokenizer, ids, [1] * 64)
    assert any(texts[:40])
    assert "".join(texts) == decode_text(tokenizer, ids)


def test_special_tokens_are_no_text_and_cost_no_space() -> None:
    tokenizer = sentencepiece()
    words = tokenizer.convert_tokens_to_ids(["▁Two", "</s>", "▁says"])
    ids = [words[0], *[words[1]] * 12, words[2], *[words[1]] * 12, words[2]]
    assert "".join(told(tokenizer, ids, [1] * 30)) == "Two says says"


@pytest.mark.parametrize(("stops", "expected"), [(("says",), "Naïve 数学 "), (("学 s", "zz"), "Naïve 数"), (("zz", ""), None)])
def test_a_stop_string_ends_the_text_before_it_and_no_part_of_it_is_told(stops: tuple[str, ...], expected: str | None) -> None:
    tokenizer = byte_level()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    texts = told(tokenizer, ids, [1] * 200, stops)
    whole = decode_text(tokenizer, ids)
    assert "".join(texts) == (whole if expected is None else expected)
    for length in range(len(texts)):
        assert whole.startswith("".join(texts[:length]))


def test_what_may_become_a_stop_string_waits_until_it_is_none() -> None:
    written = Written(lambda ids: "".join(map(chr, ids)), ("\n\nQ:",))
    seen = []
    for letter in "a\n\nQ\n\nQ:b":
        written.add([ord(letter)])
        seen.append(written.take())
    assert seen == ["a", "", "", "", "\n\nQ", "", "", "", ""]
    assert written.stopped


def test_of_two_stop_strings_that_end_together_the_earlier_start_counts() -> None:
    written = Written(lambda ids: "".join({0: "x", 1: "one two"}[id] for id in ids), ("two", "ne"))
    written.add([0])
    written.add([1])
    assert written.take() == "xo"


def test_the_overlap_is_the_longest_ending_that_a_stop_string_begins_with() -> None:
    assert [overlap(text, "aab") for text in ("", "b", "a", "aa", "aaa", "aab", "baab")] == [0, 0, 1, 2, 2, 0, 0]


def test_every_token_s_bytes_put_together_are_the_text(tokenizer: Any) -> None:
    ids = tokenizer(known(tokenizer), add_special_tokens=False)["input_ids"]
    spelling = Spelling(tokenizer)
    whole = b"".join(spelling(id)[1] for id in ids).decode()
    assert whole.replace(" ", "") == decode_text(tokenizer, ids).replace(" ", "")
    assert all(text == raw.decode("utf-8", "replace") for text, raw in map(spelling, ids))


def test_special_tokens_and_tokens_nobody_knows_can_be_spelled() -> None:
    tokenizer = byte_level()
    spelling = Spelling(tokenizer)
    assert spelling(tokenizer.eos_token_id) == ("</s>", b"</s>")
    assert spelling(len(tokenizer) + 5) == ("", b"")


def read(tokenizer: Any, ids: list[int], decoding: Decoding, *, seed: int) -> list[Piece]:
    """The pieces of a reply that arrives in bursts of random size."""
    row, ends = Row(decoding), frozenset({tokenizer.eos_token_id})
    scribe = Scribe(row, 7, decode=lambda some: decode_text(tokenizer, some), spelling=Spelling(tokenizer), ends=ends)
    burst, pieces = random.Random(seed), []
    for place, id in enumerate(ids):
        row.add(id, -0.5, None, end_ids=ends)
        if (burst.random() < 0.4 or place == len(ids) - 1) and not scribe.finished and (piece := scribe.read()):
            pieces.append(piece)
    return pieces


@pytest.mark.parametrize("seed", range(5))
def test_logprobs_are_of_the_tokens_whose_text_has_been_told(seed: int) -> None:
    tokenizer = byte_level()
    ids = [*tokenizer(TEXT, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    told_text, told_bytes = "", b""
    for piece in read(tokenizer, ids, Decoding(top_logprobs=0), seed=seed):
        told_text += piece.text
        told_bytes += b"".join(token.raw for token in piece.logprobs)
        assert told_text.startswith(told_bytes.decode())
    assert told_bytes.decode() == told_text == TEXT


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_string_s_tokens_are_counted_and_not_told(seed: int) -> None:
    tokenizer = byte_level()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    whole = joined(read(tokenizer, ids, Decoding(top_logprobs=0, stop=("4 👩", "done")), seed=seed))
    assert whole.text == "Naïve 数学 says 2 + 2 = "
    assert b"".join(token.raw for token in whole.logprobs).decode() == whole.text
    assert decode_text(tokenizer, ids[: whole.tokens_out]).startswith(whole.text + "4 👩")
    assert (whole.finish_reason, whole.tokens_in) == ("stop", 7)
    assert whole.confidence == pytest.approx(0.6065, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_every_token_s_offset_is_where_its_text_begins_and_special_tokens_are_no_text(seed: int) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    ids = tokenizer("<think>Two<think> €ten<think>", add_special_tokens=False)["input_ids"]
    whole = joined(read(tokenizer, ids, Decoding(top_logprobs=0, max_tokens=len(ids)), seed=seed))
    assert whole.text == "Two €ten"
    assert [token.text for token in whole.logprobs].count("<think>") == 3
    raws = [b"" if token.text == "<think>" else token.raw for token in whole.logprobs]
    expected = [len(b"".join(raws[:place]).decode(errors="ignore")) for place in range(len(raws))]
    assert [token.offset for token in whole.logprobs] == expected


def test_offsets_are_of_the_text_that_is_written_spaces_between_tokens_included() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.convert_tokens_to_ids(["▁Two", "▁says", "</s>", "▁2"])
    row = Row(Decoding(top_logprobs=0, max_tokens=4))
    for id in ids:
        row.add(id, -0.5, None, end_ids=frozenset())
    scribe = Scribe(row, 1, decode=lambda some: decode_text(tokenizer, some), spelling=Spelling(tokenizer), ends=frozenset())
    piece = scribe.read()
    assert piece is not None
    assert (piece.text, [token.offset for token in piece.logprobs]) == ("Two says 2", [0, 3, 8, 8])

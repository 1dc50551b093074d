"""What a reply says while its tokens still come: text that will not change any more, and none that belongs to a stop string.

Tokens are not text: a character may take several of them, and many tokenizers write a space only between tokens, never before the
first. So tokens are decoded together with some that came before them, and what may still change is held back: characters that
are not complete, and an ending that may become a stop string. The joined parts are what decoding everything at once gives.

It knows no model and no event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from magdi_ray.agents.choosing import Row, Top
from magdi_ray.agents.streaming import Piece, TokenLogprob

UNFINISHED = "\ufffd"
"""How decoding writes a character whose bytes are not all there, or that is none."""

WINDOW = 8
"""Tokens after which the start of what is decoded together moves on; that much lies before it at least."""

PATIENCE = 24
"""Tokens without a complete character after which they are taken for what they are: bytes that are no text."""

LEAST_LOGPROB = -9999.0
"""Written for a token that the model holds to be impossible; minus infinity is no number in JSON."""


class Written:
    """The text of one reply, from its tokens. A stop string ends it, and is no part of it."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(filter(None, stops))
        self._longest = max(map(len, self._stops), default=0)
        self._ids: list[int] = []
        self._start = 0
        """Tokens from here on are decoded together."""
        self._mark = 0
        """Where `_start` moves to next: between two tokens, and between two characters."""
        self._seen = 0
        """Characters of the text from `_start` on that have been read off."""
        self._unfinished = 0
        """Last tokens whose characters are not complete."""
        self._held = ""
        """Complete characters that have not been taken."""
        self._length = 0
        """Characters of the reply: those taken and those held."""
        self.ends: list[int] = []
        """For every token whose characters are complete: how long the reply was after it, and after those added with it."""
        self.begins: list[int] = []
        """For every token: how long the reply was before it, or before those that were added with it."""
        self.stopped = False
        """Whether a stop string has been written."""

    @property
    def taken(self) -> int:
        """Characters that have been taken."""
        return self._length - len(self._held)

    def add(self, ids: Sequence[int]) -> None:
        """Write further tokens. Nothing is written after a stop string."""
        if self.stopped or not ids:
            return
        self._ids.extend(ids)
        self.begins += [self._length] * len(ids)
        self._unfinished += len(ids)
        text = self._decode(self._ids[self._start :])
        complete = not text.endswith(UNFINISHED) or self._unfinished > PATIENCE
        self._read(text if complete else text.rstrip(UNFINISHED))
        if self.stopped or not complete:
            return
        self._settle()
        # Something must be seen of the tokens that stay: only behind them a space is decoded as one.
        if len(self._ids) - self._mark >= WINDOW and (kept := self._decode(self._ids[self._mark :])):
            self._start, self._mark, self._seen = self._mark, len(self._ids), len(kept)

    def finish(self) -> None:
        """No token follows: nothing is held back any longer."""
        if not self.stopped:
            self._read(self._decode(self._ids[self._start :]))
        if not self.stopped:
            self._settle()
            self._stops = ()

    def take(self) -> str:
        """The text since the last time, but for what may become a stop string."""
        held = 0 if self.stopped else max((overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - held
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _read(self, text: str) -> None:
        """Read off what is new in the text from `_start` on, and look for stop strings in it."""
        new = text[self._seen :]
        if not new:
            return
        self._seen = len(text)
        begin = max(0, len(self._held) - self._longest + 1)
        self._held += new
        self._length += len(new)
        cuts = [cut for stop in self._stops if (cut := self._held.find(stop, begin)) >= 0]
        if cuts:
            self.stopped = True
            self._length -= len(self._held) - min(cuts)
            self._held = self._held[: min(cuts)]

    def _settle(self) -> None:
        self.ends += [self._length] * self._unfinished
        self._unfinished = 0


def overlap(text: str, stop: str) -> int:
    """Length of the longest ending of a text with which a stop string begins; less than the whole stop string."""
    longest = min(len(stop) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


class Spelling:
    """What single tokens are: their bytes, and what they say by themselves."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        said = tokenizer.convert_tokens_to_string
        self._bytes = {sign: byte for byte, sign in byte_signs().items()} if said(["Ġ"]) == " " else None
        """The byte behind every sign of a byte-level vocabulary; None for others."""
        self._has_byte_tokens = said(["<0x41>"]) == "A"
        self._has_underlined_spaces = said(["a", "▁a"]) == "a a"
        self._added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
        self._known: dict[int, tuple[str, bytes]] = {}

    def __call__(self, id: int) -> tuple[str, bytes]:
        """Text and bytes of one token; of a token that is part of a character, U+FFFD and its bytes."""
        known = self._known.get(id)
        if known is None:
            raw = self._raw(id)
            known = self._known[id] = (raw.decode("utf-8", errors="replace"), raw)
        return known

    def _raw(self, id: int) -> bytes:
        if id in self._added:
            return str(self._added[id]).encode()
        token = self._tokenizer.convert_ids_to_tokens(id)
        if token is None:  # the model embeds more tokens than the tokenizer knows
            return b""
        if self._bytes is not None and all(sign in self._bytes for sign in token):
            return bytes(self._bytes[sign] for sign in token)
        if self._has_byte_tokens and len(token) == len("<0x41>") and token.startswith("<0x"):
            return bytes([int(token[3:5], 16)])
        if self._has_underlined_spaces:
            return str(token).replace("▁", " ").encode()
        return str(self._tokenizer.convert_tokens_to_string([token])).encode()


def byte_signs() -> dict[int, str]:
    """The printable sign of each byte in byte-level vocabularies: itself where it is one, else the next from U+0100 on."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in themselves]
    return {byte: chr(byte) for byte in themselves} | {byte: chr(0x100 + place) for place, byte in enumerate(others)}


class Scribe:
    """Turns what the loop writes into pieces of a reply: text, counts and log-probabilities, each token told once."""

    def __init__(
        self, row: Row, tokens_in: int, *, decode: Callable[[list[int]], str], spelling: Spelling, ends: frozenset[int]
    ) -> None:
        """`ends` are the ids of end-of-sequence tokens, which are no part of the text."""
        self._row = row
        self._tokens_in = tokens_in
        self._spelling = spelling
        self._ends = ends
        self._written = Written(decode, row.decoding.stop)
        self._asked = row.decoding.top_logprobs is not None
        self._one_by_one = self._asked or any(row.decoding.stop)
        self._read = 0
        """Tokens of the row that have been read."""
        self._told = 0
        """Tokens whose log-probabilities have been told."""
        self.finished = False
        """Whether the last piece has been written."""

    def read(self) -> Piece | None:
        """What has been written since the last time, as one piece; None where nothing can be told yet."""
        row, written = self._row, self._written
        over, count = row.end, len(row.tokens)  # in this order: once it is over, all tokens are there
        ids = row.tokens[self._read : count]
        body = ids[:-1] if ids and ids[-1] in self._ends else ids
        if self._one_by_one:
            for id in body:
                self._read += 1
                written.add([id])
                if written.stopped:
                    break
        else:
            written.add(body)
        if not written.stopped:
            self._read = count
            if over:
                written.finish()
        self.finished = written.stopped or over is not None
        text = written.take()
        logprobs = self._logprobs()
        if not (text or logprobs or self.finished):
            return None
        return Piece(
            text=text,
            tokens_in=self._tokens_in,
            tokens_out=self._read,
            logprobs=logprobs,
            finish_reason=("stop" if written.stopped else over) if self.finished else None,
            confidence=row.confidence(self._read) if self.finished else None,
            queued_s=row.queued_s,
        )

    def _logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of the tokens whose text has been taken as a whole since the last time."""
        if not self._asked:
            return ()
        first, ends = self._told, self._written.ends
        while self._told < len(ends) and ends[self._told] <= self._written.taken:
            self._told += 1
        return tuple(self._logprob(place) for place in range(first, self._told))

    def _logprob(self, place: int) -> TokenLogprob:
        top: Top = self._row.tops[place] if self._row.tops else ()
        text, raw = self._spelling(self._row.tokens[place])
        likeliest = tuple((*self._spelling(id), max(logprob, LEAST_LOGPROB)) for id, logprob in top)
        logprob = max(self._row.logprobs[place], LEAST_LOGPROB)
        return TokenLogprob(text, raw, logprob, likeliest, offset=self._written.begins[place])

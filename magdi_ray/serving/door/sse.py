"""A stream as server-sent events: `data: {...}`, a blank line, and `data: [DONE]` at the end of a stream that ended well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from magdi_ray.agents.streaming import Piece
from magdi_ray.serving.access import Visit
from magdi_ray.serving.door.errors import GONE, ClientGone, as_api_error, too_late
from magdi_ray.serving.door.waiting import Merged
from magdi_ray.serving.wire.errors import ApiError
from magdi_ray.serving.wire.fields import Usage

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""No proxy on the way may keep the events back."""

LAST_WORDS_S = 1.0
"""So long may it take to tell a client that its time is over."""


class Chunks(Protocol):
    """Writes the chunks of one stream."""

    def of(self, index: int, piece: Piece) -> list[bytes]:
        """The chunks of a choice's piece, those that begin and end a choice included."""
        ...

    def usage(self, usage: Usage) -> bytes:
        """The chunk of the token counts."""
        ...


class Tally:
    """Token counts of all choices of a stream, so far."""

    def __init__(self, per_prompt: int, pieces: Sequence[Piece] = (), *, texts: bool) -> None:
        """With one whole reply a choice, or with none yet; `texts` are kept where they are to be logged."""
        self._per_prompt = per_prompt
        self._last: dict[int, Piece] = {}
        self.queued_s = 0.0
        """The longest wait of a prompt."""
        self._texts: dict[int, list[str]] | None = {} if texts else None
        for index, piece in enumerate(pieces):
            self.add(index, piece)

    def add(self, index: int, piece: Piece) -> None:
        """Note a choice's piece."""
        self._last[index] = piece
        self.queued_s = max(self.queued_s, piece.queued_s)
        if self._texts is not None:
            self._texts.setdefault(index, []).append(piece.text)

    def replies(self) -> list[str]:
        """The texts in the order of the choices; none where they are not kept."""
        return ["".join(parts) for _, parts in sorted((self._texts or {}).items())]

    @property
    def tokens_in(self) -> int:
        """Of every prompt once; `per_prompt` choices in a row have the same."""
        counts: dict[int, int] = {}
        for index, piece in self._last.items():
            counts[index // self._per_prompt] = piece.tokens_in
        return sum(counts.values())

    @property
    def tokens_out(self) -> int:
        """Of all choices."""
        return sum(piece.tokens_out for piece in self._last.values())


class EventStream(Response):
    """The response of a stream whose first pieces are already here."""

    media_type = "text/event-stream"

    def __init__(
        self,
        merged: Merged,
        first: list[tuple[int, Piece]],
        chunks: Chunks,
        *,
        tally: Tally,
        visit: Visit,
        timeout_s: float,
        counts: bool,
        done: Callable[[Tally, bool, bool], None],
    ) -> None:
        """`done` is called once, at the end, with whether all was sent, and whether it was not through a fault of ours."""
        super().__init__(status_code=200, headers=HEADERS)
        del self.headers["content-length"]
        self._merged, self._first, self._chunks, self._tally = merged, first, chunks, tally
        self._visit, self._timeout_s, self._counts, self._done = visit, timeout_s, counts, done

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it all; ends early where the client leaves, an engine fails or the time is over."""
        complete = failed = False
        try:
            async with asyncio.timeout_at(self._visit.deadline) as limit:
                await self._send_all(partial(sent, send))
                complete = True
        except TimeoutError as error:
            failed = not limit.expired()
            await self._fail(send, error if failed else too_late(self._timeout_s))
        except ClientGone:
            self._visit.status, self._visit.error = GONE, "client_gone"
        except Exception as error:
            failed = True
            await self._fail(send, error)
        finally:
            for index, piece in self._merged.unread():
                self._tally.add(index, piece)  # written for a client that did not read on
            self._done(self._tally, complete, failed)
            await self._merged.close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        batch = self._first
        while batch:
            events: list[bytes] = []
            for index, piece in batch:
                self._tally.add(index, piece)
                events += self._chunks.of(index, piece)
            await send({"type": "http.response.body", "body": b"".join(map(event, events)), "more_body": True})
            batch = await self._merged.batch()
        last = b"data: [DONE]\n\n"
        if self._counts:
            last = event(self._chunks.usage(Usage.of(self._tally.tokens_in, self._tally.tokens_out))) + last
        await send({"type": "http.response.body", "body": last})

    async def _fail(self, send: Send, error: Exception) -> None:
        """Tell an error in the midst of a stream, whose status was sent long ago."""
        told: ApiError = as_api_error(error, self._visit)
        self._visit.error = told.code
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await sent(send, {"type": "http.response.body", "body": event(told.body())})
        except (TimeoutError, ClientGone):
            pass  # it does not read


async def sent(send: Send, message: Message) -> None:
    """Send, where somebody is there to read it.

    Raises:
        ClientGone: nobody is.
    """
    try:
        await send(message)
    except OSError as error:
        raise ClientGone from error


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % data

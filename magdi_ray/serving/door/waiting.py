"""Waiting for the backend while watching the client and the clock: whoever leaves, or takes too long, ends the generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from starlette.types import Receive

from magdi_ray.agents.streaming import Piece
from magdi_ray.errors import EngineError
from magdi_ray.serving.door.errors import ClientGone

T = TypeVar("T")

FAREWELL_S = 2.0
"""So long is what was cancelled waited for."""


class Late(Exception):
    """The time of a request is over."""


async def client_left(receive: Receive) -> None:
    """Return when the client is gone. Only after its body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def attended(work: Coroutine[Any, Any, T], receive: Receive, deadline: float) -> T:
    """The result of some work, for as long as the client waits for it and there is time.

    Raises:
        ClientGone: the client left; the work is cancelled.
        Late: it took too long; the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(client_left(receive))
    try:
        left_s = deadline - asyncio.get_running_loop().time()
        await asyncio.wait({task, gone}, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone if gone.done() else Late
    finally:
        gone.cancel()
        if not task.done():
            await dismiss([task])


async def dismiss(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and see them end."""
    for task in tasks:
        task.cancel()
    if tasks:
        done, _ = await asyncio.wait(tasks, timeout=FAREWELL_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # looked at, or it would be complained about


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; where one fails the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


class Merged:
    """Several streams as one, in the order in which their pieces come. Each is read by a task of its own, and no slow client
    holds up the generation: what waits here is never more than the replies."""

    def __init__(self, streams: Sequence[AsyncIterator[Piece]], receive: Receive) -> None:
        self._queue: asyncio.Queue[tuple[int, Piece] | Exception] = asyncio.Queue()
        self._open = len(streams)
        self._tasks = [asyncio.ensure_future(self._feed(index, stream)) for index, stream in enumerate(streams)]
        self._tasks.append(asyncio.ensure_future(self._watch(receive)))

    async def batch(self) -> list[tuple[int, Piece]]:
        """All pieces that are there, at least one; none at all when every stream has ended.

        Raises:
            ClientGone: the client left.
            EngineError: or whatever else a stream raised; the pieces before it were given.
        """
        if self._open == 0 and self._queue.empty():
            return []
        found: list[tuple[int, Piece]] = []
        while not found or not self._queue.empty():
            item = self._queue.get_nowait() if found else await self._queue.get()
            if isinstance(item, Exception):
                if not found:
                    raise item
                self._queue.put_nowait(item)  # after what came before it
                break
            found.append(item)
            self._open -= item[1].finish_reason is not None
        return found

    def unread(self) -> list[tuple[int, Piece]]:
        """The pieces that are there and that nobody asked for any more."""
        found = []
        while not self._queue.empty():
            if not isinstance(item := self._queue.get_nowait(), Exception):
                found.append(item)
        return found

    async def close(self) -> None:
        """End every stream that is still open."""
        await dismiss([task for task in self._tasks if not task.done()])

    async def _feed(self, index: int, stream: AsyncIterator[Piece]) -> None:
        ended = False
        try:
            async for piece in stream:
                self._queue.put_nowait((index, piece))
                ended = piece.finish_reason is not None
            if not ended:
                raise EngineError("The stream ended before its reply did.")
        except Exception as error:
            self._queue.put_nowait(error)
        finally:
            close: Awaitable[None] | None = stream.aclose() if hasattr(stream, "aclose") else None
            if close is not None:
                await close

    async def _watch(self, receive: Receive) -> None:
        await client_left(receive)
        self._queue.put_nowait(ClientGone())

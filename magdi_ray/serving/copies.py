"""The student's copies behind a Serve handle, as a `Backend`: which failure is survived, what the others are called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential, wait_random

from magdi_ray.agents.base import BusyError
from magdi_ray.agents.pool import RETRIED, RETRY_SECONDS
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores
from magdi_ray.errors import EngineError, MagdiError

Result = TypeVar("Result")

LOST = tuple(kind for kind in RETRIED if kind is not BackPressureError)
"""The copy died, or was not there: another one answers the same request as well."""


class Copies:
    """Asks whichever copy is least busy."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        """See `Backend`; asked again where the copy dies."""
        return await self._surviving(lambda: self._handle.complete.remote(prompt, decoding))

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        """See `Backend`; asked again where the copy dies."""
        return await self._surviving(lambda: self._handle.score.remote(prompt, reply, adapter))

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        """See `Backend`. A copy that dies before its first piece is survived: nobody has read anything yet."""
        pieces, first = await self._surviving(lambda: self._begin(prompt, decoding))
        try:
            yield first
            while first.finish_reason is None:
                try:
                    first = await anext(pieces)
                except StopAsyncIteration:
                    raise EngineError("The copy of the model ended a reply without saying how.") from None
                except Exception as error:
                    raise _named(error) from error
                yield first
        finally:
            pieces.cancel()

    async def _begin(self, prompt: Prompt, decoding: Decoding) -> tuple[Any, Piece]:
        pieces = self._streaming.stream.remote(prompt, decoding)
        try:
            return pieces, await anext(pieces)
        except BaseException:
            pieces.cancel()
            raise

    async def _surviving(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        retrying = AsyncRetrying(
            stop=lambda state: state.idle_for >= RETRY_SECONDS,
            wait=wait_exponential(multiplier=0.2, max=5.0) + wait_random(0.0, 0.5),
            retry=retry_if_exception(_lost),
            reraise=True,
        )

        async def once() -> Result:
            response = ask()
            try:
                return await response
            except BaseException:
                if cancel := getattr(response, "cancel", None):
                    cancel()  # whoever waited has left; the copy is to stop, too
                raise

        try:
            return await retrying(once)
        except Exception as error:
            raise _named(error) from error


def _lost(error: BaseException) -> bool:
    return isinstance(error.cause if isinstance(error, RayTaskError) else error, LOST)


def _named(error: Exception) -> Exception:
    """What happened, in this project's own errors."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, MagdiError):
        return cause
    if isinstance(cause, BackPressureError):
        return BusyError("All copies of the model are busy, and as many requests wait as may.")
    if isinstance(cause, LOST):
        return EngineError(f"The copy of the model that was writing this reply ended: {type(cause).__name__}.")
    if isinstance(cause, (TaskCancelledError, RequestCancelledError)):
        return EngineError("The reply was broken off: the copy of the model that wrote it is being retired.")
    if isinstance(error, (RayError, RayServeException)):
        return EngineError(f"The model could not be asked: {type(cause).__name__}: {cause}")
    return error

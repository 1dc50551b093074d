"""The openai client of one endpoint: opened in the event loop that uses it, closed with that loop. Knows no completion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import httpx2
import openai

CONNECTIONS = 10_000
"""More than any limiter admits: nothing waits here, where nobody would see it."""
KEEPALIVE_S = 4.0
"""An idle connection is given up before the server does so, after 5 s with uvicorn: it would break under the next request."""

NOT_SENT = (
    *("X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-OS", "X-Stainless-Arch", "X-Stainless-Async"),
    *("X-Stainless-Runtime", "X-Stainless-Runtime-Version"),
)
"""Headers about this machine, which are no provider's business and a tenth of the time a call takes."""


class Connection:
    """Posts JSON to one endpoint, through the official client and aiohttp's transport.

    The client's own transport takes 18 ms of CPU a request with 256 under way, aiohttp's less than one.
    """

    def __init__(self, base_url: str, path: str, key: str) -> None:
        self._base_url = base_url
        # A whole address spares the client joining the parts anew for each request.
        self._address = f"{base_url.rstrip('/')}{path}"
        self._key = key
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._life: AsyncIterator[None] | None = None

    async def post(self, content: bytes) -> httpx2.Response:
        """Send once.

        Raises:
            openai.APIStatusError: the status is 400 or more.
            openai.APIConnectionError: no connection, or it broke.
        """
        client = self._client
        if client is None or self._loop is not asyncio.get_running_loop():
            client = await self._open()
        return await client.post(self._address, cast_to=httpx2.Response, content=content)

    async def close(self) -> None:
        """Close all connections. The next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _open(self) -> openai.AsyncOpenAI:
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEPALIVE_S)
        client = self._client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._key,
            max_retries=0,
            timeout=None,
            default_headers=cast("dict[str, str]", {name: openai.Omit() for name in NOT_SENT}),  # taken, though not declared
            http_client=openai.DefaultAioHttpClient(limits=limits, timeout=None),
        )
        self._loop = asyncio.get_running_loop()
        self._life = _until_the_loop_ends(client)
        await anext(self._life)
        return client


async def _until_the_loop_ends(client: openai.AsyncOpenAI) -> AsyncIterator[None]:
    """A loop that ends finishes the generators begun in it, while it can still close connections."""
    try:
        yield
    finally:
        await client.close()

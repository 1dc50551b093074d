"""The HTTP client beneath the openai client: aiohttp sends, and nothing is done that a single POST of JSON does not need.

httpx's own way through authentication, redirects, cookies, event hooks and streamed bodies costs as much as the rest of a call.
Proxies are those of the environment, redirects are followed, and replies come decompressed, as with httpx.
"""

from __future__ import annotations

import urllib.request
from typing import Any

import aiohttp
import httpx2
from multidict import CIMultiDict
from yarl import URL

KEEPALIVE_S = 4.0
"""An idle connection is given up before the server does so, after 5 s with uvicorn: it would break under the next request."""

OWN = frozenset({"host", "connection", "content-length"})
"""Headers that aiohttp writes itself."""


class Poster(httpx2.AsyncClient):
    """Sends to one address, and reads each reply whole. It is opened in a running event loop."""

    def __init__(self, address: str) -> None:
        # The transport is never asked; given one, httpx loads no certificates for its own.
        super().__init__(transport=httpx2.AsyncBaseTransport(), timeout=None)
        self._target = URL(address)
        self._through = proxy_of(self._target)
        verified = httpx2.create_ssl_context() if self._target.scheme == "https" else True
        self._session = aiohttp.ClientSession(
            # No limit: what is under way is bounded by admission, where whoever waits is seen.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=verified),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
        """Send a request to the address.

        Raises:
            httpx2.NetworkError: no connection, or it broke.
        """
        headers = CIMultiDict(item for item in request.headers.multi_items() if item[0] not in OWN)
        options: dict[str, Any] = {"data": request.read(), "headers": headers, "proxy": self._through}
        try:
            async with self._session.request(request.method, self._target, **options) as answer:
                content = await answer.read()
        except aiohttp.ClientError as error:
            raise httpx2.NetworkError(str(error), request=request) from error
        return httpx2.Response(answer.status, headers=answer.raw_headers, content=content, request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()
        await super().aclose()


def proxy_of(address: URL) -> str | None:
    """The environment's proxy for an address: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, unless NO_PROXY names its host."""
    if urllib.request.proxy_bypass(address.host or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(address.scheme) or proxies.get("all")

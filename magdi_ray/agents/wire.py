"""The HTTP client beneath the openai client: aiohttp sends, and nothing is done that a single POST of JSON does not need.

httpx's own way through authentication, redirects, cookies, event hooks and streamed bodies costs as much as the rest of a call.
Proxies are those of the environment, and replies come decompressed, as with httpx. An endpoint is not trusted: its reply is read
up to `LARGEST` bytes, packed or not, and a redirect is followed only where it stays with the host that was named.
"""

from __future__ import annotations

import json
import urllib.request
import zlib
from typing import Any

import aiohttp
import httpx2
from multidict import CIMultiDict
from yarl import URL

KEEPALIVE_S = 4.0
"""An idle connection is given up before the server does so, after 5 s with uvicorn: it would break under the next request."""

OWN = frozenset({"host", "connection", "content-length", "accept-encoding"})
"""Headers that are written here or by aiohttp."""

LARGEST = 16 << 20
"""Bytes of a reply, as it is sent and unpacked. A chat completion of a hundred thousand tokens has a thirtieth of them."""

REDIRECTS = 5
"""That are followed, one after the other."""

SENT_ON = frozenset({307, 308})
"""Redirects that keep method and body; after any other a POST would become a GET."""


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
        headers["Accept-Encoding"] = "gzip, deflate"
        options: dict[str, Any] = {"data": request.read(), "headers": headers, "proxy": self._through}
        target = self._target
        try:
            for _step in range(REDIRECTS):
                async with self._session.request(request.method, target, allow_redirects=False, **options) as answer:
                    place = answer.headers.get("Location", "") if answer.status in SENT_ON else ""
                    further = target.join(URL(place)) if place else target
                    if further == target:
                        return await _read(answer, request)
                    if not same_host(target, further):
                        return _refused(answer, further, request)
                target = further
        except (aiohttp.ClientError, ValueError) as error:
            raise httpx2.NetworkError(str(error), request=request) from error
        raise httpx2.NetworkError(f"more than {REDIRECTS} redirects", request=request)

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


def same_host(source: URL, target: URL) -> bool:
    """Whether a redirect stays where it began: at most from http to https. Elsewhere it would take prompts to strangers, or reach
    services of this machine's own network."""
    upgraded = (source.scheme, target.scheme) == ("http", "https")
    return source.host == target.host and (upgraded or source.origin() == target.origin())


def _refused(answer: aiohttp.ClientResponse, target: URL, request: httpx2.Request) -> httpx2.Response:
    """The redirect itself as the answer, in words: asked again it would say the same."""
    told = (
        f"the endpoint sends requests on to {target.origin()}, which is not followed; name that host in base_url if it is right"
    )
    return httpx2.Response(answer.status, content=json.dumps({"error": {"message": told}}).encode(), request=request)


async def _read(answer: aiohttp.ClientResponse, request: httpx2.Request) -> httpx2.Response:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > LARGEST:
            raise aiohttp.ClientPayloadError(f"a reply of more than {LARGEST} bytes")
        parts.append(part)
    content = unpacked(b"".join(parts), answer.headers.get("Content-Encoding", "identity"))
    headers = [
        (name, value) for name, value in answer.raw_headers if name.lower() not in (b"content-encoding", b"content-length")
    ]
    return httpx2.Response(answer.status, headers=headers, content=content, request=request)


def unpacked(content: bytes, encoding: str) -> bytes:
    """A body as it was before it was packed.

    Raises:
        aiohttp.ClientPayloadError: it is packed in a way nobody asked for, is damaged, or is larger than `LARGEST`.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") or not content:
        return content
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise aiohttp.ClientPayloadError(f"a reply packed as {encoding[:40]!r}; gzip and deflate were asked for")
    bare = encoding == "deflate" and content[0] & 0x0F != zlib.DEFLATED  # without zlib's header, as some servers send it
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
    try:
        plain = unpacker.decompress(content, LARGEST + 1)
    except zlib.error as error:
        raise aiohttp.ClientPayloadError(f"a damaged reply: {error}") from error
    if len(plain) > LARGEST:
        raise aiohttp.ClientPayloadError(f"a reply that unpacks to more than {LARGEST} bytes")
    if not unpacker.eof:
        raise aiohttp.ClientPayloadError("a reply that was cut off")
    return plain

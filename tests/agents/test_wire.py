"""What users of httpx rely on holds for the lean client too: compression, redirects, proxies of the environment."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import openai
import pytest
from yarl import URL

from magdi_ray.agents.connection import Connection
from magdi_ray.agents.wire import proxy_of

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Endpoint(BaseHTTPRequestHandler):
    """Answers in gzip; tells in headers what came."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        told = {"X-Body": self.rfile.read(int(self.headers["Content-Length"])).decode(), "X-Path": self.path}
        body = gzip.compress(b'{"error": {"message": "so it is"}}')
        if self.path.endswith("/moved"):
            self.send_response(307)
            told, body = {"Location": "/v1/here"}, b""
        else:
            self.send_response(400 if self.path.endswith("/bad") else 200)
            told |= {"Content-Encoding": "gzip", "X-Agent": self.headers["User-Agent"]}
        for name, value in told.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def post(url: str, path: str) -> httpx2.Response:
    async def once() -> httpx2.Response:
        connection = Connection(url, path, "key")
        try:
            return await connection.post(b'{"a": 1}')
        finally:
            await connection.close()

    return asyncio.run(once())


def test_replies_come_decompressed_and_redirects_are_followed(port: int) -> None:
    for path in ("/here", "/moved"):
        response = post(f"http://127.0.0.1:{port}/v1", path)
        assert response.json() == {"error": {"message": "so it is"}}
        assert (response.headers["X-Body"], response.headers["X-Path"]) == ('{"a": 1}', "/v1/here")
        assert response.headers["X-Agent"].startswith("AsyncOpenAI/Python")


def test_the_official_client_still_tells_what_failed(port: int) -> None:
    with pytest.raises(openai.BadRequestError, match="so it is"):
        post(f"http://127.0.0.1:{port}/v1", "/bad")
    with pytest.raises(openai.APIConnectionError) as caught:
        post("http://127.0.0.1:9/v1", "/here")
    assert "127.0.0.1:9" in str(caught.value.__cause__)


def test_requests_go_through_the_proxy_of_the_environment(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    assert post("http://provider.invalid/v1", "/here").headers["X-Path"] == "http://provider.invalid/v1/here"
    monkeypatch.setenv("no_proxy", "provider.invalid")
    assert proxy_of(URL("http://provider.invalid/v1")) is None
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    assert proxy_of(URL("https://other.invalid/v1")) == "http://127.0.0.1:1"

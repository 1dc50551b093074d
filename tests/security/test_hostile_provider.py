"""An endpoint that means harm: it sends too much, packs bombs, redirects to where it pleases, and repeats keys."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
from yarl import URL

from magdi_ray.agents import wire
from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.failures import CallFailed
from magdi_ray.agents.wire import same_host, unpacked
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.load import parse_section
from magdi_ray.errors import ConfigError

KEY = "sk-very-secret-0123456789"
FINE = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], "model": "m"}


class Hostile(BaseHTTPRequestHandler):
    """Does harm as the path says, and keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    seen: tuple[tuple[str, str | None], ...] = ()
    elsewhere = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen += ((self.path, self.headers.get("Authorization")),)
        status, headers, body = 200, {}, json.dumps(FINE).encode()
        match self.path.split("/")[1]:
            case "bomb":
                headers, body = {"Content-Encoding": "gzip"}, gzip.compress(b"\0" * (wire.LARGEST + 1))
            case "brotli":
                headers = {"Content-Encoding": "br"}
            case "flood":
                body = b" " * (wire.LARGEST + 1)
            case "away":
                status, headers, body = 307, {"Location": f"{self.elsewhere}/taken/chat/completions"}, b""
            case "loop":
                status, headers, body = 308, {"Location": f"/loop/{len(self.seen)}"}, b""
            case "echo":
                status, body = 401, json.dumps({"error": f"bad key {self.headers['Authorization']} \x1b[2J"}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[str, str]]:
    """The endpoint that is asked, and another one."""
    servers = [ThreadingHTTPServer((host, 0), Hostile) for host in ("127.0.0.1", "127.0.0.2")]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    asked, other = (f"http://{server.server_address[0]}:{server.server_port}" for server in servers)
    Hostile.elsewhere = other
    yield asked, other
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LARGEST", 4 << 20)
    monkeypatch.setenv("THE_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def ask(url: str) -> str:
    async def once() -> str:
        config = ApiEngine(type="api", model="m", base_url=url, api_key_env="THE_KEY", max_attempts=1, structured="never")
        agent = ApiAgent(config, agent="ada")
        try:
            return (await agent.generate([Message("user", "2 + 2?")], Sampling(max_tokens=8))).text
        finally:
            await agent.close()

    return asyncio.run(once())


@pytest.mark.parametrize(("path", "said"), [("bomb", "unpacks to more"), ("flood", "more than"), ("brotli", "packed as 'br'")])
def test_a_reply_that_is_too_much_is_a_failed_call(places: tuple[str, str], path: str, said: str) -> None:
    with pytest.raises(CallFailed, match=said):
        ask(f"{places[0]}/{path}")


def test_a_bomb_is_given_up_before_it_fills_the_memory() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    tracemalloc.start()
    with pytest.raises(aiohttp.ClientPayloadError):
        unpacked(bomb, "gzip")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * wire.LARGEST


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (gzip.compress(b"four"), "gzip"),
        (zlib.compress(b"four"), "deflate"),
        (zlib.compress(b"four")[2:-4], "deflate"),
        (b"four", ""),
    ],
    ids=["gzip", "deflate", "deflate without a head", "nothing"],  # gzip writes the time: no name for a test
)
def test_what_is_packed_as_asked_is_read(content: bytes, encoding: str) -> None:
    assert unpacked(content, encoding) == b"four"


@pytest.mark.parametrize("content", [gzip.compress(b"four")[:-6], b"no gzip at all"], ids=["cut off", "another thing"])
def test_a_damaged_reply_is_no_reply(content: bytes) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        unpacked(content, "gzip")


def test_neither_prompt_nor_key_goes_to_where_a_redirect_leads(places: tuple[str, str]) -> None:
    Hostile.seen = ()
    with pytest.raises(CallFailed, match=r"sends requests on to http://127\.0\.0\.2"):
        ask(f"{places[0]}/away")
    assert [path for path, _ in Hostile.seen] == ["/away/chat/completions"]


def test_redirects_in_a_circle_end(places: tuple[str, str]) -> None:
    Hostile.seen = ()
    with pytest.raises(CallFailed, match="redirects"):
        ask(f"{places[0]}/loop")
    assert len(Hostile.seen) == wire.REDIRECTS


@pytest.mark.parametrize(
    ("target", "followed"),
    [
        *(
            ("https://a.example/v2", True),
            ("http://a.example/v2", True),
            ("http://a.example:81/", False),
            ("http://b.example/", False),
        ),
        *(("http://169.254.169.254/latest/meta-data", False), ("https://a.example.evil/", False), ("file:///etc/passwd", False)),
    ],
)
def test_a_redirect_stays_with_its_host(target: str, followed: bool) -> None:
    assert same_host(URL("http://a.example/v1"), URL(target)) is followed
    assert not same_host(URL("https://a.example/v1"), URL("http://a.example/v1"))


def test_a_key_that_is_sent_back_is_in_no_error(places: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(CallFailed) as caught:
        ask(f"{places[0]}/echo")
    told = f"{caught.value!r}{caplog.text}"
    assert "***" in told
    assert KEY not in told


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a.example", "https://user:pass@a.example/v1", "https://a.example/?key=x"]
)
def test_a_base_url_is_plain_http_without_credentials(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        parse_section({"type": "api", "model": "m", "base_url": url}, "engine", ApiEngine)
    assert "pass@" not in str(caught.value)

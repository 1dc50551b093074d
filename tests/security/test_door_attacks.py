"""The served API seen by somebody who means harm: no way around the key, none beyond one's limits, nothing of others to see."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from magdi_ray.config.serving import KeyLimits, ServeConfig
from magdi_ray.errors import ConfigError
from magdi_ray.serving.access import LogFile
from magdi_ray.serving.door import create_api, require_key
from magdi_ray.serving.keys import Key, KeyRing, digest, new_key, read_keys
from magdi_ray.serving.playground.routes import PageConfig, playground_router
from tests.serving.doors import HI, Scripted, call, listening, settings

OPEN = {"/", "/health", "/version", "/openapi.json", "/playground/assets/{name}"}


def locked(backend: Any = None, limits: KeyLimits | None = None, **endpoint: Any) -> Any:
    page = playground_router(
        None, page=PageConfig(model="student", max_samples=4, default_max_tokens=8, keys=True), require_key=require_key
    )
    ring = KeyRing(fixed=[Key(name="alice", sha256=digest("one")), Key(name="bob", sha256=digest("two"))])
    return create_api(backend or Scripted(), settings(limits=limits or KeyLimits(), **endpoint), keys=ring, extra_routes=[page])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(locked()) as address:
        yield address


def exchange(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=10)) as connection:
        connection.sendall(request)
        connection.settimeout(5)
        return connection.recv(65536)


def routes(of: Any) -> Iterator[Any]:
    """Every route, those of included routers too."""
    for route in of.routes:
        yield from routes(route.original_router) if hasattr(route, "original_router") else [route]


def test_every_route_but_the_open_ones_asks_for_a_key() -> None:
    api = locked()
    asked = {route.path: sorted(route.methods) for route in routes(api)}
    assert set(asked) > OPEN
    for path, methods in asked.items():
        for method in methods:
            answer = call(api, method, path.replace("{name:path}", "student").replace("{name}", "theme.js"))
            assert (answer.status_code == 401) is (path not in OPEN), (method, path, answer.status_code)


LINES = """\
GET //v1/models
GET /v1//models
GET /v1/models/
GET /V1/models
GET /v1/./models
GET /v1/%6dodels
GET /health/../v1/models
GET /health%2f..%2fv1/models
GET /v1/models;x=/health
GET /v1/models?key=one
GET /v1/models#/health
GET http://127.0.0.1/v1/models
HEAD /v1/models
OPTIONS /v1/models
PATCH /v1/models
get /v1/models
GET /playground/assets/../config
GET /playground/assets/..%2fconfig
GET /playground/assets/%2e%2e/%2e%2e/keys.py"""


@pytest.mark.parametrize("line", LINES.splitlines())
@pytest.mark.parametrize(
    "header",
    [
        *("x-original-url: /health", "x-forwarded-for: 127.0.0.1", "x-http-method-override: GET", "cookie: authorization=one"),
        *("authorization: Bearer\tone", "authorization: one", "authorization: Bearer one two", "proxy-authorization: Bearer one"),
        "authorization: Bearer wrong\r\nauthorization: Bearer one",
    ],
)
def test_no_spelling_of_path_or_header_goes_around_the_key(url: str, line: str, header: str) -> None:
    answer = exchange(url, f"{line} HTTP/1.1\r\nhost: x\r\n{header}\r\nconnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"400", b"401", b"404", b"405", b"501"), answer[:200]
    assert b'"list"' not in answer
    assert b'"id"' not in answer


def test_a_request_hidden_behind_another_one_is_not_served(url: str) -> None:
    hidden = b"GET /v1/models HTTP/1.1\r\nauthorization: Bearer one\r\nhost: x\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    both = b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    assert b'"object":"list"' not in exchange(url, head + both + hidden).replace(b" ", b"")


def test_nobody_is_talked_to_over_a_websocket(url: str) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    upgrade += b"sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    assert b" 101 " not in exchange(url, b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n")


def test_a_page_elsewhere_can_neither_ask_nor_read() -> None:
    api = locked()
    for origin in ("https://evil.example", "null", "http://127.0.0.1:8000.evil.example"):
        answer = call(api, "POST", "/v1/chat/completions", HI, headers={"origin": origin, "authorization": "Bearer one"})
        assert "access-control-allow-origin" not in answer.headers
        ahead = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        assert call(api, "OPTIONS", "/v1/chat/completions", headers=ahead).status_code == 405
    # What a form can send without asking first is not read.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        sent = {"content-type": kind, "authorization": "Bearer one"}
        assert call(api, "POST", "/v1/chat/completions", content=b"{}", headers=sent).status_code == 415


@pytest.mark.parametrize(
    "model", ["student:../../secret", "student:", "student:terse:x", "../student", "STUDENT", "student\0", "student:terse\n"]
)
def test_a_model_s_name_is_one_of_those_served_or_nothing(model: str) -> None:
    backend = Scripted()
    answer = call(locked(backend), "POST", "/v1/chat/completions", HI | {"model": model}, headers={"authorization": "Bearer one"})
    assert answer.status_code == 404
    assert backend.asked == []


def test_a_key_s_limit_holds_however_the_key_is_sent() -> None:
    api = locked(limits=KeyLimits(rpm=2))
    ways = ("Bearer one", "bearer one", "BEARER  one", "Bearer one ")
    codes = [call(api, "POST", "/v1/chat/completions", HI, headers={"authorization": way}).status_code for way in ways]
    assert codes == [200, 200, 429, 429]
    assert call(api, "POST", "/v1/chat/completions", HI, headers={"authorization": "Bearer two"}).status_code == 200


def test_a_key_that_is_taken_away_opens_nothing_a_second_later(tmp_path: Path) -> None:
    file, now = tmp_path / "keys.yaml", [0.0]
    file.write_text(f"keys:\n  - {{name: alice, sha256: {digest('one')}}}\n  - {{name: bob, sha256: {digest('two')}}}\n")
    ring = KeyRing(file=file, clock=lambda: now[0])
    assert ring.find(b"one") is not None
    file.write_text(f"keys:\n  - {{name: bob, sha256: {digest('two')}}}\n")
    now[0] = 1.5
    assert ring.find(b"one") is None
    assert ring.find(b"two") is not None


def test_a_stream_is_ended_by_its_deadline_whatever_became_of_its_key() -> None:
    api = locked(request_timeout_s=0.3)
    forever = HI | {"stream": True, "messages": [{"role": "user", "content": "forever"}]}
    answer = call(api, "POST", "/v1/chat/completions", forever, headers={"authorization": "Bearer one"})
    assert '"code":"timeout"' in answer.text.replace(" ", "")


class Remembering(Scripted):
    """Notes which prompt each piece was for."""

    async def stream(self, prompt: Any, decoding: Any) -> Any:
        async for piece in super().stream(prompt, decoding):
            await asyncio.sleep(0)
            yield piece


def test_requests_side_by_side_see_nothing_of_each_other() -> None:
    api = locked(Remembering())

    async def ask(client: httpx.AsyncClient, word: str, key: str) -> str:
        body = HI | {
            "messages": [{"role": "user", "content": f"{word} " * 20}],
            "logprobs": True,
            "top_logprobs": 2,
            "stream": True,
        }
        return (await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})).text

    async def all_at_once() -> list[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://x") as client:
            return await asyncio.gather(*(ask(client, f"word{i}", ("one", "two")[i % 2]) for i in range(20)))

    for i, text in enumerate(asyncio.run(all_at_once())):
        assert f"word{i} " in text
        assert not [j for j in range(20) if j != i and f"word{j} " in text]


def test_keys_are_compared_by_hash_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("magdi_ray.serving.keys.hmac.compare_digest", compare)
    ring = KeyRing(fixed=[Key(name=f"k{i}", sha256=digest(f"{i}")) for i in range(5)])
    assert ring.find(b"0") == ring.find(b"0")
    assert len(compared) == 10  # all of them, also after the right one
    assert {a for a, _ in compared} == {digest("0")}


def test_a_key_file_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n  - {{name: alice, sha256: {digest(new_key())}}}\n")
    file.chmod(0o646)
    with pytest.raises(ConfigError, match="chmod o-w"):
        KeyRing(file=file)
    file.chmod(0o644)
    assert KeyRing(file=file).find(b"none") is None


def test_a_key_file_is_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no YAML"):
        read_keys(f"keys: !!python/object/apply:os.system ['touch {tmp_path}/ran']", "keys.yaml")
    assert not list(tmp_path.iterdir())


def test_a_new_access_log_is_for_its_owner_and_group(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        LogFile(str(tmp_path / "access.log")).close()
    finally:
        os.umask(before)
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o640


def test_out_of_the_box_only_this_machine_is_served_and_other_origins_are_not() -> None:
    config = ServeConfig()
    assert config.host == "127.0.0.1"
    assert config.cors_origins == ()
    assert not config.log_prompts

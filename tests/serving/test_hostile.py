"""Bodies made to do harm: each is a 4xx, the server lives, and its memory stays flat."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest

from magdi_ray.serving.door import create_api
from tests.serving.doors import HI, Scripted, listening, settings

CHAT, COMPLETE, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
MESSAGES = HI["messages"]
POST = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\n"


def chat(**changes: Any) -> bytes:
    return json.dumps(HI | changes).encode()


def complete(**changes: Any) -> bytes:
    return json.dumps({"model": "student", "prompt": "a"} | changes).encode()


CORPUS: dict[str, tuple[str, bytes]] = {
    "10 MB prompt": (CHAT, chat(messages=[{"role": "user", "content": "x" * 10_000_000}])),
    "10 MB completion prompt": (COMPLETE, complete(prompt="x" * 10_000_000)),
    "10 MB of brackets": (CHAT, b"[" * 10_000_000),
    "100,000 arrays": (CHAT, b"[" * 100_000 + b"]" * 100_000),
    "100,000 objects": (CHAT, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep inside a field": (CHAT, b'{"model":"student","messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "NaN": (CHAT, chat(temperature=float("nan"))),
    "infinity": (CHAT, chat(temperature=float("-inf"))),
    "1e999": (CHAT, chat()[:-1] + b',"temperature":1e999}'),
    "number as text": (CHAT, chat(max_tokens="5")),
    "bool as number": (CHAT, chat(n=True)),
    "object as text": (CHAT, chat(model={"$ne": ""})),
    "messages as text": (CHAT, chat(messages="hi")),
    "message as list": (CHAT, chat(messages=[["user", "hi"]])),
    "invalid UTF-8": (CHAT, chat().replace(b"hi", b"\xff\xfe")),
    "overlong UTF-8": (CHAT, chat().replace(b"hi", b"\xc0\xaf")),
    "UTF-16": (CHAT, chat().decode().encode("utf-16")),
    "lone surrogate": (CHAT, chat().replace(b"hi", b"\\ud800")),
    "null bytes": (CHAT, b"\0" * 1000),
    "null byte in a string": (CHAT, chat().replace(b"hi", b"h\0i")),
    "null byte in the model": (CHAT, chat(model="student\0")),
    "max_tokens 10^9": (CHAT, chat(max_tokens=10**9)),
    "completion of 10^9": (COMPLETE, complete(max_tokens=10**9)),
    "max_tokens 10^400": (CHAT, chat(max_tokens=10**400)),
    "5000 digits": (CHAT, chat()[:-1] + b',"seed":' + b"9" * 5000 + b"}"),
    "negative max_tokens": (CHAT, chat(max_tokens=-1)),
    "unknown model": (CHAT, chat(model="gpt-4")),
    "forged adapter": (CHAT, chat(model="student:../../etc/passwd")),
    "absolute adapter": (CHAT, chat(model="student:/etc")),
    "encoded adapter": (COMPLETE, complete(model="student:..%2f..%2fetc")),
    "empty adapter": (CHAT, chat(model="student:")),
    "two adapters": (CHAT, chat(model="student:terse:terse")),
    "model name of 1 kB": (CHAT, chat(model="m" * 1000)),
    "10,000 messages": (CHAT, chat(messages=MESSAGES * 10_000)),
    "10,000 wrong messages": (CHAT, chat(messages=[{"role": 5}] * 10_000)),
    "10,000 parts": (CHAT, chat(messages=[{"role": "user", "content": [{"type": "text", "text": ""}] * 10_000}])),
    "1 MB stop string": (CHAT, chat(stop="s" * 1_000_000)),
    "1 MB stop strings": (CHAT, chat(stop=["s" * 250_000] * 4)),
    "5000 stop strings": (CHAT, chat(stop=["s"] * 5000)),
    "huge n": (CHAT, chat(n=10**6)),
    "n of the schema's bound": (CHAT, chat(n=1024)),
    "huge n times many prompts": (COMPLETE, complete(prompt=["a"] * 128, n=16)),
    "100,000 prompts": (COMPLETE, complete(prompt=["a"] * 100_000)),
    "200,000 wrong ids": (COMPLETE, complete(prompt=["a"] + [1] * 200_000)),
    "huge id": (COMPLETE, complete(prompt=[2**80])),
    "huge samples": (CHAT, chat(magdi={"samples": 10**9})),
    "50,000 unknown fields": (CHAT, chat(**{f"f{i}": 1 for i in range(50_000)})),
    "200 unknown fields": (CHAT, chat(**{f"f{i}" * 20: 1 for i in range(200)})),
    "doubled field": (CHAT, chat()[:-1] + b',"model":"other"}'),
    "prototype pollution": (CHAT, chat(__proto__={"a": 1})),
    "dunder": (CHAT, chat(__class__="x", model_config={})),
    "empty": (CHAT, b""),
    "not JSON": (CHAT, b"model=student&messages=hi"),
    "bare text": (SCORE, b'"hi"'),
    "reply of 10 MB": (SCORE, json.dumps({"model": "student", "messages": MESSAGES, "reply": "x" * 10_000_000}).encode()),
    "reply as list": (SCORE, json.dumps({"model": "student", "messages": MESSAGES, "reply": ["x"]}).encode()),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(create_api(Scripted(), replace(settings(), capacity=512))) as address:
        yield address


@pytest.mark.parametrize("name", CORPUS)
def test_each_hostile_body_is_refused_with_a_4xx(name: str, url: str) -> None:
    path, body = CORPUS[name]
    answer = httpx.post(url + path, content=body, headers={"content-type": "application/json"}, timeout=30)
    assert 400 <= answer.status_code < 500
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 2000
    assert httpx.get(f"{url}/health").status_code == 200


def exchange(url: str, request: bytes) -> bytes:
    """Bytes sent as they are, and what comes back first."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        POST + b"content-length: -5\r\n",
        POST + b"content-length: abc\r\n",
        POST + b"content-length: 99999999999999\r\nexpect: 100-continue\r\n",
        b"GET /v1/chat/completions HTTP/1.1\r\n",
        b"DELETE /v1/models/student HTTP/1.1\r\n",
        b"TRACE /health HTTP/1.1\r\n",
        b"GET /v1/models/%00 HTTP/1.1\r\n",
        b"GET /v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n",
        b"GET /health\0 HTTP/1.1\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\0\r\n",
    ],
)
def test_each_hostile_request_line_or_header_is_refused_with_a_4xx(head: bytes, url: str) -> None:
    answer = exchange(url, head + b"host: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{url}/health").status_code == 200


def test_memory_stays_flat_under_all_of_them(url: str) -> None:
    process = psutil.Process()

    def once() -> None:
        with httpx.Client(timeout=30) as client:
            for path, body in CORPUS.values():
                client.post(url + path, content=body, headers={"content-type": "application/json"})

    once()
    gc.collect()
    before = process.memory_info().rss
    for _ in range(3):
        once()
    gc.collect()
    assert (process.memory_info().rss - before) / 1e6 < 60

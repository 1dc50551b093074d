"""Every error has OpenAI's shape, a request id, and no word of what is inside."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from magdi_ray.serving.door import create_api
from tests.serving.doors import HI, Scripted, call, chat, make, say, settings


def asking(word: str) -> dict[str, Any]:
    return HI | {"messages": [{"role": "user", "content": word}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param", "code"),
    [
        ("POST", "/v1/chat/completions", HI | {"tools": []}, 400, "tools", "unsupported_parameter"),
        ("POST", "/v1/chat/completions", HI | {"top_p": 0}, 400, "top_p", "invalid_value"),
        ("POST", "/v1/chat/completions", {"model": "student"}, 400, "messages", "missing_required_parameter"),
        ("POST", "/v1/chat/completions", HI | {"model": "other"}, 404, "model", "model_not_found"),
        ("POST", "/v1/chat/completions", HI | {"model": "student:../../etc"}, 404, "model", "model_not_found"),
        ("POST", "/v1/chat/completions", asking("long"), 400, "messages", "context_length_exceeded"),
        ("POST", "/v1/chat/completions", asking("refuse"), 400, "messages", "invalid_prompt"),
        ("POST", "/v1/chat/completions", asking("busy"), 503, None, "overloaded"),
        ("POST", "/v1/chat/completions", asking("fail"), 500, None, "engine_error"),
        ("POST", "/v1/chat/completions", asking("bug"), 500, None, "internal_error"),
        ("POST", "/v1/chat/completions", asking("bug") | {"stream": True}, 500, None, "internal_error"),
        ("POST", "/v1/chat/completions", asking("busy") | {"stream": True, "n": 2}, 503, None, "overloaded"),
        ("POST", "/v1/completions", {"model": "student", "prompt": "long"}, 400, "prompt", "context_length_exceeded"),
        ("POST", "/v1/score", {"model": "student", "messages": HI["messages"]}, 400, "reply", "missing_required_parameter"),
        ("GET", "/v1/models/org/other", None, 404, "model", "model_not_found"),
        ("GET", "/v1/embeddings", None, 404, None, "not_found"),
        ("GET", "/docs", None, 404, None, "not_found"),
        ("GET", "/v1/chat/completions", None, 405, None, "method_not_allowed"),
    ],
)
def test_every_error_has_openais_shape(
    method: str, path: str, body: Any, status: int, param: str | None, code: str | None
) -> None:
    answer = call(make(), method, path, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.mark.parametrize("word", ["fail", "bug", "busy"])
def test_no_error_of_ours_tells_what_is_inside_but_the_log_does(word: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "magdi_ray"):
        answer = say(make(), word)
    assert "/srv" not in answer.text
    if answer.status_code == 500:
        assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
        assert answer.headers["x-request-id"] in caplog.text
        assert "/srv/secret" in caplog.text


def test_a_query_that_is_no_ascii_is_no_error_of_ours() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "GET", "path": "/nope", "raw_path": b"/nope", "query_string": b"a=\xff"}
    scope |= {"headers": [(b"host", b"test")], "http_version": "1.1", "scheme": "http", "server": ("test", 80)}
    asyncio.run(make()(scope, receive, send))
    assert sent[0]["status"] == 404


def test_who_finds_the_queue_full_is_told_when_to_come_again() -> None:
    assert int(say(make(), "busy").headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({}, 415),
        ({"content-type": "application/json; charset=UTF-8"}, 400),
        ({"content-type": "application/json", "content-length": "-5"}, 400),
        ({"content-type": "application/json", "content-length": "9" * 40}, 413),
    ],
)
def test_what_is_not_sent_as_json_is_not_read(headers: dict[str, str], status: int) -> None:
    assert call(make(), "POST", "/v1/chat/completions", content=b"{}", headers=headers).status_code == status


def test_a_body_is_read_up_to_the_limit_and_no_further() -> None:
    api = make(max_body_bytes=1024)
    assert say(api, "x" * 900).status_code == 200
    assert say(api, "x" * 1100).status_code == 413

    async def parts() -> Any:
        for _ in range(20):
            yield b"x" * 100

    answer = call(api, "POST", "/v1/chat/completions", content=parts(), headers={"content-type": "application/json"})
    assert answer.json()["error"]["code"] == "request_too_large"


def test_a_sane_request_id_is_kept_and_any_other_replaced() -> None:
    assert call(make(), "GET", "/health", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for forged in ("a b", "x" * 200, "{}", ""):
        found = call(make(), "GET", "/health", headers={"x-request-id": forged}).headers.get_list("x-request-id")
        assert len(found) == 1
        assert found[0].startswith("req-")


def test_other_origins_may_ask_only_where_that_is_configured() -> None:
    origin = {"origin": "https://page.example"}
    assert "access-control-allow-origin" not in chat(make()).headers
    allowed = make(cors_origins=("https://page.example",))
    answer = call(allowed, "POST", "/v1/chat/completions", HI, headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    preflight = origin | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert call(allowed, "OPTIONS", "/v1/chat/completions", headers=preflight).status_code == 200
    other = call(allowed, "POST", "/v1/chat/completions", HI, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    assert call(make(), "OPTIONS", "/v1/chat/completions", headers=preflight).status_code == 405


def test_behind_a_proxy_that_tells_the_request_id_it_is_taken_over_and_not_told_twice() -> None:
    api = create_api(Scripted(), replace(settings(), proxied=True))
    answer = call(api, "POST", "/v1/chat/completions", asking("fail"), headers={"x-request-id": "abc-1"})
    assert "x-request-id" not in answer.headers
    assert "abc-1" in answer.json()["error"]["message"]

"""Keys and limits at the door."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI

from magdi_ray.config.serving import KeyLimits
from magdi_ray.serving.door import create_api, require_key
from magdi_ray.serving.keys import Key, KeyRing, digest
from tests.serving.doors import HI, Scripted, call, settings

ALICE = {"authorization": "Bearer one"}


def locked(limits: KeyLimits | None = None, **key: Any) -> FastAPI:
    extra = APIRouter()

    @extra.get("/page")
    async def page() -> str:
        return "open"

    @extra.get("/data", dependencies=[Depends(require_key)])
    async def data() -> str:
        return "closed"

    ring = KeyRing(fixed=[Key(name="alice", sha256=digest("one"), **key), Key(name="bob", sha256=digest("two"))])
    return create_api(Scripted(), settings(limits=limits or KeyLimits()), keys=ring, extra_routes=[extra])


def ask(api: FastAPI, headers: dict[str, str] = ALICE, **changes: Any) -> httpx.Response:
    return call(api, "POST", "/v1/chat/completions", HI | changes, headers=headers)


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer three", "Basic one", "one", "Bearer \u00e4"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/data")])
def test_without_a_valid_key_nothing_is_answered(given: str | None, method: str, path: str) -> None:
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    answer = call(locked(), method, path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_valid_key_opens_and_the_page_and_health_need_none() -> None:
    api = locked()
    assert ask(api).status_code == 200
    assert call(api, "GET", "/data", headers={"authorization": "bearer two"}).status_code == 200
    assert [call(api, "GET", path).status_code for path in ("/health", "/version", "/page")] == [200] * 3


def test_one_key_at_its_limit_does_not_touch_another() -> None:
    api = locked(rpm=2)
    first = ask(api)
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    ask(api)
    third = ask(api)
    assert third.status_code == 429
    assert (third.json()["error"]["type"], third.json()["error"]["code"]) == ("requests", "rate_limit_exceeded")
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert ask(api, {"authorization": "Bearer two"}).status_code == 200


def test_tokens_are_reserved_at_the_door_and_settled_when_the_reply_is_there() -> None:
    api = locked(tpm=1000)
    assert ask(api, max_tokens=900).headers["x-ratelimit-remaining-tokens"] == "98"  # 900 asked for, and "hi there" as 2 tokens
    assert ask(api, max_tokens=900).status_code == 200  # 2 + 2 were used
    assert ask(api, max_tokens=900, stream=True).status_code == 200
    assert ask(api, max_tokens=900).status_code == 200


def test_a_request_that_failed_costs_no_tokens() -> None:
    api = locked(tpm=1000)
    for word in ("fail", "busy", "long", "bug"):
        for stream in (False, True):
            ask(api, max_tokens=900, stream=stream, messages=[{"role": "user", "content": word}])
    assert ask(api, max_tokens=900).status_code == 200


def test_a_request_larger_than_a_minutes_tokens_is_told_so() -> None:
    answer = ask(locked(tpm=100), max_tokens=101)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_too_large")
    assert ask(locked(tpm=100)).status_code == 200  # the default length is not asked for


def test_without_keys_all_share_the_endpoints_limits() -> None:
    api = create_api(Scripted(), settings(limits=KeyLimits(rpm=1)))
    assert [call(api, "POST", "/v1/chat/completions", HI).status_code for _ in range(2)] == [200, 429]

"""What is logged and counted of a request, and what is not."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from magdi_ray.serving.access import open_log
from magdi_ray.serving.door import create_api
from magdi_ray.serving.keys import Key, KeyRing, digest
from magdi_ray.serving.metrics import RayRecorder, Recorder
from tests.serving.doors import HI, Scripted, Voting, call, chat, make, say, settings


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "magdi_ray.access"]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "magdi_ray.access")


def test_every_request_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    answer = chat(make(), stream=True)
    [line] = lines(caplog)
    assert line["request"] == answer.headers["x-request-id"]
    told = {name: line[name] for name in ("key", "method", "path", "status", "model", "stream", "tokens_in", "tokens_out")}
    assert told == {
        **{"key": None, "method": "POST", "path": "/v1/chat/completions", "status": 200},
        **{"model": "student", "stream": True, "tokens_in": 2, "tokens_out": 2},
    }
    assert 0 <= line["ttft_ms"] <= line["ms"]


def test_no_text_of_prompts_or_replies_is_logged_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    say(make(), "sesame opens")
    say(make(), "sesame midway", stream=True)
    chat(make(), messages=[{"role": "sesame", "content": "x"}])
    chat(make(), model="sesame")
    assert "sesame" not in caplog.text
    say(make(log_prompts=True), "sesame opens", stream=True)
    line = lines(caplog)[-1]
    assert (line["prompt"], line["reply"]) == ([[{"role": "user", "content": "sesame opens"}]], ["sesame opens "])


def test_nothing_a_client_sends_can_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    call(make(), "GET", "/x%0A%7B%22status%22:200%7D%1B[31m", headers={"x-request-id": "a b"})
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()
    assert lines(caplog)[0]["status"] == 404


def test_the_line_names_the_key_but_holds_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    ring = KeyRing(fixed=[Key(name="alice", sha256=digest("sk-one"))])
    api = create_api(Scripted(), settings(), keys=ring)
    call(api, "POST", "/v1/chat/completions", HI, headers={"authorization": "Bearer sk-one"})
    call(api, "POST", "/v1/chat/completions", HI, headers={"authorization": "Bearer sk-two"})
    assert [(line["key"], line["status"], line["error"]) for line in lines(caplog)] == [
        ("alice", 200, None),
        (None, 401, "invalid_api_key"),
    ]
    assert "sk-" not in caplog.text
    assert digest("sk-one") not in caplog.text


def test_the_line_tells_an_error_in_the_midst_of_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    say(make(), "so midway", stream=True)
    [line] = lines(caplog)
    assert (line["status"], line["error"], line["tokens_out"]) == (200, "engine_error", 1)


class Noting(Recorder):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def ended(self, **values: Any) -> None:
        self.told.append(("ended", values))

    def replied(self, **values: Any) -> None:
        self.told.append(("replied", values))

    def saved(self, **values: Any) -> None:
        self.told.append(("saved", values))

    def first_piece(self, **values: Any) -> None:
        self.told.append(("first_piece", values))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [values for told, values in self.told if told == name]


def test_tokens_are_counted_and_what_the_debate_would_have_taken() -> None:
    noting = Noting()
    api = create_api(Scripted(), settings(), recorder=noting)
    chat(api, n=2)
    chat(api, stream=True)
    say(api, "fail")
    call(api, "POST", "/v1/completions", {"model": "student", "prompt": "a"})
    assert [(one["tokens_in"], one["tokens_out"]) for one in noting.of("replied")] == [(2, 4), (2, 2), (2, 1)]
    assert [one["tokens"] for one in noting.of("saved")] == [96.0, 98.0]  # of 100; a raw completion is no question
    assert len(noting.of("first_piece")) == 1


def test_tags_are_templates_and_served_names_never_what_a_client_made_up() -> None:
    noting = Noting()
    api = create_api(Scripted(), settings(), recorder=noting)
    call(api, "GET", "/v1/models/made-up")
    call(api, "GET", "/made-up")
    chat(api, model="made-up")
    chat(api)
    told = [(one["route"], one["status"], one["model"]) for one in noting.of("ended")]
    post = "/v1/chat/completions"
    assert told == [("/v1/models/{name:path}", 404, ""), ("other", 404, ""), (post, 404, ""), (post, 200, "student")]


def test_outside_ray_nothing_is_counted() -> None:
    # In a process of its own: other tests may have left Ray running in this one.
    code = "from magdi_ray.serving.metrics import open_recorder; print(type(open_recorder()).__name__)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "Recorder"


def test_what_is_counted_fits_the_metrics_of_ray() -> None:
    recorder = RayRecorder()  # a name, tag or bucket that Ray refuses would be told here
    api = create_api(Scripted(), settings(), recorder=recorder, ensemble=Voting())
    assert [chat(api).status_code, chat(api, stream=True).status_code, chat(api, magdi={"samples": 2}).status_code] == [200] * 3
    recorder.agreed(model="student", share=0.5, escalated=True)


def test_the_log_is_written_bare_and_to_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("magdi_ray.access")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    stream = io.StringIO()
    open_log(stream)
    open_log(stream)
    call(make(), "GET", "/health")
    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["path"] == "/health"

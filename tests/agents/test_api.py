"""The API engine against a real server: replies, every class of failure, retries, secrets, and a clean end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.openai_server import RunningServer, running_server
from magdi_ray.agents import api, failures
from magdi_ray.agents.admission import LocalLimiter
from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.budget import Budget, Spend
from magdi_ray.agents.completion import Completion, Failure, read_completion, read_refusal, request_body, retry_after
from magdi_ray.agents.load import load_engine
from magdi_ray.config.engines import ApiEngine, Limits, Price
from magdi_ray.errors import ConfigError

ASKED = [Message("user", "2 + 2?")]
KEY = "sk-very-secret-0123456789"


def engine_of(url: str = "http://localhost:1/v1", **fields: Any) -> ApiEngine:
    return ApiEngine(type="api", model="ada", base_url=url, **{"structured": "never", **fields})


def ask(agent: ApiAgent, times: int = 1) -> list[Reply | BaseException]:
    """Different questions, all at once; failures in their places."""

    async def run() -> list[Reply | BaseException]:
        asked = (agent.generate([Message("user", f"{i} + 2?")], Sampling()) for i in range(times))
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "BACKOFF_S", {})
    monkeypatch.setattr(api, "QUICK_S", (0.01, 0.02))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


def test_a_reply_comes_with_its_tokens_and_is_paid_for(server: RunningServer) -> None:
    config = engine_of(server.url, price=Price(input=1e6, output=0.0), system_prompt="Be brief.")
    limiter = LocalLimiter({config.provider: config.limits})
    [reply] = ask(ApiAgent(config, agent="ada", admission=limiter))
    assert isinstance(reply, Reply)
    assert "The answer is " in reply.text
    assert (reply.tokens_in, reply.confidence, reply.finish_reason, reply.model) == (3 + 3 + 3 + 2, None, "stop", "ada")
    assert limiter.read()["spend"] == {"ada": Spend(1, 11, reply.tokens_out, 11.0)}


@pytest.mark.parametrize(
    ("kind", "cause", "told"),
    [
        ("429", failures.RateLimited, r"^HTTP 429 after 2 attempts: Rate limit reached\."),
        ("503", failures.Overloaded, "^HTTP 503 after 2 attempts: The engine is currently overloaded"),
        ("500", failures.ServerFailed, "^HTTP 500 after 2 attempts: The server had an error"),
        ("reset", failures.Disconnected, "^No connection, or a broken one after 2 attempts"),
        ("malformed", failures.Malformed, "^No chat completion but something else after 2 attempts"),
        ("empty", failures.Empty, "^A completion without text after 2 attempts"),
        ("hang", failures.TimedOut, r"^No complete reply within 0\.3 s after 2 attempts\.$"),
        ("400", failures.Rejected, "^HTTP 400 after 1 attempt: This model's maximum context"),
        ("401", failures.Unauthorised, "^HTTP 401 after 1 attempt: Incorrect API key provided"),
        ("refusal", failures.Refused, "^The reply was refused after 1 attempt: I cannot help with that"),
    ],
)
def test_every_failure_has_its_class_and_says_what_happened(
    kind: str, cause: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADA_KEY", KEY)
    with running_server(**{f"fault_{kind}": 1.0}, retry_after=0.01) as server:
        timeout = 0.3 if kind == "hang" else 30.0
        config = engine_of(server.url, api_key_env="ADA_KEY", max_attempts=2, timeout_s=timeout)
        agent = ApiAgent(config, agent="ada")
        [error] = ask(agent)
        with pytest.raises(cause, match=told):
            raise error  # type: ignore[misc]  # it is one, or the test fails here
        assert KEY not in f"{error!r}{error.__cause__!r}{error.__context__!r}{agent!r}"  # type: ignore[union-attr]  # as above
        assert server.stats()["received"] == (2 if "2 attempts" in told else 1)


def test_what_fails_is_sent_again_until_it_is_answered() -> None:
    with running_server(fault_429=0.2, fault_500=0.1, fault_reset=0.1, fault_malformed=0.1, retry_after=0.01) as server:
        config = engine_of(server.url, max_attempts=20, limits=Limits(concurrency=8))
        limiter = LocalLimiter({config.provider: config.limits})
        replies = ask(ApiAgent(config, agent="ada", admission=limiter), 60)
        stats = server.stats()
    assert all(isinstance(reply, Reply) for reply in replies)
    assert stats["answered"] == 60
    assert stats["peak_open"] <= 8
    seen = limiter.read()
    assert seen["spend"]["ada"].calls == stats["received"] == 60 + sum(stats["faults"].values())
    [provider] = seen["providers"].values()
    assert provider["rate_limited"] == stats["faults"]["429"]
    assert provider["lowest"] < 8


def test_retry_after_keeps_everyone_quiet() -> None:
    with running_server(rpm=60, retry_after=1.0) as server:
        agent = ApiAgent(engine_of(server.url), agent="ada")
        replies = ask(agent, 12)
        arrivals = sorted(server.stats(arrivals=True)["arrivals"])
    assert all(isinstance(reply, Reply) for reply in replies)
    assert 10 <= arrivals[-1] - arrivals[0] < 16
    assert max(later - earlier for earlier, later in pairwise(arrivals)) > 5


def test_a_paid_but_useless_attempt_is_reported() -> None:
    with running_server(fault_empty=1.0) as server:
        config = engine_of(server.url, max_attempts=3)
        limiter = LocalLimiter({config.provider: config.limits})
        ask(ApiAgent(config, agent="ada", admission=limiter))
    assert limiter.read()["spend"] == {"ada": Spend(3, 15, 0)}


def test_an_endpoint_without_schemas_is_asked_for_one_only_once() -> None:
    with running_server(no_structured=True) as server:
        agent = ApiAgent(engine_of(server.url, structured="auto", max_attempts=1), agent="ada")
        [reply] = ask(agent)
        assert "The answer is" in reply.text  # type: ignore[union-attr]  # or the test fails here
        ask(agent)
        assert (server.stats()["received"], server.stats()["faults"]) == (3, {"structured": 1})
        [error] = ask(ApiAgent(engine_of(server.url, structured="always"), agent="ada"))
        assert isinstance(error, failures.Rejected)


def test_a_structured_reply_stays_as_it_was_sent(server: RunningServer) -> None:
    [reply] = ask(ApiAgent(engine_of(server.url, structured="auto"), agent="ada"))
    assert isinstance(reply, Reply)
    assert set(json.loads(reply.text)) == {"reasoning", "answer", "confidence"}


def test_a_budget_ends_the_calls_before_it_is_exceeded(server: RunningServer) -> None:
    config = engine_of(server.url, price=Price(input=0.0, output=1e3))
    limiter = LocalLimiter({config.provider: config.limits}, budget=Budget(usd=2.0))
    got = ask(ApiAgent(config, agent="ada", admission=limiter), 40)
    assert {type(each) for each in got} == {Reply, failures.BudgetSpent}
    assert 1.0 < limiter.read()["spend"]["ada"].usd <= 2.0


def test_a_missing_key_is_named_with_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADA_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"Agent 'ada' needs the key of .* in the environment variable ADA_KEY"):
        ApiAgent(engine_of(api_key_env="ADA_KEY"), agent="ada")
    assert isinstance(load_engine(engine_of()), ApiAgent)


def test_what_a_provider_says_is_told_without_secrets() -> None:
    told = api.redact(f"key {KEY}, header 'Authorization: Bearer abc.def'", KEY)
    assert told == "key ***, header 'Authorization: Bearer ***'"


def test_only_what_differs_from_the_defaults_is_sent() -> None:
    config = engine_of(token_field="max_completion_tokens", extra_body={"top_k": 3})
    assert json.loads(request_body(config, ASKED, Sampling(max_tokens=7), structured=False)) == {
        "model": "ada",
        "temperature": 0.0,
        "max_completion_tokens": 7,
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "top_k": 3,
    }
    body = json.loads(request_body(config, ASKED, Sampling(top_p=0.5, stop=("x",), seed=1), structured=True))
    assert (body["top_p"], body["stop"], body["seed"], body["response_format"]["type"]) == (0.5, ["x"], 1, "json_schema")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"<html>", failures.Malformed),
        (b'{"choices": []}', failures.Malformed),
        (b"[1]", failures.Malformed),
        (b'{"error": {"code": 429, "message": "slow down"}}', failures.RateLimited),
        (b'{"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}', failures.Refused),
        (b'{"choices": [{"message": {"content": " "}}]}', failures.Empty),
    ],
)
def test_a_200_may_be_a_failure_too(content: bytes, cause: type[failures.CallFailed]) -> None:
    got = read_completion(content, ASKED, "ada")
    assert isinstance(got, Failure)
    assert got.cause is cause


def test_tokens_are_estimated_where_none_were_counted() -> None:
    got = read_completion(b'{"choices": [{"message": {"content": "4 it is"}, "finish_reason": "length"}]}', ASKED, "ada")
    assert not isinstance(got, Failure)
    assert (got.text, got.tokens_in, got.tokens_out, got.finish_reason, got.model) == ("4 it is", 11, 3, "length", "ada")


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        *((408, "TimedOut"), (504, "TimedOut"), (529, "Overloaded"), (409, "ServerFailed"), (502, "ServerFailed")),
        *((402, "Unauthorised"), (403, "Unauthorised"), (404, "Rejected"), (422, "Rejected")),
    ],
)
def test_each_status_has_its_cause(status: int, cause: str) -> None:
    failure = read_refusal(status, {"detail": "so it is"}, {})
    assert (failure.cause.__name__, failure.told) == (cause, "so it is")


def test_retry_after_is_read_in_all_its_forms() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": later}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "soon"}) is retry_after({}) is None


def test_a_process_ends_without_a_word_about_open_connections(server: RunningServer) -> None:
    code = f"""
import asyncio
from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Message, Sampling
from magdi_ray.config.engines import ApiEngine
agent = ApiAgent(ApiEngine(type="api", model="ada", base_url={server.url!r}), agent="ada")
for _ in range(2):
    asyncio.run(agent.generate([Message("user", "2 + 2?")], Sampling()))
"""
    ended = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True)
    assert "nclosed" not in ended.stderr


def test_a_spent_quota_is_no_rate_limit() -> None:
    body = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    assert read_refusal(429, body, {}).cause is failures.Unauthorised


def test_a_model_that_thought_up_to_its_bound_is_not_asked_again() -> None:
    choice = {"message": {"content": ""}, "finish_reason": "length"}
    usage = {"prompt_tokens": 9, "completion_tokens": 300}
    got = read_completion(json.dumps({"choices": [choice], "usage": usage}).encode(), [], "m")
    assert isinstance(got, Completion)
    assert (got.text, got.finish_reason, got.tokens_out) == ("", "length", 300)


def test_a_count_that_is_null_is_estimated() -> None:
    choice = {"message": {"content": "The answer is 7."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": None}
    got = read_completion(json.dumps({"choices": [choice], "usage": usage}).encode(), [], "m")
    assert isinstance(got, Completion)
    assert got.tokens_out == 5

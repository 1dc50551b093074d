"""An engine behind any endpoint that speaks the OpenAI chat completions API. Knows of debates as little as any engine.

Each attempt asks for admission, is sent once, and is either a reply or a `Failure`; whether another follows depends on its cause.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
import openai

from magdi_ray.agents.admission import Admission, LocalLimiter, Outcome
from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.completion import (
    NO_STRUCTURE,
    SCHEMA_TOKENS,
    Completion,
    Failure,
    read_completion,
    read_refusal,
    request_body,
)
from magdi_ray.agents.connection import Connection
from magdi_ray.agents.estimate import estimate_prompt
from magdi_ray.agents.failures import (
    CallFailed,
    Disconnected,
    Malformed,
    Overloaded,
    RateLimited,
    Rejected,
    ServerFailed,
    TimedOut,
)
from magdi_ray.config.engines import ApiEngine
from magdi_ray.errors import ConfigError

DUMMY_KEY = "none"
"""Sent where no key is configured: the client insists on one, and endpoints without keys ignore it."""
MARGIN = 1.1
"""A prompt's tokens are estimated; so much more are reserved."""
BEARER = re.compile(r"Bearer\s+[^\s\"',}]+", re.IGNORECASE)

BACKOFF_S: dict[type[CallFailed], tuple[float, float]] = {
    RateLimited: (1.0, 60.0),
    Overloaded: (1.0, 60.0),
    ServerFailed: (0.5, 20.0),
    Disconnected: (0.5, 20.0),
    TimedOut: (0.1, 1.0),
}
"""Seconds before the second attempt, doubled for each further one, and at most. A timeout has cost enough time already."""
QUICK_S = (0.05, 0.5)
"""The same where another attempt is a matter of luck, not of the provider's state."""


UNCOUNTED = (TimedOut, Malformed, Disconnected)
"""Failures of which a provider counts tokens that it does not tell."""


class ApiAgent:
    """One agent's model at one provider. Without `admission` it keeps its provider's limits by itself."""

    def __init__(self, config: ApiEngine, *, agent: str, admission: Admission | None = None) -> None:
        """Read the key from the environment; nothing is sent yet.

        Raises:
            ConfigError: the variable that should hold the key is not set.
        """
        self._config = config
        self._agent = agent
        self._key = read_key(config, agent)
        self._admission = admission or LocalLimiter({config.provider: config.limits})
        self._connection = Connection(config.base_url, "/chat/completions", self._key or DUMMY_KEY)
        self._structured = config.structured != "never"
        self._system = () if config.system_prompt is None else (Message("system", config.system_prompt),)

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """See `Engine`.

        Raises:
            CallFailed: no reply after `max_attempts`, or at once where another attempt would fail the same way.
            BudgetSpent: the run's budget does not allow the call.
        """
        conversation = (*self._system, *messages)
        words = estimate_prompt(conversation)
        attempts = 0
        while True:
            structured = self._structured
            prompt = int((words + structured * SCHEMA_TOKENS) * MARGIN)
            usd = self._usd(prompt, sampling.max_tokens)
            body = request_body(self._config, conversation, sampling, structured=structured)
            ticket = await self._admission.enter(self._config.provider, self._agent, tokens=prompt + sampling.max_tokens, usd=usd)
            outcome = Outcome("cancelled", prompt, 0, self._usd(prompt, 0))
            try:
                got = await self._attempt(body, conversation)
                outcome = self._outcome(got, prompt)
            finally:
                self._admission.leave(ticket, outcome)
            if isinstance(got, Completion):
                return Reply(got.text, got.tokens_in, got.tokens_out, None, got.finish_reason, got.model)
            if structured and self._refuses_structure(got):
                self._structured = False
                continue
            attempts += 1
            if not got.cause.retried or attempts >= self._config.max_attempts:
                raise got.error(attempts)
            await asyncio.sleep(backoff_s(got, attempts))

    async def close(self) -> None:
        """Close its connections now rather than with the event loop."""
        await self._connection.close()

    async def _attempt(self, body: bytes, conversation: Sequence[Message]) -> Completion | Failure:
        """Send once. Every failure is returned, with nothing secret in its words; a bug in here is raised."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                response = await self._connection.post(body)
            got = read_completion(response.content, conversation, self._config.model)
        except TimeoutError:
            got = Failure(TimedOut, f"No complete reply within {self._config.timeout_s:g} s")
        except openai.APIStatusError as error:
            got = read_refusal(error.status_code, error.body or error.response.text, error.response.headers)
        except (openai.APIConnectionError, aiohttp.ClientError) as error:
            # Includes the client's timeouts: it has none of its own, and takes a broken connection for one.
            got = Failure(Disconnected, "No connection, or a broken one", str(error.__cause__ or error))
        if isinstance(got, Failure):
            return replace(got, told=redact(got.told, self._key))
        return got

    def _refuses_structure(self, failure: Failure) -> bool:
        return self._config.structured == "auto" and failure.cause is Rejected and NO_STRUCTURE.search(failure.told) is not None

    def _outcome(self, got: Completion | Failure, prompt: int) -> Outcome:
        """What an attempt cost. Of one that was read but never answered the prompt counts: it may well be billed."""
        read = prompt if isinstance(got, Failure) and got.cause in UNCOUNTED and not got.tokens_in else got.tokens_in
        usd = self._usd(read, got.tokens_out)
        if isinstance(got, Completion):
            return Outcome("ok", read, got.tokens_out, usd)
        return Outcome(got.cause.__name__, read, got.tokens_out, usd, got.retry_after_s)

    def _usd(self, tokens_in: int, tokens_out: int) -> float:
        price = self._config.price
        return price.usd(tokens_in, tokens_out) if price else 0.0


def read_key(config: ApiEngine, agent: str) -> str | None:
    """The provider's key, or None where none is configured.

    Raises:
        ConfigError: its variable is not set, or empty.
    """
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"Agent {agent!r} needs the key of {config.base_url} in the environment variable {config.api_key_env}, "
            "which is not set. Set it, or name another one in engine.api_key_env."
        )
    return key


def redact(text: str, key: str | None) -> str:
    """A provider's words without the key, which some of them repeat."""
    return BEARER.sub("Bearer ***", text.replace(key, "***") if key else text)


def backoff_s(failure: Failure, attempts: int) -> float:
    """Seconds until the next attempt, drawn at random so that those who failed together do not come back together."""
    first, most = BACKOFF_S.get(failure.cause, QUICK_S)
    grown = min(most, first * 2.0 ** (attempts - 1))
    if failure.retry_after_s is not None:
        return min(failure.retry_after_s, 3600.0) + random.uniform(0.0, 0.1 * first)
    return grown * random.uniform(0.5, 1.5)

"""Why an engine gave no reply: one class a cause, named in the `error` column of the debate it ended.

A cause is either retried (another attempt may well succeed) or final (the same request would fail again).
"""

from __future__ import annotations

from typing import ClassVar

from magdi_ray.errors import EngineError


class CallFailed(EngineError):
    """One request to a provider failed."""

    retried: ClassVar[bool] = False
    """Whether another attempt makes sense."""


class RateLimited(CallFailed):
    """HTTP 429: more was sent than the provider allows. Lower `engine.limits` if it goes on."""

    retried = True


class Overloaded(CallFailed):
    """HTTP 503 or 529: the provider cannot serve anyone right now. Run again later if it goes on."""

    retried = True


class TimedOut(CallFailed):
    """No complete reply within the engine's `timeout_s`, or HTTP 408 or 504. Raise it, or lower `sampling.max_tokens`."""

    retried = True


class ServerFailed(CallFailed):
    """Any other HTTP 5xx, or 409. Run again later if it goes on."""

    retried = True


class Disconnected(CallFailed):
    """No connection, or it broke before the reply was complete. Check `engine.base_url` and the network."""

    retried = True


class Malformed(CallFailed):
    """The provider answered with something that is not a chat completion. Check `engine.base_url` against its manual."""

    retried = True


class Empty(CallFailed):
    """The completion holds no text. Raise `sampling.max_tokens`: a reasoning model may spend all of them before it answers."""

    retried = True


class Rejected(CallFailed):
    """Any other HTTP 4xx: the request itself is at fault (too long, an unknown model, an unknown field).

    Check `engine.model`, `engine.token_field` and `engine.structured` against the provider's manual.
    """


class Refused(CallFailed):
    """The provider's content filter, or the model by a refusal of its own, declined to answer. Leave the question out."""


class Unauthorised(CallFailed):
    """HTTP 401, 402 or 403: no key, a wrong one, or one without the right or the credit. Check `engine.api_key_env`."""


class BudgetSpent(EngineError):
    """The next call could exceed the run's budget; it was not sent. Raise `debate.budget_usd` or `budget_tokens` to go on."""

"""A steady mix of everything that clients ask of a served student, right and wrong, and the verdict on every answer.

It knows HTTP and the API (docs/serving-api.md), and neither Ray nor the processes behind it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

NAMES = ("kim", "ana", "leo", "mia", "tom", "eva")
THINGS = ("eggs", "figs", "pens", "nuts", "keys", "cups")
LONGEST = 24
"""Tokens of a reply, at most."""
PATIENCE = 60.0
"""Seconds after which a request counts as lost."""

CHAT, TEXT, SCORE, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/score", "/v1/models"


@dataclass(frozen=True, slots=True)
class Keys:
    """Who asks."""

    good: tuple[str, ...]
    limited: str
    """Has few requests a minute."""
    wrong: str = "sk-magdi-nobody-has-this-one"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what may come of it."""

    kind: str
    path: str
    key: str
    body: Any = None
    """JSON, bytes as they are, or None for a GET."""
    statuses: tuple[int, ...] = (200,)
    choices: int = 1
    logprobs: bool = False
    leave: float | None = None
    """The client goes after so many events of a stream, or seconds of waiting for a whole reply; None stays."""
    method: str = "POST"
    content_type: str = "application/json"

    @property
    def stream(self) -> bool:
        """Whether events are asked for."""
        return isinstance(self.body, dict) and bool(self.body.get("stream"))


class Mix:
    """Draws requests."""

    def __init__(self, model: str, keys: Keys, *, seed: int) -> None:
        self._model, self._keys, self._draw = model, keys, random.Random(seed)
        self._kinds: tuple[tuple[int, Callable[[], Ask]], ...] = (
            (16, self._chat),
            (16, self._chat_stream),
            (6, self._choices),
            (6, self._logprobs),
            (4, self._logprobs_stream),
            (6, self._shaped),
            (10, self._text),
            (5, self._texts),
            (6, self._text_stream),
            (6, self._vote),
            (4, self._score),
            (2, self._models),
            (7, self._leaves_stream),
            (4, self._leaves_whole),
            (8, self._wrong),
            (4, self._limited),
        )

    def ask(self) -> Ask:
        """The next request."""
        [kind] = self._draw.choices([made for _, made in self._kinds], [weight for weight, _ in self._kinds])
        return kind()

    def question(self) -> str:
        """A question like those the model was taught."""
        name, thing = self._draw.choice(NAMES), self._draw.choice(THINGS)
        more = " ".join(f"{name} finds {self._draw.randint(1, 20)} {thing} ." for _ in range(self._draw.randint(1, 4)))
        return f"{name} has {self._draw.randint(1, 20)} {thing} . {more} how many {thing} does {name} have ?"

    def _key(self) -> str:
        return self._draw.choice(self._keys.good)

    def _body(self, **settings: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": self.question()}]
        return {"model": self._model, "messages": messages, "max_tokens": self._draw.randint(4, LONGEST), **settings}

    def _chat(self) -> Ask:
        return Ask("chat", CHAT, self._key(), self._body(temperature=self._draw.choice([0, 0.7, 1])))

    def _chat_stream(self) -> Ask:
        usage = {"stream_options": {"include_usage": True}} if self._draw.random() < 0.5 else {}
        return Ask("chat, streamed", CHAT, self._key(), self._body(stream=True, **usage))

    def _choices(self) -> Ask:
        n = self._draw.randint(2, 4)
        stream = self._draw.random() < 0.4
        return Ask("n > 1", CHAT, self._key(), self._body(n=n, temperature=1, stream=stream), choices=n)

    def _logprobs(self) -> Ask:
        body = self._body(logprobs=True, top_logprobs=self._draw.randint(0, 5), temperature=0)
        return Ask("log-probabilities", CHAT, self._key(), body, logprobs=True)

    def _logprobs_stream(self) -> Ask:
        body = self._body(logprobs=True, top_logprobs=3, stream=True)
        return Ask("log-probabilities, streamed", CHAT, self._key(), body, logprobs=True)

    def _shaped(self) -> Ask:
        body = self._body(
            stop=[" .", "answer"], seed=self._draw.randint(0, 99), top_p=0.9, frequency_penalty=0.4, presence_penalty=0.2
        )
        return Ask("stop, seed, penalties", CHAT, self._key(), body)

    def _text(self) -> Ask:
        body = {"model": self._model, "prompt": self.question(), "max_tokens": 12, "logprobs": self._draw.choice([None, 2])}
        return Ask("completion", TEXT, self._key(), body)

    def _texts(self) -> Ask:
        body = {"model": self._model, "prompt": [self.question(), self.question()], "n": 2, "max_tokens": 8, "temperature": 1}
        return Ask("completions of several prompts", TEXT, self._key(), body, choices=4)

    def _text_stream(self) -> Ask:
        body = {"model": self._model, "prompt": self.question(), "max_tokens": 16, "stream": True}
        return Ask("completion, streamed", TEXT, self._key(), body)

    def _vote(self) -> Ask:
        return Ask("vote", CHAT, self._key(), self._body(magdi={"samples": self._draw.randint(2, 5)}))

    def _score(self) -> Ask:
        body = {key: value for key, value in self._body(reply="8 + 5 = 13 . answer 13").items() if key != "max_tokens"}
        return Ask("score", SCORE, self._key(), body, choices=0)

    def _models(self) -> Ask:
        return Ask("models", self._draw.choice([MODELS, f"{MODELS}/{self._model}"]), self._key(), method="GET", choices=0)

    def _leaves_stream(self) -> Ask:
        body = self._body(stream=True) | {"max_tokens": 200, "n": self._draw.choice([1, 1, 3])}
        return Ask("leaves a stream", CHAT, self._key(), body, leave=self._draw.randint(0, 4))

    def _leaves_whole(self) -> Ask:
        n = self._draw.choice([1, 1, 3])
        leave = self._draw.uniform(0.0, 0.15)
        return Ask("leaves before the reply", CHAT, self._key(), self._body(n=n) | {"max_tokens": 200}, choices=n, leave=leave)

    def _limited(self) -> Ask:
        return Ask("limited key", CHAT, self._keys.limited, self._body(), statuses=(200, 429))

    def _wrong(self) -> Ask:
        body, key = self._body(), self._key()
        return self._draw.choice(
            [
                Ask("wrong: no JSON", CHAT, key, b'{"model": "', statuses=(400,)),
                Ask("wrong: not UTF-8", CHAT, key, b'{"model": "\xff"}', statuses=(400, 415)),
                Ask("wrong: unknown field", CHAT, key, body | {"tools": []}, statuses=(400,)),
                Ask("wrong: value", CHAT, key, body | {"temperature": 9}, statuses=(400,)),
                Ask("wrong: role", CHAT, key, body | {"messages": [{"role": "robot", "content": "x"}]}, statuses=(400,)),
                Ask("wrong: model", CHAT, key, body | {"model": "gpt-9"}, statuses=(404,)),
                Ask("wrong: too long", CHAT, key, body | {"max_tokens": 100_000}, statuses=(400,)),
                Ask("wrong: vote with a stream", CHAT, key, body | {"stream": True, "magdi": {"samples": 2}}, statuses=(400,)),
                Ask("wrong: key", CHAT, self._keys.wrong, body, statuses=(401,)),
                Ask("wrong: no key", CHAT, "", body, statuses=(401,)),
                Ask("wrong: body too large", CHAT, key, b'{"x": "' + b"y" * (1 << 20) + b'"}', statuses=(413,)),
                Ask("wrong: type of content", CHAT, key, b"hello", statuses=(415,), content_type="text/plain"),
                Ask("wrong: route", "/v1/embeddings", key, body, statuses=(404,)),
                Ask("wrong: method", CHAT, key, method="GET", statuses=(405,)),
            ]
        )


@dataclass
class Tally:
    """What came of the requests."""

    sent: Counter[str] = field(default_factory=Counter)
    """By kind."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """answered, refused (as it had to be), busy (503), left, lost."""
    statuses: dict[str, int | None] = field(default_factory=dict)
    """Request id -> HTTP status; None where the client left before there was one."""
    left: set[str] = field(default_factory=set)
    """Ids of requests whose client went before the end."""
    lost: list[str] = field(default_factory=list)
    """What was wrong, where an answer was not as it had to be."""
    seconds: list[float] = field(default_factory=list)
    """Of requests that were answered."""
    late: float = 0.0
    """Seconds by which the schedule was missed, at most."""

    @property
    def done(self) -> int:
        """Requests that ended."""
        return self.outcomes.total()


class Fault(Exception):
    """An answer that is not as it has to be."""


async def run(url: str, mix: Mix, tally: Tally, *, clients: int, rate: float, seconds: float) -> None:
    """Ask `rate` times a second, by so many clients at most, for so long."""
    end = time.monotonic() + seconds
    due = time.monotonic()
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=PATIENCE), connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def client() -> None:
            nonlocal due
            while (now := time.monotonic()) < end:
                mine, due = due, max(due, now - 1.0) + 1 / rate  # who falls behind does not catch up: the load stays bounded
                tally.late = max(tally.late, now - mine)
                await asyncio.sleep(max(0.0, mine - now))
                await one(session, url, mix.ask(), tally)

        await asyncio.gather(*(client() for _ in range(clients)))


async def one(session: aiohttp.ClientSession, url: str, ask: Ask, tally: Tally) -> None:
    """One request, judged."""
    name = f"soak-{len(tally.statuses)}"
    tally.sent[ask.kind] += 1
    tally.statuses[name] = None
    began = time.monotonic()
    try:
        outcome = await _asked(session, url, ask, name, tally)
    except Fault as fault:
        outcome = "lost"
        tally.lost.append(f"{name} {ask.kind}: {fault}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        outcome = "lost"
        tally.lost.append(f"{name} {ask.kind}: {type(error).__name__}: {error}")
    tally.outcomes[outcome] += 1
    if outcome == "left":
        tally.left.add(name)
    if outcome == "answered":
        tally.seconds.append(time.monotonic() - began)


async def _asked(session: aiohttp.ClientSession, url: str, ask: Ask, name: str, tally: Tally) -> str:
    headers = {"x-request-id": name, "content-type": ask.content_type} | (
        {"authorization": f"Bearer {ask.key}"} if ask.key else {}
    )
    data = json.dumps(ask.body).encode() if isinstance(ask.body, dict) else ask.body
    sending = session.request(ask.method, f"{url}{ask.path}", data=data, headers=headers)
    whole_leaves = ask.leave is not None and not ask.stream
    try:
        async with asyncio.timeout(ask.leave if whole_leaves else None), sending as response:
            tally.statuses[name] = response.status
            if response.headers.get("x-request-id") != name:
                raise Fault(f"x-request-id is {response.headers.get('x-request-id')!r}")
            if response.status != 200:
                return refusal(ask, response.status, await response.json(content_type=None), response.headers)
            if 200 not in ask.statuses:
                raise Fault("it was answered")
            if ask.stream:
                return await _events(ask, response)
            whole(ask, await response.json())
            return "answered"
    except TimeoutError:
        if not whole_leaves:
            raise
        return "left"


def refusal(ask: Ask, status: int, body: Any, headers: Any) -> str:
    """The outcome of an answer that is none.

    Raises:
        Fault: it is not in the API's shape, or not what this request has to be told.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"} or not error["message"]:
        raise Fault(f"{status} with {str(body)[:200]}")
    if status in (429, 503) and not headers.get("retry-after", "").isdecimal():
        raise Fault(f"{status} without Retry-After")
    if status == 503:
        return "busy"
    if status not in ask.statuses:
        raise Fault(f"{status} {error['code']}: {error['message'][:200]}")
    return "refused"


def whole(ask: Ask, body: dict[str, Any]) -> None:
    """Check an answer that came at once.

    Raises:
        Fault: something is missing in it.
    """
    if ask.choices == 0:
        if body.get("object") not in ("score", "list", "model"):
            raise Fault(f"object {body.get('object')!r}")
        return
    found = body["choices"]
    if [choice["index"] for choice in found] != list(range(ask.choices)):
        raise Fault(f"{len(found)} choices of {ask.choices}")
    if any(choice["finish_reason"] not in ("stop", "length") for choice in found):
        raise Fault(f"ended by {[choice['finish_reason'] for choice in found]}")
    # The token that ends a reply is counted, and has no text to stand beside.
    if ask.logprobs and not 0 <= body["usage"]["completion_tokens"] - len(found[0]["logprobs"]["content"]) <= 1:
        raise Fault("log-probabilities of other tokens than were written")
    if body["usage"]["completion_tokens"] < 1:
        raise Fault("no token was counted")
    if ask.kind == "vote" and body["magdi"]["samples"] != ask.body["magdi"]["samples"]:
        raise Fault("another number of samples")


async def _events(ask: Ask, response: aiohttp.ClientResponse) -> str:
    """Read a stream to its end, or to where the client leaves."""
    ended, seen, last = set[int](), 0, ""
    async for line in response.content:
        if ask.leave is not None and seen >= ask.leave:
            return "left"
        if not line.startswith(b"data: "):
            continue
        seen += 1
        last = line[6:].strip().decode()
        if last == "[DONE]":
            break
        event = json.loads(last)
        if "error" in event:
            raise Fault(f"in the stream: {event['error']}")
        ended |= {choice["index"] for choice in event["choices"] if choice["finish_reason"] in ("stop", "length")}
    if ask.leave is not None:
        return "answered"
    if last != "[DONE]" or ended != set(range(ask.choices)):
        raise Fault(f"the stream ended with {last[:100]!r}, choices {sorted(ended)} of {ask.choices} were ended")
    return "answered"


async def greedy(url: str, model: str, key: str, questions: Sequence[str]) -> list[tuple[str, tuple[float, ...]]]:
    """Texts and log-probabilities of the likeliest replies, asked one after the other."""
    found = []
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        for question in questions:
            messages = [{"role": "user", "content": question}]
            body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 48, "logprobs": True}
            async with session.post(f"{url}{CHAT}", json=body) as response:
                response.raise_for_status()
                choice = (await response.json())["choices"][0]
            found.append((choice["message"]["content"], tuple(token["logprob"] for token in choice["logprobs"]["content"])))
    return found

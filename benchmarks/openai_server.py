"""An endpoint that imitates OpenAI's chat completions over real HTTP: latency, capacity, limits and faults, all repeatable.

    python -m benchmarks.openai_server --port 0 --latency 0.2 --status-429 0.1

prints `{"port": 40123}` when it is ready. `GET /stats` tells what came, `POST /reset` forgets it. It answers no one's questions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from benchmarks import replies

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ("429", "500", "503", "401", "400", "hang", "malformed", "empty", "reset", "refusal")
"""Each has an option `--fault-<kind> SHARE`."""

MESSAGES = {
    "429": "Rate limit reached. Please try again later.",
    "500": "The server had an error while processing your request.",
    "503": "The engine is currently overloaded.",
    "401": "Incorrect API key provided: {key}.",
    "400": "This model's maximum context length was exceeded.",
}


@dataclass(slots=True)
class Counts:
    """What came and what became of it."""

    received: int = 0
    answered: int = 0
    open: int = 0
    peak_open: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    """Of all that was answered, billed or not."""
    faults: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    last_answered: float = 0.0
    """When the latest reply was on its way; Unix seconds."""
    arrivals: list[float] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    """Values of the Authorization header."""
    attempts: Counter[int] = field(default_factory=Counter)
    """How often each request came, by the hash of its body."""


class Protocol(HttpToolsProtocol):
    """uvicorn's own, which also shows the connection to the route, so that it can be broken."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["transport"] = self.transport


class Chat:
    """The route: a bare ASGI application, as a framework's request and response cost more than the reply."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.counts = Counts()
        self.author = (
            replies.recorded(Path(options.recording))
            if options.mode == "recorded"
            else replies.arithmetic(agreement=options.agreement, agents=options.agents, reply_tokens=options.reply_tokens)
        )
        self.places = asyncio.Semaphore(options.capacity or 1_000_000)
        self.window: deque[float] = deque()
        self.faults = [(kind, value) for kind in FAULTS if (value := getattr(options, f"fault_{kind}"))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request, and answer it or fail at it."""
        counts = self.counts
        counts.received += 1
        counts.arrivals.append(time.time())
        counts.open += 1
        counts.peak_open = max(counts.peak_open, counts.open)
        try:
            body = b""
            more = True
            while more:
                event = await receive()
                body += event.get("body", b"")
                more = event.get("more_body", False)
            await self._serve(scope, body, send)
        finally:
            counts.open -= 1

    async def _serve(self, scope: Scope, body: bytes, send: Send) -> None:
        key = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        self.counts.keys.add(key)
        content = replies.digest(body)
        self.counts.attempts[content] += 1
        if (wait := self._over_rate()) is not None:
            self.counts.faults["over_rpm"] += 1
            await self._refuse(send, 429, MESSAGES["429"], wait)
            return
        if self.options.reject_over_capacity and self.places.locked():
            self.counts.faults["over_capacity"] += 1
            await self._refuse(send, 429, MESSAGES["429"], self.options.retry_after)
            return
        kind = self._fault(content)
        if kind == "hang":
            self.counts.faults[kind] += 1
            await asyncio.sleep(3600)
        async with self.places:
            jitter = self.options.jitter and self.options.jitter * (2 * replies.share(content, "latency") - 1)
            await asyncio.sleep(self.options.latency * (1 + jitter))
            if kind is None:
                await self._answer(send, body)
            else:
                self.counts.faults[kind] += 1
                await self._fail(scope, send, kind, body, key.decode())

    def _over_rate(self) -> float | None:
        """Seconds to wait, where this request is over the limit: a share of `rpm` in 10 s, as providers enforce it."""
        if self.options.rpm is None:
            return None
        seconds, most = (10.0, self.options.rpm // 6) if self.options.rpm >= 60 else (60.0, self.options.rpm)
        now = time.monotonic()
        while self.window and self.window[0] <= now - seconds:
            self.window.popleft()
        if len(self.window) >= most:
            return self.window[0] + seconds - now
        self.window.append(now)
        return None

    def _fault(self, content: int) -> str | None:
        if not self.faults and not self.options.permanent:
            return None
        seed = self.options.seed
        if replies.share(seed, content, "permanent") < self.options.permanent:
            return "500"
        drawn = replies.share(seed, content, self.counts.attempts[content])
        for kind, share in self.faults:
            if drawn < share:
                return kind
            drawn -= share
        return None

    async def _answer(self, send: Send, body: bytes, *, empty: bool = False, refusal: bool = False) -> None:
        try:
            request = json.loads(body)
            messages, model = request["messages"], str(request["model"])
        except (ValueError, KeyError, TypeError):
            await self._refuse(send, 400, "We could not parse the JSON body of your request.")
            return
        schema = (request.get("response_format") or {}).get("type") == "json_schema"
        if schema and self.options.no_structured:
            self.counts.faults["structured"] += 1
            await self._refuse(send, 400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported.")
            return
        try:
            said = self.author(model, messages)
        except LookupError as error:
            await self._refuse(send, 400, str(error))
            return
        if schema and not said[1]:
            said = replies.Text((said[0], replies.boxed(said[0]), said[2]))
        text = "" if empty or refusal else said.structured() if schema else said.plain()
        read, written = replies.prompt_tokens(messages), replies.tokens_of(text)
        if schema:  # providers put it into the prompt
            read += replies.tokens_of(json.dumps(request["response_format"]))
        counts = self.counts
        counts.answered += not (empty or refusal)
        counts.last_answered = time.time()
        counts.by_model[model] += 1
        counts.tokens_in += read
        counts.tokens_out += written
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        message = {"role": "assistant", "content": text, "refusal": "I cannot help with that." if refusal else None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        whole: dict[str, Any] = {
            "id": f"chatcmpl-{counts.received}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": None if self.options.no_usage else usage,
        }
        await _reply(send, 200, json.dumps(whole).encode())

    async def _fail(self, scope: Scope, send: Send, kind: str, body: bytes, key: str) -> None:
        match kind:
            case "malformed":
                await _reply(send, 200, b'{"id": "chatcmpl-1", "choices": [{"mess')
            case "empty" | "refusal":
                await self._answer(send, body, empty=kind == "empty", refusal=kind == "refusal")
            case "reset":
                transport = scope["transport"]
                if (sock := transport.get_extra_info("socket")) is not None:
                    # Lingering for 0 s, the kernel sends RST instead of FIN.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            case _:
                wait = self.options.retry_after if kind in ("429", "503") else None
                await self._refuse(send, int(kind), MESSAGES[kind].format(key=key), wait)

    async def _refuse(self, send: Send, status: int, message: str, wait: float | None = None) -> None:
        """An error in OpenAI's shape."""
        error = {"error": {"message": message, "type": "error", "param": None, "code": None}}
        headers = [] if wait is None else [(b"retry-after", f"{wait:.3f}".encode())]
        await _reply(send, status, json.dumps(error).encode(), headers)

    def stats(self, *, arrivals: bool) -> dict[str, Any]:
        """The counts as JSON."""
        counts = self.counts
        names = ("received", "answered", "open", "peak_open", "tokens_in", "tokens_out", "faults", "by_model", "last_answered")
        whole: dict[str, Any] = {name: getattr(counts, name) for name in names}
        whole["first_received"] = counts.arrivals[0] if counts.arrivals else None
        whole |= {"keys_seen": len(counts.keys), "distinct": len(counts.attempts)}
        return whole | ({"arrivals": counts.arrivals} if arrivals else {})


async def _reply(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    shape = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": shape + (headers or [])})
    await send({"type": "http.response.body", "body": body})


def create_app(options: argparse.Namespace) -> ASGIApp:
    """The application."""
    chat = Chat(options)
    app = FastAPI()

    @app.get("/stats")
    async def stats(arrivals: bool = False) -> dict[str, Any]:
        return chat.stats(arrivals=arrivals)

    @app.post("/reset")
    async def reset() -> None:
        chat.counts = Counts(open=chat.counts.open)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        """Past the framework's middleware and routing, which cost as much as the answer."""
        served = scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions")
        await (chat if served else app)(scope, receive, send)

    return front


def arguments() -> argparse.ArgumentParser:
    """The command line; `running_server` takes the same options as keywords."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to serve one request")
    parser.add_argument("--jitter", type=float, default=0.0, help="share by which latency varies with the request's content")
    parser.add_argument("--capacity", type=int, default=None, help="requests served at once; others wait in their order")
    parser.add_argument("--reject-over-capacity", action="store_true", help="answer 429 instead of making them wait")
    parser.add_argument("--rpm", type=int, default=None, help="requests a minute, enforced over 10 s")
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds named in the header of a 429 or 503")
    for kind in FAULTS:
        parser.add_argument(f"--fault-{kind}", type=float, default=0.0, metavar="SHARE", help=f"share of attempts: {kind}")
    parser.add_argument("--permanent", type=float, default=0.0, metavar="SHARE", help="share of requests that always get 500")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--mode", choices=("arithmetic", "recorded"), default="arithmetic")
    parser.add_argument("--recording", default=None, help="a file {question: [[messages of each agent], gold]}")
    parser.add_argument("--agreement", type=float, default=0.6, help="share of the rounds in which all agents agree")
    parser.add_argument("--agents", type=int, default=3, help="how many they are")
    parser.add_argument("--reply-tokens", type=int, default=180, help="tokens of a reply, on average")
    parser.add_argument("--no-structured", action="store_true", help="answer 400 to a response_format")
    parser.add_argument("--no-usage", action="store_true", help="count no tokens in the reply")
    return parser


def main() -> None:
    """Serve until killed."""
    options = arguments().parse_args()
    if options.mode == "recorded" and options.recording is None:
        raise SystemExit("--mode recorded needs --recording FILE")
    listener = socket.create_server((options.host, options.port), backlog=4096)
    serve_forever(create_app(options), listener)


def serve_forever(app: ASGIApp, listener: socket.socket) -> None:
    """Say the port as a line of JSON, and answer until killed."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="uvloop",
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    """What clients call `base_url`."""

    def stats(self, *, arrivals: bool = False) -> dict[str, Any]:
        """What came so far."""
        address = f"{self.url.removesuffix('/v1')}/stats?arrivals={int(arrivals)}"
        with urllib.request.urlopen(address, timeout=10) as response:
            stats: dict[str, Any] = json.load(response)
            return stats

    def reset(self) -> None:
        """Forget what came so far."""
        address = f"{self.url.removesuffix('/v1')}/reset"
        request = urllib.request.Request(address, method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def stop(self) -> None:
        """End it now; connections break."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_server(module: str = "benchmarks.openai_server", **options: Any) -> Iterator[RunningServer]:
    """A server with these options, named as on the command line (`latency=0.2`, `fault_429=0.1`, `no_structured=True`)."""
    command = [sys.executable, "-m", module]
    for name, value in options.items():
        if value is not False and value is not None:
            command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(command)} ended with code {process.wait()} before it was ready")
    server = RunningServer(process, f"http://{options.get('host', '127.0.0.1')}:{json.loads(line)['port']}/v1")
    try:
        yield server
    finally:
        server.stop()
        process.stdout.close()


if __name__ == "__main__":
    main()

"""A provider on this machine: chat completions over HTTP, answered from what is known of the questions, every call counted.

Equal requests get equal replies. It can be made to refuse (503) or to break connections for a while. What it counts is what a
provider would bill: a call is answered when its reply is ready, whether or not anybody is left to read it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from magdi_ray.tasks.base import Question, Task

Mood = Literal["well", "refusing", "breaking"]
RIGHT = 0.7
"""Share of the requests it answers as the question's publisher does."""
LATENCY = (0.1, 0.3)
"""Seconds a reply takes; which of them depends on the request."""
OVERLOADED = {"error": {"message": "The engine is currently overloaded.", "type": "error"}}


class Teacher:
    """The provider, for the time of the body. `with Teacher(questions, task) as teacher: teacher.url`"""

    def __init__(self, questions: Iterable[Question], task: Task) -> None:
        self.known = {task.prompt(question): question for question in questions}
        self.mood: Mood = "well"
        self.answered: Counter[str] = Counter()
        """Request -> how often it was answered."""
        self.turned_away = 0
        """Requests that got no answer."""
        self._alone = threading.Lock()
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                teacher.take(self, self.rfile.read(int(self.headers["content-length"])))

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Clients that are killed leave their connections."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Teacher:
        threading.Thread(target=self._server.serve_forever, name="teacher", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Count from nothing, in the best of moods."""
        with self._alone:
            self.mood, self.answered, self.turned_away = "well", Counter(), 0

    def calls(self) -> dict[str, int]:
        """Request -> how often it was answered."""
        with self._alone:
            return dict(self.answered)

    def take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """One request."""
        request = json.loads(body)
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        low, high = LATENCY
        time.sleep(low + (high - low) * _share(digest, "latency"))
        if self.mood != "well":
            with self._alone:
                self.turned_away += 1
            if self.mood == "breaking":
                handler.close_connection = True
                handler.connection.close()
                return
            _send(handler, 503, OVERLOADED, {"retry-after": "0.5"})
            return
        with self._alone:
            self.answered[digest] += 1
        _send(handler, 200, self.completion(request, digest), {})

    def completion(self, request: Mapping[str, Any], digest: str) -> dict[str, Any]:
        """The reply: the solution of the question that the prompt ends in, now and then with a wrong answer."""
        prompt = str(request["messages"][-1]["content"])
        # the longest: a question may end in another one
        question = max((known for known in self.known if prompt.endswith(known)), key=len, default=None)
        if question is None:
            text = "answer 0"
        else:
            asked = self.known[question]
            wrong = _share(digest, "right") >= RIGHT
            text = f"{asked.solution} answer {int(asked.gold or 0) + wrong}"
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"id": digest[:12], "object": "chat.completion", "model": request["model"], "choices": [choice], "usage": usage}


def _send(handler: BaseHTTPRequestHandler, status: int, content: object, headers: Mapping[str, str]) -> None:
    body = json.dumps(content).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _share(*parts: str) -> float:
    """A number in [0, 1) that depends on all parts."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big") / 2**64

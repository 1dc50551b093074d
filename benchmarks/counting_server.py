"""The endpoint that imitates a provider (`openai_server`), which also keeps a ledger of its own: which agent was asked what about
which question, and what it was answered.

    python -m benchmarks.counting_server --ledger FILE --latency 0.02

A line of the ledger is a reply: `QUESTION MODEL PROMPT TEXT`, the number at the end of the question's first word pair (`Farm 17
has ...` is 17), the model's name, and the first 64 bits of the hashes of the messages and of the reply's text, as hex.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
from pathlib import Path
from typing import TextIO

from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks import replies
from benchmarks.openai_server import Chat, arguments, serve_forever

NUMBER = re.compile(r"^Farm (\d+) has ")


def ask_of(messages: replies.Messages) -> int:
    """Which conversation this is: 64 bits of its texts."""
    return replies.digest("ask", *(f"{message['role']}:{message.get('content')}" for message in messages))


def text_of(text: str) -> int:
    """Which text this is: 64 bits of it."""
    return replies.digest("text", text)


def question_number(question: str) -> int:
    """The number of a question of `volume.write_questions`."""
    found = NUMBER.match(question)
    if found is None:
        raise LookupError(f"a question `Farm N has ...` is required, found {question[:60]!r}")
    return int(found[1])


def witnessed(author: replies.Author, ledger: TextIO) -> replies.Author:
    """The same author, whose every reply is noted."""

    def reply(model: str, messages: replies.Messages) -> replies.Text:
        said = author(model, messages)
        first = next(str(message.get("content")) for message in messages if message.get("role") == "user")
        ledger.write(f"{question_number(first)} {model} {ask_of(messages):016x} {text_of(said.plain()):016x}\n")
        return said

    return reply


def create_app(options: argparse.Namespace, ledger: TextIO) -> ASGIApp:
    """The application: the endpoint, and `GET /stats`, which also brings the ledger up to date."""
    chat = Chat(options)
    chat.author = witnessed(chat.author, ledger)
    chat.counts.arrivals = Forgetful()

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/stats":
            await chat(scope, receive, send)
            return
        ledger.flush()
        body = json.dumps(chat.stats(arrivals=False)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return front


class Forgetful(list[float]):
    """The first arrival only."""

    def append(self, at: float, /) -> None:
        """Keep it if it is the first."""
        if not self:
            super().append(at)


def main() -> None:
    """Serve until killed."""
    parser = arguments()
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ledger", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    listener = socket.create_server((options.host, options.port), backlog=4096)
    with options.ledger.open("w", encoding="ascii") as ledger:
        serve_forever(create_app(options, ledger), listener)


if __name__ == "__main__":
    main()

"""One question debated at a time it is asked, and its graph kept: no question is debated twice, also after a restart.

The graphs are MAG files, one a question, named by the question's id and by who debated it under which rules:

    escalations/gsm8k-2a0f9c3b41de.7be0d1c2a94f.parquet

Where others debate now, the question is debated anew, and the older graph moves to `escalations/replaced/`. It remains
a directory that `graph.source: {format: mag, path: escalations}` and `read_mags` take as it is. Knows no Ray and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from magdi_ray.debate.hold import Seat, hold_debate
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.errors import GraphError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.schema import Mag, Node
from magdi_ray.graph.store import read_mags, write_mags
from magdi_ray.serving.backend import Escalated
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.rows import named_question

logger = logging.getLogger(__name__)

LONGEST_S = 1800.0
"""A debate that takes longer, waiting for its place included, is given up; the replies it has are kept by the reply store."""

LINE = 64
"""Debates that wait for a place, at most."""

REPLACED = "replaced"
"""Directory, below that of the graphs, of those that others than today's teachers debated."""

CAUSES = {
    "BudgetSpent": "the budget of the teachers' debates is spent",
    "RateLimited": "a teacher's provider takes no more requests at the moment",
    "Overloaded": "a teacher's provider is overloaded",
    "TimedOut": "a teacher did not answer in time",
    "ServerFailed": "a teacher's provider failed",
    "Disconnected": "a teacher's provider could not be reached",
    "Malformed": "a teacher's provider answered with something that is no reply",
    "Empty": "a teacher answered with nothing",
    "Rejected": "a teacher's provider rejects the request",
    "Refused": "a teacher declined to answer",
    "Unauthorised": "a teacher's provider does not accept the server's key",
    "EngineError": "a teacher could not answer",
    "ContextLengthError": "the question is too long for a teacher",
    "TimeoutError": f"it took longer than {LONGEST_S:.0f} s",
    "GraphError": "the question's stored graph cannot be read",
}
"""What a client is told of a failure, by its class. The words of a provider are for the operator: they may quote anything."""

NO_ANSWER = "The teachers gave no answer that could be read."

FULL = "The teachers were not asked: too many debates wait for them already. Ask again later."


@dataclass(slots=True)
class Held:
    """A debate under way, and those who wait for it."""

    task: asyncio.Task[Escalated] = field(init=False)
    waiting: int = 0
    begun: bool = False
    """It has its place, and the teachers are asked."""
    paid: bool = False
    """Its tokens were told to somebody."""


class Room:
    """Where debates are held, many at once. Belongs to one event loop."""

    def __init__(
        self,
        protocol: DebateProtocol,
        seats: Mapping[str, Seat],
        *,
        graphs: Path,
        identity: str,
        seed: int,
        at_once: int,
        log_texts: bool = False,
    ) -> None:
        """`graphs` is the directory of the MAG files; `identity`, a part of their names, tells protocol and seats from any
        others; `at_once` bounds the debates that are held. Without `log_texts` a failure is logged by its class alone."""
        self._protocol = protocol
        self._seats = seats
        self._graphs = graphs
        self._identity = identity
        self._seed = seed
        self._log_texts = log_texts
        self._places = asyncio.Semaphore(at_once)
        self._most = at_once + LINE
        self._under_way: dict[str, Held] = {}

    async def debate(self, text: str) -> Escalated:
        """What the teachers make of a question; see `Teachers`.

        Those who ask the same question at the same time share one debate; the first of those who stay bears its tokens. When all
        have left it goes on where a teacher was asked, for what was paid for is kept; else it is dropped.
        """
        question = named_question(self._protocol.task.name, text, None, "train")
        held = self._under_way.get(text)
        if held is None:
            if len(self._under_way) >= self._most and not self._file(question).exists():
                return Escalated(question.id, "", None, 0.0, 0, (), 0, 0, stored=False, error=FULL)
            held = self._under_way[text] = Held()
            held.task = asyncio.create_task(self._debate(question, held))
            held.task.add_done_callback(partial(self._end, text, held))
        held.waiting += 1
        try:
            found = await asyncio.shield(held.task)
        finally:
            held.waiting -= 1
            if not (held.waiting or held.begun or held.task.done()):
                held.task.cancel()
                self._end(text, held, held.task)  # at once: who asks from now on begins anew
        if held.paid:
            return replace(found, tokens_in=0, tokens_out=0, stored=found.error is None or found.stored)
        held.paid = True
        return found

    def _end(self, text: str, held: Held, _: asyncio.Task[Escalated]) -> None:
        if self._under_way.get(text) is held:
            del self._under_way[text]

    def _file(self, question: Question) -> Path:
        return self._graphs / f"{question.id}.{self._identity}.parquet"

    async def _debate(self, question: Question, held: Held) -> Escalated:
        file = self._file(question)
        try:
            if file.exists():
                return escalated(await asyncio.to_thread(stored_graph, file, question), self._protocol.task, stored=True)
            async with asyncio.timeout(LONGEST_S), self._places:
                held.begun = True
                debate = await hold_debate(self._protocol, question, seats=self._seats, seed=self._seed)
        except (GraphError, TimeoutError) as error:
            debate = self._protocol.start(question, list(self._seats)).failed(error)
        if debate.error is not None:
            self._log(debate)
            return failed(debate)
        mag = build_mag(debate, self._protocol.task, labels="vote")
        try:
            await asyncio.to_thread(keep_graph, file, mag)
        except (GraphError, OSError):
            # The answer is worth telling all the same; the operator has to make room, or the graph is lost.
            logger.exception("The graph of the debate %s could not be written", question.id)
        return escalated(mag, self._protocol.task, stored=False)

    def _log(self, debate: Debate) -> None:
        kind, _, message = (debate.error or "").partition(": ")
        told = f"{kind}: {message}" if self._log_texts or kind in ("BudgetSpent", "GraphError") else kind
        logger.warning("The debate %s failed after %d replies: %s", debate.question.id, len(debate.turns), told)


def keep_graph(file: Path, mag: Mag) -> None:
    """Write a question's graph, in the place of those that others debated.

    Raises:
        GraphError: it could not be read back.
        OSError: it cannot be written.
    """
    older = [*file.parent.glob(f"{mag.question.id}.parquet"), *file.parent.glob(f"{mag.question.id}.*.parquet")]
    for other in older:
        if other != file:
            (file.parent / REPLACED).mkdir(exist_ok=True)
            os.replace(other, file.parent / REPLACED / other.name)
    write_mags(file, [mag])


def stored_graph(file: Path, question: Question) -> Mag:
    """The graph kept of a question.

    Raises:
        GraphError: the file is damaged, or holds another question.
    """
    [mag] = read_mags(file)
    if mag.question.text != question.text:
        raise GraphError(f"{file} holds another question under the same id. Move it away to have this one debated.")
    return mag


def failed(debate: Debate) -> Escalated:
    """A debate that ended in an error, as a client is told of it."""
    kind = (debate.error or "").partition(":")[0]
    return Escalated(
        id=debate.question.id,
        text="",
        answer=None,
        agreement=0.0,
        rounds=debate.rounds,
        agents=debate.agents,
        tokens_in=sum(turn.tokens_in for turn in debate.turns),
        tokens_out=sum(turn.tokens_out for turn in debate.turns),
        stored=False,
        error=f"The teachers' debate failed: {CAUSES.get(kind, 'an error in it')} ({kind}).",
    )


def escalated(mag: Mag, task: Task, *, stored: bool) -> Escalated:
    """A debate that was held, now or (`stored`) earlier."""
    spokesman = spoken_by(mag, task)
    return Escalated(
        id=mag.question.id,
        text=spokesman.text if spokesman else "",
        answer=mag.answer,
        agreement=mag.agreement,
        rounds=1 + max((node.round for node in mag.nodes), default=-1),
        agents=mag.agents,
        tokens_in=0 if stored else sum(node.tokens_in for node in mag.nodes),
        tokens_out=0 if stored else sum(node.tokens_out for node in mag.nodes),
        stored=stored,
        error=None if spokesman else NO_ANSWER,
    )


def spoken_by(mag: Mag, task: Task) -> Node | None:
    """The reply that speaks for the team: of those that give its answer one of a debater, of the last round, the most confident;
    then the first. None where the team has no answer."""
    giving = [node for node in mag.nodes if task.same(node.answer, mag.answer)]
    return max(giving, key=lambda node: (node.role == "debater", node.round, node.confidence or 0.0), default=None)

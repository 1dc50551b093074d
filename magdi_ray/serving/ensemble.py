"""Several replies to one question and what they come to: votes, agreement, and the teachers where the student is not of one mind.

Knows no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from magdi_ray.agents.base import BusyError, ContextLengthError, PromptError, derive_seed
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores
from magdi_ray.errors import EngineError
from magdi_ray.serving.backend import Backend, Escalated, Teachers
from magdi_ray.tasks.base import Question, Task, group_same
from magdi_ray.tasks.rows import HALF_A_PAIR

Aggregate = Literal["majority", "verifier", "best"]

UNKNOWN = 0.5
"""Confidence of a reply where nobody knows it; breaks ties only."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says under `magdi`."""

    samples: int
    """Replies to draw."""
    aggregate: Aggregate = "majority"
    """majority: every readable reply has one vote. verifier: its vote weighs what the student's own heads give it. best: the one
    reply wins that they give most."""
    escalate_below: float | None = None
    """Ask the teachers where the agreement (see `Ensembled`) is below this; None never does."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer, and who gave it."""

    answer: str
    count: int
    """Replies that gave it."""
    weight: float
    """What they weigh together, by the rule that was asked for."""


@dataclass(frozen=True, slots=True)
class Ensembled:
    """What several replies came to."""

    piece: Piece
    """A reply that gives the answer, really written by the student, or by a teacher where the question was escalated; tokens are
    those of all replies of the student."""
    answer: str | None
    """In the task's normal form; None where no reply holds one."""
    agreement: float
    """Share of the student's replies that give its most frequent answer, of all that were had: unreadable ones agree with nobody,
    failed draws are no replies."""
    votes: tuple[Vote, ...]
    """The student's, weightiest first."""
    unread: int
    """The student's replies in which no answer could be read."""
    failed: int
    """Replies that were asked for and could not be had."""
    wish: Wish
    escalated: Escalated | None


@dataclass(frozen=True, slots=True)
class Draw:
    """One of the replies that were asked for."""

    piece: Piece | None
    """None where it could not be had."""
    error: EngineError | None = None
    """Why it could not be had; of a reply that is there, why the student could not judge it."""
    answer: str | None = None
    merit: float = 0.0
    """What its vote weighs where the student's heads are asked, in [0, 1]."""

    @property
    def confidence(self) -> float:
        """As the engine tells it."""
        return UNKNOWN if self.piece is None or self.piece.confidence is None else self.piece.confidence


class Ensemble:
    """Asks the student several times, and the teachers where that is called for."""

    def __init__(self, backend: Backend, task: Task, teachers: Teachers | None) -> None:
        self._backend = backend
        self._task = task
        self._teachers = teachers

    async def ask(self, prompt: Prompt, decoding: Decoding, wish: Wish, *, drawn: Callable[[], None] = lambda: None) -> Ensembled:
        """Draw `wish.samples` replies, vote, and escalate where they agree too little.

        Draws that fail are counted, and no more: they neither vote nor escalate a question by themselves. `drawn` is called when
        all draws are over, before the teachers are asked. Whoever cancels this ends all draws.

        Raises:
            PromptError: the prompt cannot be put to the student, or (verifier, escalation) it lacks what was asked for.
            BusyError: there was no room for one of the draws; a vote of those that found room would not be the one asked for.
            EngineError: not one reply could be had.
        """
        question = Question("asked", bare_question(self._task, asked_text(prompt)))
        if wish.escalate_below is not None:
            self._check_escalation(prompt, question.text)
        draws = await self._draw(prompt, decoding, wish, question)
        drawn()
        if all(draw.piece is None for draw in draws):
            raise next(draw.error for draw in draws if draw.error is not None)
        result = vote(self._task, draws, wish)
        if wish.escalate_below is None or self._teachers is None or result.agreement >= wish.escalate_below:
            return result
        return escalated(result, await self._teachers.debate(question.text))

    def _check_escalation(self, prompt: Prompt, question: str) -> None:
        if self._teachers is None:
            raise PromptError(
                "magdi.escalate_below needs teachers, and this server keeps none at hand. Leave it out, or serve the student "
                "with `escalate: true` and a `debate` section."
            )
        roles = [message.role for message in prompt.messages or ()]
        if roles.count("user") != 1 or "assistant" in roles:
            raise PromptError(
                "magdi.escalate_below needs a conversation of one user message, which holds the whole question, and no assistant "
                f"message: the teachers are asked nothing else. Found the roles {', '.join(roles)}."
            )
        if not question.strip() or HALF_A_PAIR.search(question):
            raise PromptError(
                "magdi.escalate_below needs a question to debate; the user message holds none that can be written down."
            )

    async def _draw(self, prompt: Prompt, decoding: Decoding, wish: Wish, question: Question) -> list[Draw]:
        """All draws, in the order of their seeds. A prompt that is at fault, or a full queue, ends all of them at once."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(prompt, seeded(decoding, number), wish, question))
                    for number in range(wish.samples)
                ]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, prompt: Prompt, decoding: Decoding, wish: Wish, question: Question) -> Draw:
        try:
            piece = await self._backend.complete(prompt, decoding)
        except (PromptError, BusyError):
            raise
        except EngineError as error:
            return Draw(None, error)
        answer = self._task.extract(question, piece.text)
        if wish.aggregate == "majority" or answer is None:
            return Draw(piece, answer=answer)
        try:
            scores = await self._backend.score(prompt, piece.text, decoding.adapter)
        except PromptError as error:
            if not isinstance(error, ContextLengthError):
                raise
            return Draw(piece, error, answer)  # the reply filled the context, and its end no longer fits in
        except BusyError:
            raise
        except EngineError as error:
            return Draw(piece, error, answer)
        return Draw(piece, answer=answer, merit=merit_of(scores))


def seeded(decoding: Decoding, number: int) -> Decoding:
    """The decoding of one of several draws: a seed of its own where there is any."""
    if decoding.seed is None:
        return decoding
    return decoding.model_copy(update={"seed": derive_seed(decoding.seed, number)})


def merit_of(scores: Scores) -> float:
    """The probability that a reply is correct, as the student's heads see it (`Scores.merit`).

    Raises:
        PromptError: the student has no head.
    """
    if scores.merit is None:
        raise PromptError(
            "magdi.aggregate: verifier and best need a student that was taught to judge; this one was trained without a head, or "
            "is served without it (by vLLM): only recipes with objectives `verify`, `contrast` or `interaction` have one. "
            "Use aggregate: majority."
        )
    return scores.merit


def vote(task: Task, drawn: Sequence[Draw], wish: Wish) -> Ensembled:
    """What the draws come to. At least one of them is a reply; their order is that of their seeds.

    The winner has the most votes (verifier: the largest sum of weights; best: the largest weight; then the most votes); of equal
    ones the one with the larger sum of confidences, then the one drawn under the earlier number. Nothing depends on which reply
    arrived first.
    """
    groups = group_same(task, [draw.answer for draw in drawn])
    judged = wish.aggregate != "majority"
    if judged and groups and all(drawn[place].error is not None for group in groups for place in group):
        raise next(draw.error for draw in drawn if draw.answer is not None and draw.error is not None)

    def weight(group: list[int]) -> float:
        merits = [drawn[place].merit for place in group]
        return max(merits) if wish.aggregate == "best" else total(merits) if judged else float(len(group))

    def strength(group: list[int]) -> tuple[float, int, float, int]:
        return weight(group), len(group), total([drawn[place].confidence for place in group]), -group[0]

    def shown(place: int) -> tuple[float, float, int]:
        draw = drawn[place]
        return draw.merit if judged else draw.confidence, draw.confidence, -place

    groups.sort(key=strength, reverse=True)
    candidates = groups[0] if groups else [place for place, draw in enumerate(drawn) if draw.piece is not None]
    chosen = drawn[max(candidates, key=shown)].piece
    assert chosen is not None
    pieces = [draw.piece for draw in drawn if draw.piece is not None]
    read = sum(map(len, groups))
    votes = tuple(Vote(drawn[group[0]].answer or "", len(group), weight(group)) for group in groups)
    return Ensembled(
        piece=replace(
            chosen,
            tokens_in=sum(piece.tokens_in for piece in pieces),
            tokens_out=sum(piece.tokens_out for piece in pieces),
            queued_s=max(piece.queued_s for piece in pieces),
        ),
        answer=votes[0].answer if votes else None,
        agreement=max((one.count for one in votes), default=0) / len(pieces),
        votes=votes,
        unread=len(pieces) - read,
        failed=len(drawn) - len(pieces),
        wish=wish,
        escalated=None,
    )


def escalated(result: Ensembled, found: Escalated) -> Ensembled:
    """The student's vote after its teachers were asked: theirs where they have one, else its own."""
    if found.error is not None or found.answer is None:
        return replace(result, escalated=found)
    piece = replace(result.piece, text=found.text, logprobs=(), finish_reason="stop", confidence=None)
    return replace(result, piece=piece, answer=found.answer, escalated=found)


def total(values: Sequence[float]) -> float:
    """A sum that does not depend on the order, down to the last bit."""
    return round(math.fsum(values), 9)


def asked_text(prompt: Prompt) -> str:
    """The last user message.

    Raises:
        PromptError: the prompt is no conversation, or nobody asks anything in it.
    """
    said = [message.content for message in prompt.messages or () if message.role == "user"]
    if not said:
        raise PromptError(
            "Votes need a conversation with a user message: it says what is asked, and so how answers are read and compared. "
            "Send `messages` with a message of the role user, or leave `magdi` out."
        )
    return said[-1]


def bare_question(task: Task, content: str) -> str:
    """A question as its publisher writes it, out of a message that may carry the task's own words around it.

    Without those words the message is the question.
    """
    before, _, behind = task.prompt(Question("probe", "\x00")).partition("\x00")
    text = content.strip()
    before, behind = before.lstrip(), behind.rstrip()
    if len(text) < len(before) + len(behind) or not (text.startswith(before) and text.endswith(behind)):
        return text
    return text[len(before) : len(text) - len(behind)].strip()

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.failures import Rejected, TimedOut
from magdi_ray.debate.hold import Seat, hold_debate
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.debate.self_consistency import SelfConsistency
from magdi_ray.debate.transcript import Debate, DebateProtocol
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTION = Question("q", "How many are 2 and 3?", "5")


@dataclass
class Scripted:
    """Answers from a list, and remembers what it was asked."""

    texts: list[str | Exception]
    asked: list[tuple[tuple[Message, ...], Sampling, int]] = field(default_factory=list)
    hits: int = 0

    async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
        self.asked.append((tuple(messages), sampling, sample))
        text = self.texts[min(len(self.asked), len(self.texts)) - 1]
        if isinstance(text, Exception):
            raise text
        return Reply(text, 7, 3, None, "stop", "scripted")


def held(protocol: DebateProtocol, **seats: Seat) -> Debate:
    return asyncio.run(hold_debate(protocol, QUESTION, seats=seats, seed=3))


def test_a_failure_ends_the_debate_and_keeps_the_rounds_before_it() -> None:
    one, two = Scripted(["The answer is 5."]), Scripted(["The answer is 6.", TimedOut("2 s")])
    debate = held(Reconcile(Gsm8k(), rounds=2), one=Seat(one, Sampling()), two=Seat(two, Sampling()))
    assert debate.stopped == "error"
    assert debate.error == "TimedOut: 2 s"
    assert [turn.answer for turn in debate.turns] == ["5", "6"]


def test_the_other_calls_of_a_failing_round_are_awaited() -> None:
    done = []

    class Slow(Scripted):
        async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
            await asyncio.sleep(0.05)
            done.append(True)
            return await super().generate(messages, sampling, sample=sample)

    held(Reconcile(Gsm8k()), one=Seat(Slow(["The answer is 5."]), Sampling()), two=Seat(Scripted([TimedOut("2 s")]), Sampling()))
    assert done == [True]


def test_every_draw_of_a_seeded_seat_has_a_seed_of_its_own() -> None:
    one = Scripted(["The answer is 5."])
    held(SelfConsistency(Gsm8k(), samples=4), one=Seat(one, Sampling(temperature=1.0)))
    assert len({sampling.seed for _, sampling, _ in one.asked}) == 4


def test_a_seat_without_seeds_tells_draws_apart_by_sample() -> None:
    one = Scripted(["The answer is 5."])
    held(SelfConsistency(Gsm8k(), samples=3), one=Seat(one, Sampling(temperature=1.0), seeded=False, twin=1, twins=2))
    assert [(sampling.seed, sample) for _, sampling, sample in one.asked] == [(None, 1), (None, 3), (None, 5)]


def test_an_answer_that_cannot_be_read_is_asked_for_once_more() -> None:
    one = Scripted(["I count apples.", "The answer is 5."])
    debate = held(SelfConsistency(Gsm8k(), samples=1), one=Seat(one, Sampling(), repair=True))
    (turn,) = debate.turns
    assert (turn.answer, turn.status, turn.tokens_in, turn.tokens_out) == ("5", "ok", 14, 6)
    assert [message.role for message in one.asked[1][0]] == ["user", "assistant", "user"]


def test_what_still_cannot_be_read_is_an_unparsed_turn() -> None:
    one = Scripted(["I count apples.", "And pears."])
    debate = held(SelfConsistency(Gsm8k(), samples=1), one=Seat(one, Sampling(), repair=True))
    assert (debate.turns[0].answer, debate.turns[0].status, debate.error) == (None, "unparsed", None)


def test_an_unread_reply_is_kept_where_the_provider_rejects_the_second_question() -> None:
    one = Scripted(["I count apples.", Rejected("too long")])
    debate = held(SelfConsistency(Gsm8k(), samples=1), one=Seat(one, Sampling(), repair=True))
    assert (debate.error, debate.turns[0].text, debate.turns[0].status) == (None, "I count apples.", "unparsed")


def test_words_that_were_sent_before_are_another_sample() -> None:
    one, two = Scripted(["I cannot say."]), Scripted(["Nor can I."])
    seats = {"one": Seat(one, Sampling(), seeded=False), "two": Seat(two, Sampling(), seeded=False, twin=1, twins=2)}
    held(Reconcile(Gsm8k(), rounds=2), **seats)
    asked = [(messages, sample) for messages, _, sample in one.asked]
    assert len(asked) == 3
    assert asked[1][0] == asked[2][0]
    assert len({sample for _, sample in asked[1:]}) == 2

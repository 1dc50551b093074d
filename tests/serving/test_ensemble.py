"""Several replies and what they come to, over a student whose replies, times and judgements are written down beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from magdi_ray.agents.base import BusyError, ContextLengthError, Message, PromptError, derive_seed
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores
from magdi_ray.errors import EngineError
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.ensemble import Ensemble, Ensembled, Wish, bare_question
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import MAKERS, TASKS

ASKED = Prompt(messages=(Message("system", "Be brief."), Message("user", "How many are 2 and 3?")))
DECODING = Decoding(temperature=0.7, seed=3)


@dataclass
class Scripted:
    """Draw number i says `texts[i]`, after `delays[i]` seconds; a text that is an error is raised."""

    texts: Sequence[str | Exception]
    delays: Sequence[float] = ()
    confidences: Sequence[float | None] = ()
    scores: dict[str, Scores | Exception] = field(default_factory=dict)
    seeds: list[int | None] = field(default_factory=list)
    ended: int = 0

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        number = len(self.seeds)
        self.seeds.append(decoding.seed)
        try:
            await asyncio.sleep(self.delays[number] if self.delays else 0.0)
        finally:
            self.ended += 1
        text = self.texts[number]
        if isinstance(text, Exception):
            raise text
        confidence = self.confidences[number] if self.confidences else None
        return Piece(text, tokens_in=5, tokens_out=2, finish_reason="stop", confidence=confidence)

    def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        raise NotImplementedError("votes are over whole replies")

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        found = self.scores[reply]
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class Panel:
    """Teachers that always find the same."""

    found: Escalated
    asked: list[str] = field(default_factory=list)

    async def debate(self, question: str) -> Escalated:
        self.asked.append(question)
        return self.found


FOUND = Escalated("gsm8k-1", "It is 5. The answer is 5.", "5", 1.0, 1, ("ada", "ben"), 40, 20, stored=False, error=None)
LOST = Escalated("gsm8k-1", "", None, 0.0, 0, ("ada", "ben"), 0, 0, stored=False, error="The budget is spent.")


def ask(
    backend: Scripted, wish: Wish, *, prompt: Prompt = ASKED, decoding: Decoding = DECODING, teachers: Panel | None = None
) -> Ensembled:
    return asyncio.run(Ensemble(backend, TASKS["gsm8k"](), teachers).ask(prompt, decoding, wish))


def says(*answers: int | None) -> list[str]:
    return [f"Reply {place}. The answer is {answer}." if answer is not None else "Hm." for place, answer in enumerate(answers)]


def test_the_answer_most_replies_give_wins_and_equal_answers_count_together() -> None:
    found = ask(Scripted(["The answer is 4.", "The answer is 5.", "The answer is 5.0.", "Hm."]), Wish(4))
    assert (found.answer, found.agreement, found.unread) == ("5", 0.5, 1)
    assert [(vote.answer, vote.count, vote.weight) for vote in found.votes] == [("5", 2, 2.0), ("4", 1, 1.0)]


def test_the_reply_is_the_winners_most_confident_and_its_tokens_are_all_replies() -> None:
    found = ask(Scripted(says(5, 5, 4), confidences=[0.3, 0.8, 0.99]), Wish(3))
    assert found.piece.text == "Reply 1. The answer is 5."
    assert (found.piece.tokens_in, found.piece.tokens_out, found.piece.confidence) == (15, 6, 0.8)


@pytest.mark.parametrize(
    ("confidences", "winner"),
    [([0.2, 0.9, 0.2, 0.9], "5"), ([0.9, 0.2, 0.9, 0.2], "4"), ([None] * 4, "4")],
)
@pytest.mark.parametrize("delays", [(0.0, 0.01, 0.02, 0.03), (0.03, 0.02, 0.01, 0.0)])
def test_a_tie_goes_to_the_surer_answer_then_the_first_drawn_whichever_came_first(
    confidences: list[float | None], winner: str, delays: tuple[float, ...]
) -> None:
    assert ask(Scripted(says(4, 5, 4, 5), delays, confidences), Wish(4)).answer == winner


def test_every_draw_has_a_seed_of_its_own_and_none_where_none_is_asked() -> None:
    backend = Scripted(says(5, 5, 5))
    ask(backend, Wish(3))
    assert backend.seeds == [derive_seed(3, number) for number in range(3)]
    backend = Scripted(says(5, 5))
    ask(backend, Wish(2), decoding=Decoding(temperature=0.7))
    assert backend.seeds == [None, None]


def test_a_draw_that_fails_is_no_reply_and_lowers_no_agreement() -> None:
    found = ask(Scripted([*says(5, 5, None), EngineError("lost")]), Wish(4))
    assert (found.answer, found.agreement, found.unread, found.failed) == ("5", 2 / 3, 1, 1)
    assert (found.piece.tokens_in, found.piece.tokens_out) == (15, 6)


def test_where_every_draw_fails_the_first_error_is_raised() -> None:
    with pytest.raises(EngineError, match="lost"):
        ask(Scripted([EngineError("lost"), EngineError("lost, too")]), Wish(2))


def test_a_full_queue_ends_the_vote_and_all_its_draws() -> None:
    backend = Scripted([*says(5), BusyError("full"), *says(5)], delays=[0.0, 0.0, 60.0])
    with pytest.raises(BusyError, match="full"):
        ask(backend, Wish(3))
    assert backend.ended == 3
    texts = says(4, 5)
    with pytest.raises(BusyError, match="no room"):
        ask(Scripted(texts, scores={texts[0]: BusyError("no room"), texts[1]: scored(0.1)}), Wish(2, "verifier"))


def test_it_is_told_when_the_draws_are_over_before_the_teachers_are_asked() -> None:
    teachers, seen = Panel(FOUND), []
    student = Ensemble(Scripted(says(4, 6)), TASKS["gsm8k"](), teachers)
    asyncio.run(student.ask(ASKED, DECODING, Wish(2, escalate_below=0.6), drawn=lambda: seen.append(len(teachers.asked))))
    assert (seen, len(teachers.asked)) == ([0], 1)


def test_a_prompt_that_is_at_fault_ends_all_draws_at_once() -> None:
    backend = Scripted([ContextLengthError("9 of 8"), *says(5, 5)], delays=[0.0, 60.0, 60.0])
    with pytest.raises(ContextLengthError, match="9 of 8"):
        ask(backend, Wish(3))
    assert backend.ended == 3


def test_a_client_that_leaves_ends_all_draws() -> None:
    backend = Scripted(says(5, 5, 5), delays=[0.0, 60.0, 60.0])

    async def leave() -> None:
        asked = asyncio.create_task(Ensemble(backend, TASKS["gsm8k"](), None).ask(ASKED, DECODING, Wish(3)))
        await asyncio.sleep(0.02)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(leave())
    assert (len(backend.seeds), backend.ended) == (3, 3)


def test_where_no_reply_is_readable_the_most_confident_one_stands_without_an_answer() -> None:
    found = ask(Scripted(["Hm.", "Well."], confidences=[0.2, 0.6]), Wish(2))
    assert (found.piece.text, found.answer, found.votes, found.agreement, found.unread) == ("Well.", None, (), 0.0, 2)


def scored(correct: float | None = None, contrast: float | None = None) -> Scores:
    return Scores(-1.0, 3, contrast, correct)


def test_the_verifier_lets_one_good_reply_outweigh_two_poor_ones() -> None:
    texts = says(4, 4, 5)
    scores = dict(zip(texts, [scored(0.1, 0.9), scored(0.2, 0.9), scored(0.9, -0.9)], strict=True))
    found = ask(Scripted(texts, scores=scores), Wish(3, "verifier"))
    assert (found.answer, found.piece.text) == ("5", texts[2])
    assert [(vote.answer, vote.count, vote.weight) for vote in found.votes] == [("5", 1, 0.9), ("4", 2, 0.3)]
    assert found.agreement == pytest.approx(2 / 3)  # of the most frequent answer, whoever wins


def test_the_best_rated_reply_wins_alone_whatever_the_others_say() -> None:
    texts = says(4, 4, 4, 5)
    scores = dict(zip(texts, [scored(0.6), scored(0.7), scored(0.5), scored(0.8)], strict=True))
    found = ask(Scripted(texts, scores=scores), Wish(4, "best"))
    assert (found.answer, found.piece.text) == ("5", texts[3])
    assert [(vote.answer, vote.count, vote.weight) for vote in found.votes] == [("5", 1, 0.8), ("4", 3, 0.7)]


def test_without_a_graph_network_the_scorer_is_asked_and_the_best_scored_reply_stands() -> None:
    texts = says(5, 5, 4)
    scores = dict(zip(texts, [scored(contrast=-0.5), scored(contrast=0.5), scored(contrast=0.0)], strict=True))
    found = ask(Scripted(texts, confidences=[0.9, 0.1, 0.5], scores=scores), Wish(3, "verifier"))
    assert (found.piece.text, [vote.weight for vote in found.votes]) == (texts[1], [1.0, 0.5])


def test_a_student_without_a_head_is_no_verifier_and_says_what_to_do() -> None:
    texts = says(5, 5)
    with pytest.raises(PromptError, match=r"trained without a head, .*Use aggregate: majority"):
        ask(Scripted(texts, scores=dict.fromkeys(texts, scored())), Wish(2, "verifier"))


def test_a_reply_that_could_not_be_judged_weighs_nothing_and_all_of_them_are_an_error() -> None:
    texts = says(4, 5)
    lost = EngineError("the copy ended")
    for error in (lost, ContextLengthError("9 of 8")):
        assert ask(Scripted(texts, scores={texts[0]: error, texts[1]: scored(0.1)}), Wish(2, "verifier")).answer == "5"
    with pytest.raises(EngineError, match="the copy ended"):
        ask(Scripted(texts, scores=dict.fromkeys(texts, lost)), Wish(2, "verifier"))


@pytest.mark.parametrize(("answers", "asks"), [((5, 5, 4), False), ((5, 4, None), True), ((None, None, None), True)])
def test_the_teachers_are_asked_only_where_the_student_disagrees_with_itself(answers: tuple[int | None, ...], asks: bool) -> None:
    teachers = Panel(FOUND)
    found = ask(Scripted(says(*answers)), Wish(3, escalate_below=0.6), teachers=teachers)
    assert teachers.asked == ["How many are 2 and 3?"] * asks
    assert (found.escalated is not None) == asks


def test_an_escalated_reply_is_a_teachers_and_the_students_votes_stay() -> None:
    found = ask(Scripted(says(4, 6), confidences=[0.9, 0.1]), Wish(2, escalate_below=0.6), teachers=Panel(FOUND))
    assert (found.answer, found.piece.text, found.piece.confidence) == ("5", FOUND.text, None)
    assert ([vote.answer for vote in found.votes], found.agreement, found.piece.tokens_out) == (["4", "6"], 0.5, 4)
    assert found.escalated == FOUND


def test_where_the_teachers_find_nothing_the_students_vote_stays_and_the_reason_is_told() -> None:
    found = ask(Scripted(says(4, 6), confidences=[0.9, 0.1]), Wish(2, escalate_below=0.6), teachers=Panel(LOST))
    assert (found.answer, found.piece.text) == ("4", "Reply 0. The answer is 4.")
    assert found.escalated is not None
    assert found.escalated.error == "The budget is spent."


def test_draws_that_failed_do_not_escalate_a_question_by_themselves() -> None:
    teachers = Panel(FOUND)
    lost = EngineError("lost")
    found = ask(Scripted([*says(5, 5), lost, lost]), Wish(4, escalate_below=0.6), teachers=teachers)
    assert (found.answer, found.agreement, found.failed, teachers.asked) == ("5", 1.0, 2, [])


def test_the_agreement_that_is_told_is_the_one_that_decides() -> None:
    lost = EngineError("lost")
    for threshold, asks in ((2 / 3, 0), (0.67, 1)):
        teachers = Panel(FOUND)
        found = ask(Scripted([*says(5, 5, 4), lost]), Wish(4, escalate_below=threshold), teachers=teachers)
        assert (found.agreement, len(teachers.asked)) == (2 / 3, asks)


TWO = Prompt(messages=(Message("user", "2 + 2?"), Message("assistant", "4."), Message("user", "And 1 more?")))


@pytest.mark.parametrize(
    ("prompt", "wish", "teachers", "told"),
    [
        (ASKED, Wish(2, escalate_below=0.5), None, "this server keeps none at hand"),
        (TWO, Wish(2, escalate_below=0.5), Panel(FOUND), "Found the roles user, assistant, user"),
        (Prompt(messages=(Message("user", " \n"),)), Wish(2, escalate_below=0.5), Panel(FOUND), "needs a question to debate"),
        (Prompt(messages=(Message("user", "\ud800?"),)), Wish(2, escalate_below=0.5), Panel(FOUND), "needs a question to debate"),
        (Prompt(messages=(Message("system", "Hi."),)), Wish(2), None, "a conversation with a user message"),
        (Prompt(text="2 + 2 ="), Wish(2), None, "a conversation with a user message"),
        (Prompt(ids=(1, 2)), Wish(2), None, "a conversation with a user message"),
    ],
)
def test_what_cannot_be_voted_over_is_refused_before_anything_is_drawn(
    prompt: Prompt, wish: Wish, teachers: Panel | None, told: str
) -> None:
    backend = Scripted(says(5, 5))
    with pytest.raises(PromptError, match=told):
        ask(backend, wish, prompt=prompt, teachers=teachers)
    assert backend.seeds == []


def test_a_longer_conversation_is_voted_over_by_its_last_question() -> None:
    assert ask(Scripted(says(5, 5)), Wish(2), prompt=TWO).answer == "5"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_question_is_found_in_its_tasks_own_prompt_and_where_it_stands_alone(name: str) -> None:
    task = TASKS[name]()
    text = "which of them is it ?" if name in MAKERS else "which of them is it ?\n(A) a bank\n(B) no"
    assert bare_question(task, task.prompt(Question("q", text))) == text
    assert bare_question(task, f"\n{task.prompt(Question('q', text))}\n") == text
    assert bare_question(task, f"  {text}\n") == text


def test_lettered_options_are_read_from_the_question_in_the_users_message() -> None:
    task = TASKS["commonsenseqa"]()
    prompt = Prompt(messages=(Message("user", task.prompt(Question("q", "Where?\n(A) bank\n(B) library"))),))
    found = asyncio.run(Ensemble(Scripted(["a library", "It is (B)."]), task, None).ask(prompt, DECODING, Wish(2)))
    assert (found.answer, found.agreement) == ("B", 1.0)

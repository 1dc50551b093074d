"""What an evaluation asks, of whom at once, what it refuses, and how it treats what failed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.store import ReplyStore, reply_key
from magdi_ray.config.engines import ApiEngine, TransformersEngine
from magdi_ray.config.sections import FileTask, MadeTask
from magdi_ray.debate.revision import revision_messages
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.evaluate.answers import Answer, debate_answers, failed, iter_answers, write_answers
from magdi_ray.evaluate.exam import Candidate, Examination, Paper, read_asked, write_asked
from magdi_ray.evaluate.kept import answered, read_times, write_times
from magdi_ray.evaluate.metrics import Key
from magdi_ray.evaluate.operator import AnswerOperator, OwnEngine, answer_question, revise_answer
from magdi_ray.evaluate.run import ROOM, check_answers, first_of_each_set, own_workers, run_answers, waves
from magdi_ray.graph.build import build_mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTIONS = [Question(f"q{i}", f"How many are {i}?", "18", "test") for i in range(3)]
LOCAL = Candidate("base", TransformersEngine(type="transformers", model="m"), "m", Sampling(), num_cpus=0.5)
REMOTE = replace(LOCAL, system="gpt", engine=ApiEngine(type="api", model="gpt"))


def several(count: int, like: Candidate = LOCAL) -> list[Candidate]:
    return [replace(like, system=f"{like.system}{i}") for i in range(count)]


@pytest.mark.parametrize(("cpus", "sizes"), [(4.0, [5, 2]), (2.5, [2, 2, 2, 1]), (0.5, [1] * 7)])
def test_local_models_answer_in_waves_that_fit_the_cluster(cpus: float, sizes: list[int]) -> None:
    assert [len(wave) for wave in waves(several(7), {"CPU": cpus})] == sizes


def test_gpus_bound_a_wave_too_and_a_copy_takes_its_own_room() -> None:
    room = {"CPU": 64.0, "GPU": 4.0}
    assert [len(wave) for wave in waves(several(6, replace(LOCAL, num_gpus=1.0)), room)] == [4, 2]
    assert [len(wave) for wave in waves(several(6, replace(LOCAL, num_gpus=1.0, replicas=(1, 2))), room)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("sizes", "together"),
    [([ROOM // 4] * 6, [4, 2]), ([1] * 200, [200]), ([ROOM * 8, ROOM * 8], [1, 1]), ([0, 1, 1, 0], [1, 2, 1])],
)
def test_students_share_a_worker_as_far_as_their_weights_fit_and_unknown_ones_share_none(
    sizes: list[int], together: list[int]
) -> None:
    own = [replace(LOCAL, system=f"s{number}", own=True, size=size) for number, size in enumerate(sizes)]
    assert [len(wave) for wave in waves([REMOTE, *own], {"CPU": 1.0})] == [1, *together]


def test_a_student_that_cannot_be_loaded_is_tried_once_and_says_so_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fail(self: OwnEngine) -> Any:
        tried.append(1)
        raise ConfigError("no memory")

    monkeypatch.setattr(OwnEngine, "_loaded", fail)
    engine = OwnEngine(replace(LOCAL, own=True))
    for _ in range(3):
        with pytest.raises(ConfigError, match="no memory"):
            asyncio.run(engine.generate([Message("user", "?")], Sampling()))
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("student", "have", "workers"),
    [
        (replace(LOCAL, num_cpus=1.0), {"CPU": 8.0}, 7),
        (replace(LOCAL, num_cpus=1.0), {"CPU": 1.0}, 1),
        (replace(LOCAL, num_cpus=1.0, num_gpus=1.0), {"CPU": 64.0, "GPU": 4.0}, 4),
        (replace(LOCAL, num_cpus=1.0, size=1 << 30), {"CPU": 64.0, "memory": float(9 << 30)}, 2),
    ],
)
def test_as_many_workers_decode_students_as_a_cluster_has_room_for(
    student: Candidate, have: dict[str, float], workers: int
) -> None:
    assert own_workers([student], have) == workers


def test_providers_take_no_room() -> None:
    assert [len(wave) for wave in waves([*several(3, REMOTE), *several(2)], {"CPU": 2.0})] == [4, 1]
    assert waves(several(2, REMOTE), {}) == [several(2, REMOTE)]


def test_a_provider_is_sent_a_seed_only_where_one_was_asked_for() -> None:
    assert [sampling.seed for sampling in REMOTE.samplings(5)] == [None]
    assert [sampling.seed for sampling in replace(REMOTE, sampling=Sampling(seed=1)).samplings(5)] == [5]
    assert [sampling.seed for sampling in LOCAL.samplings(5)] == [5]


def test_every_drawn_reply_has_a_seed_of_its_own_and_its_own_temperature() -> None:
    one = replace(LOCAL, drawn=Sampling(temperature=0.7), samples=4)
    found = one.samplings(5)
    assert [sampling.temperature for sampling in found] == [0.0, 0.7, 0.7, 0.7, 0.7]
    assert len({sampling.seed for sampling in found}) == 5


def test_questions_of_several_tasks_keep_their_task(tmp_path: Path) -> None:
    papers = [Paper(MadeTask(name="tiny"), "in", tuple(QUESTIONS[:2])), Paper(MadeTask(name="tiny"), "out", tuple(QUESTIONS[2:]))]
    assert write_asked(tmp_path / "asked.parquet", papers) == 3
    assert read_asked(tmp_path / "asked.parquet") == [("tiny", question) for question in QUESTIONS]


def test_the_split_ood_is_out_of_domain_also_of_the_runs_own_task() -> None:
    paper = Paper(MadeTask(name="tiny"), "in", (QUESTIONS[0], replace(QUESTIONS[1], split="ood")))
    assert [(row["split"], row["domain"], row["questions"]) for row in paper.sets()] == [("test", "in", 1), ("ood", "out", 1)]


def test_a_student_that_mostly_failed_is_an_error_with_an_example_and_not_a_bad_score(tmp_path: Path) -> None:
    good = [Answer(q.id, "test", "base", "18", "18", True, 5, 1) for q in QUESTIONS]
    write_answers(tmp_path / "good.parquet", good)
    check_answers(tmp_path, 0.05)
    write_answers(tmp_path / "bad.parquet", [failed(q, system="level2", error="EngineError: out of memory") for q in QUESTIONS])
    with pytest.raises(EngineError, match=r"level2 gave no reply to 3 of 3 questions.*out of memory"):
        check_answers(tmp_path, 0.05)


@pytest.mark.parametrize("apart", [{"task": "svamp"}, {"seed": 1}, {"method": "sample"}])
def test_a_small_part_that_failed_is_not_hidden_in_a_large_one(tmp_path: Path, apart: dict[str, Any]) -> None:
    good = [Answer(f"q{i}", "test", "level2", "18", "18", True, 5, 1) for i in range(97)]
    bad = [replace(failed(q, system="level2", error="EngineError: gone"), **apart) for q in QUESTIONS]
    write_answers(tmp_path / "all.parquet", [*good, *bad])
    with pytest.raises(EngineError, match="3 of 3 questions"):
        check_answers(tmp_path, 0.05)


def debate_of(question: Question) -> Debate:
    turns = tuple(Turn(agent, 0, (), "It is 18.", "18", 0.9, "stated", 9, 4, "m", "ok") for agent in ("ann", "bob"))
    return Debate(question, ("ann", "bob"), "reconcile", turns, answer="18", agreement=1.0, stopped="consensus")


def test_a_question_whose_debate_failed_is_wrong_for_teachers_and_vote_too() -> None:
    mags = [build_mag(debate_of(question), Gsm8k()) for question in QUESTIONS[:2]]
    answers = list(debate_answers(QUESTIONS, mags, Gsm8k(), failures={"q2"}))
    assert {(a.system, a.question_id, a.correct) for a in answers} == {
        (system, question, question != "q2") for system in ("ann", "bob", "vote") for question in ("q0", "q1", "q2")
    }
    assert {a.tokens_out for a in answers if a.system == "vote" and a.correct} == {8}


def test_a_debate_costs_what_its_replies_cost_and_nothing_is_guessed_where_a_price_is_missing() -> None:
    from magdi_ray.config.engines import Price

    mag, price = build_mag(debate_of(QUESTIONS[0]), Gsm8k()), Price(input=1e6, output=0.0)
    cost = {a.system: a.usd for a in debate_answers(QUESTIONS[:1], [mag], Gsm8k(), prices={"ann": price, "bob": price})}
    assert cost == {"ann": 9.0, "bob": 9.0, "vote": 18.0}
    cost = {a.system: a.usd for a in debate_answers(QUESTIONS[:1], [mag], Gsm8k(), prices={"ann": price, "bob": None})}
    assert cost == {"ann": 9.0, "bob": None, "vote": None}


def test_questions_that_were_never_debated_have_no_teacher_and_are_not_counted_against_one() -> None:
    assert list(debate_answers(QUESTIONS, [], Gsm8k())) == []
    mags = [build_mag(debate_of(QUESTIONS[0]), Gsm8k())]
    assert {answer.question_id for answer in debate_answers(QUESTIONS, mags, Gsm8k())} == {"q0"}


def test_the_time_of_a_reply_is_taken_on_every_set_of_questions() -> None:
    several = tuple(
        Question(f"{split}{i}", f"How many are {split} {i}?", "1", split) for split in ("test", "ood") for i in range(4)
    )
    found = first_of_each_set([("tiny", question) for question in several], 2)
    assert [question.id for _, question in found] == ["test0", "test1", "ood0", "ood1"]


class Vague:
    """An engine that says its answer only when it is asked again."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
        self.asked.append((len(messages), sample))
        return Reply("Hm." if len(messages) == 1 else "The answer is 18.", 5, 3, None, "stop", "m")


@pytest.mark.parametrize(("repair", "answer", "tokens"), [(True, "18", 6), (False, None, 3)])
def test_a_provider_whose_reply_holds_no_answer_is_asked_once_more_as_in_a_debate(
    repair: bool, answer: str | None, tokens: int
) -> None:
    engine = Vague()
    candidate = replace(REMOTE, engine=ApiEngine(type="api", model="gpt", repair=repair))
    asked = answer_question(Gsm8k(), QUESTIONS[0], candidate=candidate, engine=engine, sampling=Sampling(), place=0)  # type: ignore[arg-type]
    found = asyncio.run(asked)
    assert (found.answer, found.tokens_out) == (answer, tokens)


class Second(Vague):
    """An engine whose second reply, to its own first one, is another; it keeps what it was shown."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
        self.shown = list(messages)
        return Reply("The answer is 18.", 20, 3, None, "stop", "m")


def revised(engine: Any, **changes: Any) -> Answer:
    first = replace(Answer("q0", "test", "base", "It is 7. The answer is 7.", "7", False, 10, 5, task="gsm8k"), **changes)
    asked = revise_answer(Gsm8k(), QUESTIONS[0], first=first, candidate=LOCAL, engine=engine, sampling=Sampling(), place=0)
    return asyncio.run(asked)


def test_a_student_is_shown_its_own_reply_and_pays_for_both() -> None:
    engine = Second()
    found = revised(engine)
    assert [message.role for message in engine.shown] == ["user", "assistant", "user"]
    assert engine.shown[1].content == "It is 7. The answer is 7."
    assert (found.method, found.answer, found.correct, found.tokens_in, found.tokens_out) == ("revised", "18", True, 30, 8)


def test_what_was_never_said_cannot_be_revised() -> None:
    assert revised(Second(), error="EngineError: gone").error == "EngineError: there is no first reply: EngineError: gone"


def test_a_model_that_lacks_a_revision_is_deployed(tmp_path: Path) -> None:
    exam = kept_replies(tmp_path, replace(LOCAL, revises=True))
    asked_of = [("gsm8k", question) for question in QUESTIONS]
    assert answered(exam, asked_of) == frozenset()
    store = ReplyStore(exam.replies, run="run")

    async def keep() -> None:
        for question in QUESTIONS:
            place, sampling = exam.asks(exam.candidates[0], question)[0]
            shown = revision_messages(Gsm8k(), question, "18")
            key = reply_key(provider=LOCAL.provider, model=LOCAL.identity, messages=shown, sampling=sampling, sample=place)
            await store.put(key, Reply("18", 1, 1, None, "stop", "m"), agent="base", usd=0.0)
        await store.aclose()

    asyncio.run(keep())
    assert answered(exam, asked_of) == {"base"}


def test_twins_who_are_asked_the_very_same_get_replies_of_their_own() -> None:
    exam = Examination((), (), 0, "", "", 1, 0.05)
    places = [place for twin in (0, 1) for place, _ in exam.asks(replace(REMOTE, twin=twin), QUESTIONS[0])]
    assert len(set(places)) == 2


def kept_replies(directory: Path, *candidates: Candidate, but: int = 0) -> Examination:
    """An examination all of whose replies are in its store, but for some of the last."""
    task = FileTask(name="gsm8k")
    exam = Examination((task,), candidates, 0, str(directory / "replies"), "run", 1, 0.05, times=str(directory / "times.json"))
    store = ReplyStore(exam.replies, run="run")

    async def keep() -> None:
        wanted = [(one, q, place, s) for one in candidates for q in QUESTIONS for place, s in exam.asks(one, q)]
        for one, question, place, sampling in wanted[: len(wanted) - but]:
            prompt = [Message("user", Gsm8k().prompt(question))]
            key = reply_key(provider=one.provider, model=one.identity, messages=prompt, sampling=sampling, sample=place)
            await store.put(key, Reply("18", 1, 1, None, "stop", "m"), agent=one.label, usd=0.0)
        await store.aclose()

    asyncio.run(keep())
    return exam


def test_a_model_all_of_whose_replies_are_kept_is_not_deployed_again(tmp_path: Path) -> None:
    asked_of = [("gsm8k", question) for question in QUESTIONS]
    drawn = replace(LOCAL, system="level2", drawn=Sampling(temperature=0.7), samples=3)
    exam = kept_replies(tmp_path, LOCAL, drawn)
    assert answered(exam, asked_of) == {"base", "level2"}
    assert waves(exam.candidates, {"CPU": 2.0}, {"base", "level2"}) == [[LOCAL, drawn]]
    assert answered(exam, [*asked_of, ("gsm8k", Question("q9", "How many?", "1", "test"))]) == frozenset()


def test_a_model_that_lacks_one_reply_is_deployed(tmp_path: Path) -> None:
    drawn = replace(LOCAL, system="level2", drawn=Sampling(temperature=0.7), samples=3)
    exam = kept_replies(tmp_path, LOCAL, drawn, but=1)
    assert answered(exam, [("gsm8k", question) for question in QUESTIONS]) == {"base"}


def test_times_are_kept_for_the_very_same_weights_and_no_others(tmp_path: Path) -> None:
    exam = Examination((), (LOCAL,), 0, "", "", 1, 0.05)
    write_times(tmp_path / "times.json", exam, {Key("tiny", "test", "base"): 0.5})
    assert read_times(tmp_path / "times.json", exam) == {Key("tiny", "test", "base"): 0.5}
    assert read_times(tmp_path / "times.json", exam.of([replace(LOCAL, identity="other")])) == {}


def of_one_student(directory: Path, *, num_cpus: float) -> tuple[Examination, list[str]]:
    """What a bundled student is asked at, its questions beside it, and their ids."""
    questions = [Question(f"q{i}", f"Kim has {i} figs. How many figs does Kim have?", str(i), "test") for i in range(3, 20)]
    write_asked(directory / "asked.parquet", [Paper(MadeTask(name="tiny"), "in", tuple(questions))])
    student = TransformersEngine(type="transformers", model="pkg://magdi_ray/tiny/models/student")
    own = Candidate("base", student, "base", Sampling(max_tokens=8, temperature=0.0), num_cpus=num_cpus, own=True, size=1)
    (directory / "replies").mkdir()
    replies, times = str(directory / "replies"), str(directory / "times")
    return Examination((MadeTask(name="tiny"),), (own,), 0, replies, "run", 8, 0.0, times=times), [q.id for q in questions]


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_an_evaluation_goes_on_where_no_node_has_a_whole_cpu_left(ray_cluster: None, tmp_path: Path) -> None:
    exam, asked = of_one_student(tmp_path, num_cpus=3.5)  # of the 4 CPUs of this Ray one worker leaves half of one
    run_answers(exam, questions=tmp_path / "asked.parquet", out=tmp_path / "answers", shared=str(tmp_path))
    assert sorted(answer.question_id for answer in iter_answers(tmp_path / "answers")) == sorted(asked)


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_answers_that_cannot_be_written_end_it_in_words(ray_cluster: None, tmp_path: Path) -> None:
    exam, _ = of_one_student(tmp_path, num_cpus=1.0)
    (tmp_path / "answers").write_text("a file where a directory has to be")
    with pytest.raises(EngineError, match=r"broken off: \w+Error: .*(?s:.*)Run again: no reply is asked for twice"):
        run_answers(exam, questions=tmp_path / "asked.parquet", out=tmp_path / "answers", shared=str(tmp_path))


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_workers_that_die_again_and_again_end_it_in_words(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(AnswerOperator):  # in here, so that workers get it and need no tests of ours
        async def __call__(self, batch: Any) -> Any:
            if self.starts <= self.most_starts:
                os.kill(os.getpid(), signal.SIGKILL)
            async for table in AnswerOperator.__call__(self, batch):
                yield table

    monkeypatch.setattr("magdi_ray.evaluate.run.AnswerOperator", Dying)
    exam, _ = of_one_student(tmp_path, num_cpus=1.0)
    with pytest.raises(EngineError, match=r"died before they had an answer"):
        run_answers(exam, questions=tmp_path / "asked.parquet", out=tmp_path / "answers", shared=str(tmp_path))

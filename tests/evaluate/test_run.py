"""What an evaluation asks, of whom at once, what it refuses, and how it treats what failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from magdi_ray.agents.base import Sampling
from magdi_ray.config.engines import ApiEngine, TransformersEngine
from magdi_ray.config.sections import TinyTask
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.errors import EngineError
from magdi_ray.evaluate.answers import Answer, debate_answers, failed, write_answers
from magdi_ray.evaluate.exam import Candidate, Paper, read_asked, write_asked
from magdi_ray.evaluate.run import check_answers, waves
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
    papers = [Paper(TinyTask(name="tiny"), "in", tuple(QUESTIONS[:2])), Paper(TinyTask(name="tiny"), "out", tuple(QUESTIONS[2:]))]
    assert write_asked(tmp_path / "asked.parquet", papers) == 3
    assert read_asked(tmp_path / "asked.parquet") == [("tiny", question) for question in QUESTIONS]


def test_the_split_ood_is_out_of_domain_also_of_the_runs_own_task() -> None:
    paper = Paper(TinyTask(name="tiny"), "in", (QUESTIONS[0], replace(QUESTIONS[1], split="ood")))
    assert [(row["split"], row["domain"], row["questions"]) for row in paper.sets()] == [("test", "in", 1), ("ood", "out", 1)]


def test_a_student_that_mostly_failed_is_an_error_with_an_example_and_not_a_bad_score(tmp_path: Path) -> None:
    good = [Answer(q.id, "test", "base", "18", "18", True, 5, 1) for q in QUESTIONS]
    write_answers(tmp_path / "good.parquet", good)
    check_answers(tmp_path, 0.05)
    write_answers(tmp_path / "bad.parquet", [failed(q, system="level2", error="EngineError: out of memory") for q in QUESTIONS])
    with pytest.raises(EngineError, match=r"level2 gave no reply to 3 of 3 questions.*out of memory"):
        check_answers(tmp_path, 0.05)


def debate_of(question: Question) -> Debate:
    turns = tuple(Turn(agent, 0, (), "It is 18.", "18", 0.9, "stated", 9, 4, "m", "ok") for agent in ("ann", "bob"))
    return Debate(question, ("ann", "bob"), "reconcile", turns, answer="18", agreement=1.0, stopped="consensus")


def test_a_question_whose_debate_failed_is_wrong_for_teachers_and_vote_too() -> None:
    mags = [build_mag(debate_of(question), Gsm8k()) for question in QUESTIONS[:2]]
    answers = list(debate_answers(QUESTIONS, mags, Gsm8k()))
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


def test_questions_that_were_never_debated_have_no_teacher() -> None:
    assert list(debate_answers(QUESTIONS, [], Gsm8k())) == []

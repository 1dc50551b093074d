"""What an evaluation refuses, and how it treats what failed."""

from __future__ import annotations

import pytest

from magdi_ray.config.sections import EvaluateConfig
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.errors import EngineError
from magdi_ray.evaluate.answers import Answer, debate_answers, failed
from magdi_ray.evaluate.run import check_answers, wave_size
from magdi_ray.graph.build import build_mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTIONS = [Question(f"q{i}", f"How many are {i}?", "18", "test") for i in range(3)]


@pytest.mark.parametrize(("cpus", "gpus", "size"), [(4.0, 0.0, 6), (2.0, 0.0, 2), (0.5, 0.0, 1)])
def test_students_are_deployed_in_waves_that_fit_the_cluster(cpus: float, gpus: float, size: int) -> None:
    assert wave_size(EvaluateConfig(num_cpus=0.5), {"CPU": cpus, "GPU": gpus}) == size
    assert wave_size(EvaluateConfig(num_cpus=0.5, num_gpus=1), {"CPU": 64.0, "GPU": 4.0}) == 4


def test_a_student_that_mostly_failed_is_an_error_with_an_example_and_not_a_bad_score() -> None:
    good = [Answer(q.id, "test", "base", "18", "18", True, 5, 1) for q in QUESTIONS]
    check_answers(good, 0.05)
    with pytest.raises(EngineError, match=r"level2 gave no reply to 3 of 3 questions.*out of memory"):
        check_answers([*good, *(failed(q, system="level2", error="EngineError: out of memory") for q in QUESTIONS)], 0.05)


def test_a_question_whose_debate_failed_is_wrong_for_teachers_and_vote_too() -> None:
    turns = tuple(Turn(agent, 0, (), "It is 18.", "18", 0.9, "stated", 9, 4, "m", "ok") for agent in ("ann", "bob"))
    debates = [
        Debate(q, ("ann", "bob"), "reconcile", turns, answer="18", agreement=1.0, stopped="consensus") for q in QUESTIONS[:2]
    ]
    answers = list(debate_answers(QUESTIONS, [build_mag(debate, Gsm8k()) for debate in debates], Gsm8k()))
    assert {(a.system, a.question_id, a.correct) for a in answers} == {
        (system, question, question != "q2") for system in ("ann", "bob", "vote") for question in ("q0", "q1", "q2")
    }
    assert {a.tokens_out for a in answers if a.system == "vote" and a.correct} == {8}


def test_questions_that_were_never_debated_have_no_teacher() -> None:
    assert list(debate_answers(QUESTIONS, [], Gsm8k())) == []

"""Students rate the replies that were drawn of them: as their own judge does, and only where they have a head for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.recipes import NextToken, RecipeConfig, Verify
from magdi_ray.config.sections import MadeTask
from magdi_ray.distill.judging import Judge
from magdi_ray.distill.student import DistillModel, export_student, load_tokenizer
from magdi_ray.evaluate.answers import Answer, iter_answers, write_answers
from magdi_ray.evaluate.exam import Candidate, Examination
from magdi_ray.evaluate.ratings import ASKED, FILE, RatingOperator, key_of, rate
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.tiny import Tiny

STUDENT = resolve_model("pkg://magdi_ray/tiny/models/student")
QUESTION = Question("q", "Kim has 8 figs. Kim loses 3 figs. How many figs does Kim have?", "5", "test")
REPLIES = ("8 - 3 = 5 . answer 5", "8 + 3 = 11 . answer 11", "answer 2")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with a verifier of fixed weights, as a run leaves it."""
    directory = tmp_path_factory.mktemp("taught")
    torch.manual_seed(0)
    student: Any = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    recipe = RecipeConfig(name="x", objectives=(NextToken(name="next_token"), Verify(name="verify")))
    export_student(DistillModel(student, recipe).eval(), load_tokenizer(STUDENT), directory)
    return directory


def exam_of(directory: Path) -> Examination:
    def one(system: str, model: str) -> Candidate:
        engine = TransformersEngine(type="transformers", model=model)
        return Candidate(system, engine, system, Sampling(), drawn=Sampling(temperature=0.7), samples=3)

    return Examination((MadeTask(name="tiny"),), (one("level2", str(directory)), one("base", STUDENT)), 0, "", "run", 8, 0.05)


def drawn(system: str) -> list[Answer]:
    plain = Answer("q", "test", system, "", None, False, 10, 4, task="tiny", method="sample")
    return [replace(plain, text=text, sample=place + 1) for place, text in enumerate(REPLIES)]


def expected(directory: Path) -> list[float | None]:
    """What the student's own judge says, reply by reply."""
    tokenizer = load_tokenizer(str(directory))
    judge = Judge(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(), tokenizer, directory)
    prompt_ids = encode_prompt(tokenizer, [Message("user", Tiny().prompt(QUESTION))])
    return [judge.score(prompt_ids, text).merit for text in REPLIES]


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_student_rates_its_replies_as_its_judge_does_and_one_without_a_head_rates_none(
    ray_cluster: None, taught: Path, tmp_path: Path
) -> None:
    asked = [*drawn("base"), *drawn("level2"), replace(drawn("level2")[0], sample=4, error="EngineError: gone")]
    found = rate(exam_of(taught), asked, [("tiny", QUESTION)], out=tmp_path, num_cpus=0.5, num_gpus=0.0, dtype="float32")
    assert found == pytest.approx(dict(zip(map(key_of, drawn("level2")), expected(taught), strict=True)), abs=1e-5)
    assert pq.read_table(tmp_path / FILE).num_rows == 3
    write_answers(tmp_path / "votes.parquet", asked)
    assert len(list(iter_answers(tmp_path))) == len(asked)  # ratings lie beside answers, and are none
    assert rate(exam_of(taught), drawn("base"), [("tiny", QUESTION)], out=tmp_path, num_cpus=0.5, num_gpus=0.0, dtype="x") == {}


def test_a_reply_that_does_not_fit_the_context_is_not_rated_and_the_others_are(taught: Path) -> None:
    import pyarrow as pa

    row = {
        "system": "level2",
        "seed": 0,
        "task": "tiny",
        "question_id": "q",
        "model": str(taught),
        "prompt": Tiny().prompt(QUESTION),
    }
    texts = [REPLIES[0], "8 " * 600, REPLIES[1]]
    batch = pa.Table.from_pylist([row | {"sample": i, "text": text} for i, text in enumerate(texts)], schema=ASKED)
    merits = RatingOperator(exam_of(taught), "float32", "cpu")(batch)["merit"].to_pylist()
    assert merits[1] is None
    assert [merits[0], merits[2]] == pytest.approx(expected(taught)[:2], abs=1e-5)

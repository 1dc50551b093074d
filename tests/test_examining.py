"""Whom an evaluation asks, what it compares, and what it refuses before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.config import RunConfig, load_config
from magdi_ray.config.base import content_hash
from magdi_ray.config.engines import Price
from magdi_ray.errors import ConfigError
from magdi_ray.evaluate.answers import Answer
from magdi_ray.evaluate.exam import Paper
from magdi_ray.evaluate.metrics import Key
from magdi_ray.examining import (
    check_asked,
    comparisons,
    describe,
    examination,
    measure,
    prices,
    self_consistent,
    weights_identity,
)
from magdi_ray.pipeline import plan
from magdi_ray.runs import Run
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_questions

CONFIG = Path(__file__).parent.parent / "configs/tiny.yaml"
QUESTIONS = tuple(Question(f"q{i}", f"How many are {i}?", "18", "test") for i in range(4))
GPT = "evaluate.agents=[{name: gpt, engine: {type: api, model: gpt, price: {input: 1.0, output: 2.0}}}]"


def tiny(*overrides: str) -> RunConfig:
    return load_config(CONFIG, ("distil.ablations=[level1]", *overrides))


def gsm8k(path: Path, *texts: str) -> str:
    path.write_text("".join(f'{{"question": "{text}", "answer": "#### 3"}}\n' for text in texts))
    return f"evaluate.tasks=[{{name: gsm8k, test_path: {path}}}]"


def candidates(config: RunConfig, tmp_path: Path) -> list[tuple[str, int]]:
    for name in ("student", "ablations/level1", "seeds/level1-1", "seeds/level2-1"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "model.safetensors").write_text(name)
    return [(one.label, one.samples) for one in examination(config, Run(tmp_path)).candidates]


def test_base_students_and_further_systems_are_asked(tmp_path: Path) -> None:
    config = tiny(GPT, "evaluate.self_consistency=null")
    assert candidates(config, tmp_path) == [("base", 0), ("level1", 0), ("level2", 0), ("gpt", 0)]


def test_every_training_of_a_recipe_is_asked(tmp_path: Path) -> None:
    config = tiny("distil.seeds=2", "evaluate.self_consistency=null")
    assert [label for label, _ in candidates(config, tmp_path)] == ["base", "level1", "level1-1", "level2", "level2-1"]


@pytest.mark.parametrize(
    ("systems", "drawn"),
    [("product", ["level2"]), ("students", ["base", "level1", "level2"]), ("all", ["base", "level1", "level2", "gpt"])],
)
def test_replies_for_self_consistency_are_drawn_of_whom_the_configuration_says(
    systems: str, drawn: list[str], tmp_path: Path
) -> None:
    found = candidates(tiny(GPT, f"evaluate.self_consistency={{samples: 3, systems: {systems}}}"), tmp_path)
    assert [label for label, samples in found if samples == 3] == drawn


def test_students_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    candidates(tiny(), tmp_path)
    before = [one.identity for one in examination(tiny(), Run(tmp_path)).candidates]
    (tmp_path / "student" / "model.safetensors").write_text("learned something else")
    after = [one.identity for one in examination(tiny(), Run(tmp_path)).candidates]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_levels_are_compared_with_the_level_below_and_other_recipes_with_the_product() -> None:
    other = "{name: soft, objectives: [{name: next_token}, {name: contrast, weight: 0.01}]}"
    pairs = comparisons(tiny(f"distil.ablations=[level1, {other}]", "evaluate.comparisons=[[soft, level1]]"))
    plain = {(one, reference) for (one, method), (reference, _) in pairs if method == "single"}
    assert plain == {
        *(("level1", "base"), ("level2", "base"), ("soft", "base"), ("level2", "level1"), ("soft", "level2")),
        *(("level2", "vote"), ("soft", "level1")),
    }


def test_a_comparison_of_a_system_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"comparisons names 'levle2'; did you mean 'level2'\?"):
        tiny("evaluate.comparisons=[[level1, levle2]]")
    with pytest.raises(ConfigError, match="compares 'level2' with itself"):
        tiny("evaluate.comparisons=[[level2, level2]]")


def test_training_questions_are_never_evaluated() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.splits names 'train'"):
        check_asked(tiny("evaluate.splits=[test, train]"), [])


def test_a_rule_over_a_whole_section_is_said_without_the_section_itself() -> None:
    with pytest.raises(ConfigError) as error:
        tiny("evaluate.comparisons=[[level2, level2]]")
    assert "found {" not in str(error.value)
    assert "the whole" not in str(error.value)


def test_systems_come_in_the_order_of_the_tables_with_the_debate_last() -> None:
    found = describe(tiny(GPT), ["vote", "ada", "level2", "gpt", "base", "level1"])
    assert [(row["name"], row["kind"]) for row in found] == [
        *(("base", "base"), ("level1", "student"), ("level2", "student")),
        *(("gpt", "engine"), ("ada", "teacher"), ("vote", "debate")),
    ]


def test_the_votes_over_drawn_replies_are_taken_question_by_question_and_seed_by_seed() -> None:
    def draw(question: str, seed: int, sample: int, answer: str) -> Answer:
        row = Answer(question, "test", "level2", "", answer, answer == "18", 1, 1, task="tiny", method="sample")
        return replace(row, seed=seed, sample=sample)

    rows = [draw(f"q{q}", seed, n, "18" if n < 3 - q else "7") for q in range(2) for seed in range(2) for n in range(1, 4)]
    votes = list(self_consistent([Paper(tiny().task, "in", QUESTIONS)], rows))
    assert {(v.question_id, v.seed, v.answer) for v in votes if v.method == "majority"} == {
        *(("q0", 0, "18"), ("q0", 1, "18"), ("q1", 0, "7"), ("q1", 1, "7")),
    }


def measured(*answers: Answer, **seconds: float) -> dict[str, Any]:
    times = {Key("tiny", "test", system): value for system, value in seconds.items()}
    return measure(tiny(), [Paper(tiny().task, "in", QUESTIONS)], answers, times)


def test_what_is_measured_says_what_was_asked_and_how_long_a_reply_takes() -> None:
    rows = [Answer(q.id, "test", system, "", "18", True, 1, 1, task="tiny") for q in QUESTIONS for system in ("base", "level2")]
    found = measured(*rows, level2=0.5)
    assert found["sets"] == [{"task": "tiny", "split": "test", "domain": "in", "questions": 4}]
    assert {row["system"]: row["seconds"] for row in found["scores"]} == {"base": None, "level2": 0.5}
    assert [(row["system"], row["reference"]) for row in found["differences"]] == [("level2", "base")]


def test_a_teacher_costs_what_its_provider_charges_and_a_local_one_is_not_priced() -> None:
    api = "{name: gpt, engine: {type: api, model: gpt, price: {input: 1.0, output: 2.0}}}"
    local = "{name: ada, engine: {type: transformers, model: 'pkg://magdi_ray/tiny/models/ada'}}"
    found = prices(tiny(f"debate.agents=[{api}, {local}]"))
    assert found == {"gpt": Price(input=1.0, output=2.0), "ada": None}


def test_a_price_that_is_given_later_is_measured_anew_and_nothing_else_runs_again() -> None:
    def hashes(config: RunConfig) -> dict[str, str]:
        return {stage.name: content_hash(stage.shaped_by) for stage in plan(config)}

    before, after = hashes(tiny(GPT.replace(", price: {input: 1.0, output: 2.0}", ""))), hashes(tiny(GPT))
    assert {name for name in before if before[name] != after[name]} == {"evaluation"}


def test_hub_models_are_told_apart_by_their_whole_name() -> None:
    assert weights_identity("one/model-1b", "float32") != weights_identity("two/model-1b", "float32")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("evaluate.tasks=[{name: gsm8k, test_path: test.jsonl, limit: 5}]", "only asked: test_path and test_limit"),
        (
            "evaluate.agents=[{name: a, engine: {type: api, model: m}}, "
            "{name: b, engine: {type: api, model: m, limits: {rpm: 5}}}]",
            "must state the same limits",
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny(setting)


def test_a_further_task_of_which_the_student_learns_a_question_is_refused(tmp_path: Path) -> None:
    config = tiny("task.train=20", "task.test=5")
    training = [question for question in load_questions(config.task) if question.split == "train"]
    clean = tiny(gsm8k(tmp_path / "clean.jsonl", "How many are two and one?"))
    check_asked(clean, training)
    leaking = tiny(gsm8k(tmp_path / "leak.jsonl", "How many are two and one?", training[3].text))
    with pytest.raises(ConfigError, match=r"1 questions of evaluate.tasks' gsm8k are also training questions"):
        check_asked(leaking, training)


def test_a_further_task_has_to_be_another_one_and_needs_a_file() -> None:
    with pytest.raises(ConfigError, match="tiny is the run's own task"):
        tiny("evaluate.tasks=[{name: tiny}]")
    with pytest.raises(ConfigError, match="gsm8k needs a test_path"):
        tiny("evaluate.tasks=[{name: gsm8k, path: train.jsonl}]")

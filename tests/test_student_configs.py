"""The configurations of real students: each one loads, and can be planned without network, keys or GPUs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from magdi_ray import cli
from magdi_ray.config import RunConfig, load_config, recipes
from magdi_ray.distill.forecast.prospect import Prospect, as_json, look_ahead, recipe_table
from magdi_ray.distill.forecast.workload import Expected, expected_workload
from magdi_ray.distill.watch.view import duration
from magdi_ray.errors import ConfigError
from magdi_ray.pipeline import run_pipeline
from magdi_ray.planning import plan_run
from magdi_ray.runs import Run

ROOT = Path(__file__).parent.parent
STUDENTS = ("mistral-7b", "llama-2-7b", "llama-2-13b", "qwen3-8b")
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")


@pytest.fixture
def planned(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs `magdi plan` in an empty directory; returns what it printed."""
    monkeypatch.setenv("MAGDI_DATA", str(data_dir))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)

    def plan(name: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["plan", str(ROOT / "configs" / f"{name}.yaml"), *arguments])
        said = capsys.readouterr()
        assert stopped.value.code == 0, said.err
        assert list(tmp_path.iterdir()) == []
        return said.out

    return plan


@pytest.mark.parametrize("name", STUDENTS)
def test_each_student_follows_the_papers_training(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    distil = config.distil
    assert distil.recipe == "paper"
    assert (distil.train.epochs, distil.train.learning_rate, distil.train.warmup_steps) == (10, 5e-6, 100)
    assert distil.student.tuning.model_dump() == {
        "type": "lora",
        "r": 16,
        "alpha": 32,
        "dropout": 0.05,
        "target_modules": ("q_proj", "v_proj"),
    }
    assert config.task.limit == 1000  # type: ignore[union-attr]


@pytest.mark.parametrize("name", STUDENTS)
def test_each_plan_says_tokens_flops_memory_and_hours(planned, name: str) -> None:
    said = planned(name)
    for word in ("US dollars", "tokens", "FLOPs", "hours", "GiB per rank (GPU), ZeRO stage", "activations", "40% of 989 TFLOP/s"):
        assert word in said
    for trouble in ("Does not fit", "would not fit", "unknown", "warm-up", "some would wait"):
        assert trouble not in said


def test_the_machine_readable_plan_holds_the_debates_and_the_distillation(planned) -> None:
    figures = json.loads(planned("mistral-7b", "--json"))
    assert {"calls", "tokens_in", "tokens_out", "usd", "paid_usd", "hours", "distil"} <= set(figures)
    distil = figures["distil"]
    assert distil["parameters"] == 7_241_732_096
    assert set(distil["recipes"]) == {"paper"}
    assert distil["recipes"]["paper"]["hours"]["4"] == pytest.approx(2 * distil["recipes"]["paper"]["hours"]["8"])


def test_a_run_without_a_debate_is_planned_from_its_graphs(planned) -> None:
    said = planned("gsm8k-recorded")
    assert "Graphs as found in" in said
    assert "US dollars" not in said
    assert "│     68 │" in said  # 100 recorded debates, 20 of them for tests and 12 for measurements


def test_graphs_that_a_run_has_made_are_counted_where_they_are(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGDI_DATA", str(data_dir))
    config, run = load_config(ROOT / "configs" / "gsm8k-recorded.yaml"), Run(tmp_path / "run")
    before = plan_run(config, run).distil
    run_pipeline(config, run, until="graphs")
    after = plan_run(config, run).distil
    assert str(run.path("graphs")) in " ".join(after.remarks)
    assert after.forecasts == before.forecasts
    finished = load_config(
        ROOT / "configs" / "gsm8k-recorded.yaml", [f"graph.source={{format: mag, path: {run.path('graphs')}, test: 5}}"]
    )
    assert plan_run(finished, Run(tmp_path / "other")).distil.forecasts[0].workload.graphs == 80 - 5 - 12


def test_an_unknown_student_leaves_the_rest_of_the_plan(planned) -> None:
    said = planned("mistral-7b", "--set", "distil.student.model=acme/unknown-7b")
    assert "FLOPs, memory and hours are unknown" in said
    assert "hf download acme/unknown-7b" in said
    assert "US dollars" in said


def look(*overrides: str) -> Prospect:
    """Mistral on graphs of 5 replies of 100 tokens each."""
    config: RunConfig = load_config(ROOT / "configs" / "mistral-7b.yaml", overrides)
    found = Expected(1000, 5.0, 12, prompt=100, reply=100, correct_share=0.8)
    work = [(recipe, expected_workload(found, recipe)) for recipe in recipes(config.distil)]
    return look_ahead(config.distil, work, origin=[], worst=7300, dev_questions=50)


@pytest.mark.parametrize(
    ("override", "remark"),
    [
        ("distil.estimate.gpu_memory_gib=24", "Does not fit"),
        ("distil.estimate.gpu_memory_gib=50", "in the longest replies, would not fit"),
        ("distil.train.tokens_per_step=65536", "warm-up"),
        ("distil.train.tokens_per_step=2048", "fewer than 8 workers"),
        ("distil.train.tokens_per_micro_batch=1024", "it is forwarded alone"),
        ("distil.scaling.use_gpu=false", "not estimated for training on CPUs"),
        ("distil.student.tuning={type: qlora}", "of qlora adapters"),
        ("distil.scaling.use_gpu=false", "Python, PyTorch and Ray take about half a GiB more"),
        ("distil.dev.every_steps=7", "70 times the loss on 50 questions"),
    ],
)
def test_what_would_surprise_a_person_later_is_said_in_the_plan(override: str, remark: str) -> None:
    plain = " ".join(look().remarks)
    assert remark in " ".join(look(override).remarks)
    assert remark not in plain


def test_weights_in_4_bits_take_less_than_a_third() -> None:
    plain, quantised = (look(*tuning).memory[8].parts["weights"] for tuning in ([], ["distil.student.tuning={type: qlora}"]))
    assert 0.25 * plain < quantised < 0.33 * plain


def test_the_time_of_a_training_is_said_for_people_and_in_hours() -> None:
    found = look()
    hours = as_json(found)["recipes"]["paper"]["hours"]
    assert f"{duration(hours['8'] * 3600)} ({hours['8']:.2g} hours) on 8 GPUs" in " ".join(found.remarks)
    cells = list(recipe_table(found).columns[-1].cells)
    assert cells == [f"{duration(hours['8'] * 3600)} to {duration(hours['4'] * 3600)}"]


def test_answers_on_the_way_are_said_not_to_be_counted() -> None:
    asked = "each time 50 answers of at most 256 tokens, not counted"
    assert asked in " ".join(look().remarks)
    assert "answers" not in " ".join(look("distil.dev.accuracy_questions=0").remarks)


def test_a_plan_that_learns_from_nothing_is_refused() -> None:
    config = load_config(ROOT / "configs" / "mistral-7b.yaml")
    nothing = expected_workload(Expected(1000, 5.0, 12, prompt=100, reply=100, correct_share=0.0), recipes(config.distil)[-1])
    with pytest.raises(ConfigError, match=r"Nothing to train on: paper .* None is correct\."):
        look_ahead(config.distil, [(recipes(config.distil)[-1], nothing)], origin=["None is correct."])


def test_replies_longer_than_the_student_may_read_are_said(planned) -> None:
    assert "longer than distil.student.max_length (150)" in planned("mistral-7b", "--set", "distil.student.max_length=150")
    said = planned("gsm8k-recorded", "--set", "distil.student.max_length=200")
    assert re.search(r"level4 leaves \d+ replies out: longer than distil\.student\.max_length \(200\)", said)


def test_the_micro_batch_that_is_advised_fits() -> None:
    tight = ["distil.estimate.gpu_memory_gib=24", "distil.scaling.num_workers=1"]
    advice = next(remark for remark in look(*tight).remarks if remark.startswith("Does not fit"))
    tokens = advice.partition("tokens_per_micro_batch: ")[2].partition(",")[0]
    assert not [r for r in look(*tight, f"distil.train.tokens_per_micro_batch={tokens}").remarks if r.startswith("Does not fit")]

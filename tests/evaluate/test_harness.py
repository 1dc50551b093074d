"""The lm-evaluation-harness pointed at students: its figures are those of the model, and what cannot be asked is refused."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.transformers import TransformersAgent
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config import load_config
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.config.serving import StudentArgs
from magdi_ray.errors import ConfigError, EngineError, RunError
from magdi_ray.evaluate import harness
from magdi_ray.evaluate.harness import Endpoint, LocalStudent, find_endpoint, harness_options, load_tasks, run_harness
from magdi_ray.evaluate.harness_output import harness_table, replaced
from magdi_ray.harnessing import evaluate_run, run_student
from magdi_ray.pipeline import plan
from magdi_ray.progress import console
from magdi_ray.runs import Run
from magdi_ray.serving.app import deploy, start_http

pytest.importorskip("lm_eval")

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
STUDENT = resolve_model("pkg://magdi_ray/tiny/models/student")
QUESTIONS = [f"ann has {a} coins . ben gives ann {b} coins . how many coins ?" for a, b in ((2, 3), (1, 4), (5, 2), (3, 3))]
CHOICES = [" the answer is 5", " ann has 7 coins", " yes"]
WRITTEN = 'output_type: generate_until\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 24, do_sample: false}\n'
SCORED = "output_type: multiple_choice\ndoc_to_choice: choices\n"
DATA = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}, train: {file}}}}}\n"
SPLITS = "test_split: test\nfewshot_split: train\n"
FIELDS = 'doc_to_text: "{{question}}"\ndoc_to_target: "{{gold}}"\n'


def write_tasks(directory: Path, golds: list[str]) -> None:
    """A task whose answers are written and one whose answers are given, on local questions."""
    for name, kind, wanted, metric in (("w", WRITTEN, golds, "exact_match"), ("s", SCORED, [0, 1, 0, 2], "acc")):
        file = directory / f"{name}.jsonl"
        rows = [{"question": q, "gold": gold, "choices": CHOICES} for q, gold in zip(QUESTIONS, wanted, strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
        metrics = f"metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]\n"
        (directory / f"{name}.yaml").write_text(
            f"task: coins_{name}\n" + DATA.format(file=file) + SPLITS + FIELDS + kind + metrics
        )


@pytest.fixture(scope="module", autouse=True)
def _no_package_list() -> Iterator[None]:
    """The harness notes every installed package with each system's results: seven seconds of pip, each time."""
    from torch.utils import collect_env

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_pip_packages", lambda *_: ("pip", ""))
        yield


@pytest.fixture(scope="module")
def replies() -> list[str]:
    """What our own engine answers, greedily."""
    agent = TransformersAgent(TransformersEngine(type="transformers", model=STUDENT), device="cpu")

    async def ask() -> list[str]:
        asked = (agent.generate([Message("user", q)], Sampling(temperature=0.0, max_tokens=24)) for q in QUESTIONS)
        return [reply.text for reply in await asyncio.gather(*asked)]

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory, replies: list[str]) -> Path:
    """Tasks of which the student gets the first two written answers right, by construction."""
    directory = tmp_path_factory.mktemp("tasks")
    write_tasks(directory, [*replies[:2], "no such reply", "nor this"])
    return directory


@pytest.fixture(scope="module")
def manager(tasks_dir: Path) -> Any:
    """The harness's index, with ours in it; made once, for it takes seconds."""
    return harness.task_manager(tasks_dir)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter that changes what the student says."""
    directory = str(tmp_path_factory.mktemp("adapter"))
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(STUDENT), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(directory)
    return directory


def local(name: str, adapter: str | None = None) -> LocalStudent:
    return LocalStudent(name, STUDENT, adapter, STUDENT)


def rows(directory: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / f"samples_{task}.jsonl").read_text().splitlines()]


def loglikelihoods(model: Any, context: str) -> list[float]:
    """Sum of log p(token) over each choice, straight from the model."""
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    found = []
    for choice in CHOICES:
        before, ids = tokenizer(context)["input_ids"], tokenizer(context + choice)["input_ids"]
        with torch.no_grad():
            log_p_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(sum(log_p_TV[t - 1, ids[t]].item() for t in range(len(before), len(ids))))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, manager: Any, adapter: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The student before and after teaching, on both tasks."""
    out = tmp_path_factory.mktemp("run") / "lm-eval"
    options = harness_options("coins_w,coins_s", batch_size="3", num_fewshot=0)
    return out, run_harness(options, [local("base"), local("level4", adapter)], out, manager=manager)


def test_likelihoods_of_given_answers_are_the_models_own(measured: Any, adapter: str) -> None:
    out, results = measured
    base, other = (AutoModelForCausalLM.from_pretrained(STUDENT) for _ in range(2))
    for name, model in (("base", base), ("level4", PeftModel.from_pretrained(other, adapter).eval())):
        right = []
        for row in rows(out / name, "coins_s"):
            direct = loglikelihoods(model, row["arguments"][0][0])
            assert [pair[0] for pair in row["filtered_resps"]] == pytest.approx(direct, abs=1e-4)
            right.append(max(range(3), key=direct.__getitem__) == row["doc"]["gold"])
        assert results[name]["results"]["coins_s"]["acc,none"] == sum(right) / 4


def test_an_adapter_makes_a_difference(measured: Any) -> None:
    out, _ = measured
    before, after = (rows(out / name, "coins_s")[0]["filtered_resps"] for name in ("base", "level4"))
    assert before != after


def test_written_answers_are_those_of_our_own_engine(
    tmp_path: Path, manager: Any, replies: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = harness_options("coins_w", apply_chat_template=True)
    result = run_harness(options, [local("base")], tmp_path, manager=manager)["base"]
    assert [row["resps"][0][0].strip() for row in rows(tmp_path / "base", "coins_w")] == replies
    assert result["results"]["coins_w"]["exact_match,none"] == 0.5
    assert result == json.loads((tmp_path / "base" / "results.json").read_text())
    said = capsys.readouterr()
    assert said.out == ""
    assert "lm-eval base: 4, " in said.err
    assert "Running" not in said.err


def test_examples_are_the_same_for_every_system_and_a_limit_is_said(tmp_path: Path, manager: Any) -> None:
    options = harness_options("coins_s", num_fewshot=2, limit=1)
    results = run_harness(options, [local("base"), local("again")], tmp_path, manager=manager)
    first, second = (rows(tmp_path / name, "coins_s") for name in results)
    assert first == second
    assert len(first) == 1
    assert first[0]["arguments"][0][0].count("how many coins") == 3
    assert "the first 1 questions of each task" in str(harness_table(results).title)


def test_the_table_shows_systems_side_by_side(measured: Any) -> None:
    _, results = measured
    table = harness_table(results)
    assert [column.header for column in table.columns] == ["task", "metric", "examples", "questions", "base", "level4"]
    with console.capture() as shown:
        console.print(table, width=120)
    wanted = results["base"]["results"]["coins_s"]
    assert f"{wanted['acc,none']:.4f} ± {wanted['acc_stderr,none']:.4f}" in shown.get()


def test_earlier_results_are_kept_and_a_failure_leaves_them(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replaced(tmp_path / "base") as fresh:
            (fresh / "results.json").write_text(text)
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "base"):
        raise ZeroDivisionError
    assert (tmp_path / "base" / "results.json").read_text() == "second"
    assert [path.read_text() for path in tmp_path.glob("superseded/*/results.json")] == ["first"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "superseded"]


def test_an_unknown_task_is_answered_with_near_names(manager: Any) -> None:
    with pytest.raises(ConfigError, match=r"no task 'coins_x'. Did you mean coins_\w or coins_\w"):
        load_tasks(manager, ["coins_s", "coins_x"])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ("", "The questions of coins_w could not be loaded: a file of them is empty. At least one question"),
        (None, "coins_w could not be loaded: they are on the Hugging Face hub, which cannot be reached"),
    ],
)
def test_questions_that_cannot_be_had_are_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str | None, told: str
) -> None:
    import datasets
    from lm_eval.tasks import TaskManager

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'coins' on the Hub")

    write_tasks(tmp_path, ["a"] * 4)
    if files is None:
        monkeypatch.setattr(datasets, "load_dataset", unreachable)
    else:
        (tmp_path / "w.jsonl").write_text(files)
    with pytest.raises(ConfigError, match=told):
        load_tasks(
            TaskManager(include_path=tmp_path, include_defaults=False), ["coins_s", "coins_w"] if files == "" else ["coins_w"]
        )


def test_a_directory_without_a_repository_is_no_news(
    tmp_path: Path, manager: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_harness(harness_options("coins_s", limit=1), [local("base")], tmp_path / "out", manager=manager)
    assert "fatal" not in capfd.readouterr().err


def test_names_in_the_table_are_folded_and_never_cut(measured: Any) -> None:
    _, results = measured
    table = harness_table({"a_student_of_a_long_name": results["base"], "another_of_a_long_name": results["level4"]})
    shown = Console(width=60, file=io.StringIO())
    shown.print(table)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert "±: standard error" in text
    assert f"{results['base']['results']['coins_w']['exact_match,none']:.4f} ± " in text


def test_tasks_that_run_code_of_the_model_are_refused(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    write_tasks(tmp_path, ["a"] * 4)
    with (tmp_path / "w.yaml").open("a") as file:
        file.write("unsafe_code: true\n")
    with pytest.raises(ConfigError, match="coins_w would run code that the model writes"):
        load_tasks(TaskManager(include_path=tmp_path, include_defaults=False), ["coins_w"])


def test_given_answers_cannot_be_asked_of_an_endpoint(tmp_path: Path, manager: Any) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m")
    with pytest.raises(ConfigError, match="coins_s cannot be asked of an endpoint: such a task compares the likelihoods"):
        run_harness(harness_options("coins_w,coins_s"), [endpoint], tmp_path, manager=manager)
    assert list(tmp_path.iterdir()) == []


def test_a_student_without_a_chat_template_is_not_asked_in_chat_format(tmp_path: Path, manager: Any) -> None:
    shutil.copytree(STUDENT, tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
    student = LocalStudent("base", STUDENT, None, str(tmp_path / "plain"))
    with pytest.raises(ConfigError, match="base has no chat template"):
        run_harness(harness_options("coins_w", apply_chat_template=True), [student], tmp_path / "out", manager=manager)


@pytest.mark.parametrize(
    ("tasks", "settings", "told"),
    [
        ("", {}, "^--lm-eval needs task names, such as gsm8k,arc_easy.$"),
        (" , ", {}, "--lm-eval needs task names"),
        ("a", {"limit": 0}, "limit: Input should be greater than or equal to 1, found 0"),
        ("a", {"num_fewshot": -1}, "num_fewshot: Input should be greater than or equal to 0, found -1"),
        ("a", {"batch_size": "0"}, "^--batch-size must be a whole number from 1, or auto; found '0'.$"),
        ("a", {"batch_size": "foo"}, "^--batch-size must be a whole number from 1, or auto; found 'foo'.$"),
        ("a", {"include_path": Path("/nowhere/at/all")}, "include_path: Path does not point to a directory"),
    ],
)
def test_options_that_make_no_sense_are_refused(tasks: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        harness_options(tasks, **settings)


def test_without_the_package_a_person_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "magdi-ray\[lm-eval\]"'):
        harness.task_manager()


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(tmp_path: Path, manager: Any) -> None:
    broken = LocalStudent("base", str(tmp_path), None, STUDENT)
    with pytest.raises(EngineError, match="base could not be evaluated"):
        run_harness(harness_options("coins_w"), [broken], tmp_path / "out", manager=manager)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, adapter: str) -> Run:
    """A run directory as the pipeline leaves it after its product, an adapter."""
    config, run = (
        load_config(TINY, ("distil.student.tuning={type: lora, r: 4, alpha: 8}",)),
        Run(tmp_path_factory.mktemp("a") / "run"),
    )
    run.prepare(config, "if_possible")
    for stage in plan(config):
        directory = run.clear(stage.name)
        if stage.name == "student":
            shutil.copytree(adapter, directory, dirs_exist_ok=True)
        run.finish(stage.name, stage.shaped_by, stage.inputs, seconds=1.0, facts={})
        if stage.name == "student":
            break
    run.unlock()
    return run


def test_a_run_s_students_are_found_by_name(run: Run) -> None:
    config = load_config(run.root / "config.yaml")
    product, base = run_student(run, config, None), run_student(run, config, "base")
    assert (product.base, product.adapter) == (STUDENT, str(run.path("student")))
    assert (base.name, base.base, base.adapter) == ("base", STUDENT, None)
    with pytest.raises(ConfigError, match="The run has no recipe 'level9'"):
        run_student(run, config, "level9")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run directory"):
        evaluate_run(Run(tmp_path), harness_options("gsm8k"))


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"students": ("base",), "endpoint": "http://x/v1"}, "Give one of them"),
        ({"model": "m"}, "it needs --endpoint"),
        ({"endpoint": "x/v1"}, "must begin with http"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "does not say what is served"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(run: Run, chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        evaluate_run(run, harness_options("gsm8k"), **chosen)


@pytest.fixture(scope="module")
def url(ray_cluster: None) -> Iterator[str]:
    """The student behind the OpenAI API on a free port."""
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start_http("127.0.0.1", port)
    deploy(StudentArgs(model=STUDENT, model_name="tiny/student", max_batch_size=8), timeout_s=150)
    yield f"http://127.0.0.1:{port}/v1"
    serve.shutdown()


@pytest.mark.cluster
def test_a_served_student_says_what_its_weights_say(url: str, tmp_path: Path, manager: Any, replies: list[str]) -> None:
    endpoint = find_endpoint(f"{url}/chat/completions")
    [result] = run_harness(harness_options("coins_w"), [endpoint], tmp_path, manager=manager).values()
    directory = tmp_path / "endpoint-tiny-student"
    assert [row["resps"][0][0].strip() for row in rows(directory, "coins_w")] == replies
    assert result["results"]["coins_w"]["exact_match,none"] == 0.5


@pytest.mark.cluster
def test_the_harness_own_command_line_asks_a_served_student(
    url: str, tmp_path: Path, tasks_dir: Path, replies: list[str]
) -> None:
    asked = f"model=tiny/student,base_url={url}/chat/completions,num_concurrent=4,tokenized_requests=False"
    command = [Path(sys.executable).parent / "lm_eval", "run", "--model", "local-chat-completions", "--model_args", asked]
    tasks = ["--tasks", "coins_w", "--include_path", tasks_dir, "--apply_chat_template", "--log_samples"]
    whole = [*command, *tasks, "--output_path", tmp_path]
    done = subprocess.run(whole, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    [samples] = tmp_path.rglob("samples_coins_w_*.jsonl")
    said = [json.loads(line)["resps"][0][0].strip() for line in samples.read_text().splitlines()]
    assert said == replies


@pytest.mark.cluster
def test_an_endpoint_that_refuses_is_told_in_its_own_words_before_any_task_is_read(url: str) -> None:
    with pytest.raises(ConfigError, match=r"'other' at http.* does not answer: .*The model 'other' does not exist"):
        find_endpoint(url, "other")

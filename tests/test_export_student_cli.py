"""`magdi export`: from a finished run to a directory a stranger can use, and to a hub only when asked."""

from __future__ import annotations

import ast
import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from magdi_ray import cli
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config import RecipeConfig, RunConfig, load_config, recipes, resolve_recipe
from magdi_ray.config.recipes import RECIPES
from magdi_ray.distill import loop, tokenising, tokens
from magdi_ray.distill.export.card import model_card
from magdi_ray.distill.export.lessons import HELD_OUT, NOTES
from magdi_ray.distill.export.record import Base, Record
from magdi_ray.distill.student import DistillModel, export_student, load_student, load_tokenizer
from magdi_ray.exporting import chosen_recipe, finished_student, hub_dataset, public_name, record_of, whole_directory
from magdi_ray.pipeline import plan
from magdi_ray.runs import Run

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
LORA = "distil.student.tuning={type: lora, r: 4, alpha: 8}"
TRAINED: dict[str, Any] = {
    **{"steps": 300, "planned_steps": 500, "stopped_early": True, "resumed": 2, "resumed_at_step": 200, "packing": "segments"},
    **{"graphs": 52, "nodes": 309, "dev_graphs": 8, "skipped_nodes": {"a | b": 7}, "skipped_graphs": {"no usable node": 1}},
    "notes": {"graph of the split test, not learned from": 20, "one kind of node: no pair": 17, "a single node": 0},
    **{"supervised_tokens": 120_000, "tokens_forwarded": 400_000, "parameters": 7_000_000, "trained_parameters": 2_000_000},
    **{"workers": 2, "gpus": 2, "zero_stage": 3, "peak_memory": [2**31, 3 * 2**30], "seconds": 7260.0, "worker_seconds": 14520.0},
    **{"first_loss": 3.1, "last_loss": 0.2, "dev_loss": 0.52, "dev_accuracy": 0.25, "best_loss": 0.41, "best_step": 200},
    "result": "best",
}
FACTS: dict[str, dict[str, Any]] = {
    "questions": {"train": 60, "test": 20, "rows left out": 1, "rows left out: doubled": 1},
    "debates": {"tokens_in": 27111, "tokens_out": 7200, "usd": 1.25},
    "graphs": {"graphs": 80, "failed debates left out": 2},
    "student": TRAINED,
}
NOTHING: dict[str, dict[str, Any]] = {
    "questions": {"train": 60},
    "graphs": {"graphs": 60},
    "student": {"steps": 5, "graphs": 60, "nodes": 309, "skipped_nodes": {}, "skipped_graphs": {}, "notes": {}},
}
"""A training that left nothing out."""


def score(system: str, accuracy: float) -> dict[str, Any]:
    figures = {"questions": 20, "low": 0.1, "high": 0.9, "unanswered": 1, "errors": 0, "tokens_out": 13.5, "tokens_in": 30.0}
    return {"system": system, "split": "test", "accuracy": accuracy, **figures}


METRICS = {
    "scores": [score("base", 0.2), score("level1", 0.25), score("level2", 0.3), score("ada", 0.4), score("vote", 0.8)],
    "differences": [
        {"system": "level2", "reference": "vote", "split": "test", "difference": -0.5, "low": -0.8, "high": -0.2, "p_value": 0.01}
    ],
}


def finish(root: Path, *overrides: str, until: str = "evaluation") -> tuple[Run, RunConfig]:
    """A run directory as the pipeline leaves it, its students untaught but for a nudge."""
    config, run = load_config(TINY, overrides), Run(root)
    run.prepare(config, "if_possible")
    for stage in plan(config):
        directory = run.clear(stage.name)
        if stage.name == "student" or stage.name.startswith("ablations/"):
            name = stage.name.removeprefix("ablations/") if "/" in stage.name else recipes(config.distil)[-1].name
            write_student(config, directory, name)
        if stage.name == "evaluation":
            (directory / "metrics.json").write_text(json.dumps(METRICS))
        facts = FACTS.get(stage.name, FACTS["student"])
        run.finish(stage.name, stage.shaped_by, stage.inputs, seconds=30.0, facts=facts)
        if stage.name == until:
            break
    run.unlock()
    return run, config


def write_student(config: RunConfig, directory: Path, name: str) -> None:
    model = str(config.distil.student.model)
    causal = load_student(config.distil.student, model)
    with torch.no_grad():
        for parameter in (p for p in causal.parameters() if p.requires_grad):
            parameter.add_(0.05)
    export_student(DistillModel(causal, chosen_recipe(config, name)), load_tokenizer(model), directory)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of LoRA students."""
    return finish(tmp_path_factory.mktemp("runs") / "lora", LORA)[0]


def magdi(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert stopped.value.code == code, said
    return " ".join((said.out + said.err).split())


def card_of(directory: Path) -> str:
    return (directory / "README.md").read_text()


def record(run: Run, config: RunConfig, *, name: str | None = None, **changes: Any) -> Record:
    """What the card of a run's student is written from."""
    recipe = chosen_recipe(config, name)
    stage = "student" if name is None else f"ablations/{name}"
    done = SimpleNamespace(form="adapter", dtype="float32")
    base = Base("org/base", "hub")
    manifest = finished_student(run, config, stage)
    return replace(record_of(run, config, recipe, manifest=manifest, done=done, base=base, repository=None), **changes)  # type: ignore[arg-type]


def summary_keys() -> set[str]:
    """The names of all facts that a training returns, read from the code that returns them."""
    keys = set()
    for node in ast.walk(ast.parse(inspect.getsource(loop.summary))):
        named = node.keys if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.DictComp) and isinstance(node.generators[0].iter, ast.Tuple):
            named = list(node.generators[0].iter.elts)
        keys |= {key.value for key in named if isinstance(key, ast.Constant)}
    return {str(key) for key in keys}


class Watched(dict[str, Any]):
    """Facts that note which of them are asked for."""

    asked: set[str]

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


def taught(run: Run, recipe: str | RecipeConfig, *overrides: str, **trained: Any) -> str:
    """The card of a student of some recipe, under other facts of its training."""
    config = load_config(TINY, (LORA, "distil.dev={every_steps: 50, student: best, patience: 2, graphs: 8}", *overrides))
    facts = FACTS | {"student": TRAINED | trained}
    known = record(run, load_config(run.root / "config.yaml"))
    return model_card(replace(known, config=config, recipe=resolve_recipe(recipe), facts=facts))  # type: ignore[arg-type]


def test_a_card_reads_only_facts_that_a_training_returns(lora: Run) -> None:
    keys = summary_keys()
    assert {"tokens_forwarded", "best_step", "dev_graphs"} <= keys
    assert TRAINED.keys() | {"flops"} == keys | {"flops"}
    facts = Watched(TRAINED)
    facts.asked = set()
    for name in RECIPES:
        config = load_config(lora.root / "config.yaml")
        model_card(record(lora, config, recipe=resolve_recipe(name), facts=FACTS | {"student": facts}))  # type: ignore[arg-type]
    assert facts.asked - {"flops"} <= keys
    assert keys - facts.asked == {"resumed_at_step", "first_loss", "last_loss"}


def test_notes_are_called_as_tokenising_writes_them() -> None:
    assert all(f'"{note}"' in inspect.getsource(tokens) for note in NOTES)
    assert f'"{HELD_OUT}' in inspect.getsource(tokenising)


def test_a_card_says_which_weights_were_exported(lora: Run) -> None:
    best = taught(lora, "level4")
    assert "the weights after step 200, which had the lowest dev loss" in best
    assert "stopped early, after step 300 of 500 planned: no new lowest dev loss in 2 measurements in a row" in best
    assert "These are the untrained weights" in taught(lora, "level4", best_step=0)
    last = taught(lora, "level4", result="last", stopped_early=False)
    assert "the weights after the last step, 300." in last
    assert "stopped early" not in last
    assert "No dev loss was a finite number" in taught(lora, "level4", best_step=None, best_loss=None)


def test_a_card_s_costs_are_those_of_the_training(lora: Run) -> None:
    text = taught(lora, "level4")
    for said in (
        *("| 300 of 500 planned |", "| 400 000 |", "2 000 000 of 7 000 000", "| 2, 2 GPUs |", "3 GiB of GPU memory"),
        *("all attempts | 2 h 01 min |", "| 4.03 GPU-hours |", "| 2 times |"),
        *("| 0.41, after step 200 |", "| 25.0 % |", "without padding, by attention over segments", "its whole share of a step"),
    ):
        assert said in text, said
    assert "| 9e+20 FLOP |" in taught(lora, "level4", flops=9e20)


def test_the_number_of_4_bit_weights_is_not_claimed(lora: Run) -> None:
    text = taught(lora, "level4", "distil.student.tuning={type: qlora}")
    assert "| 2 000 000 |" in text


MAGDI = "magdi\n- distillation\n- multi-agent-debate"


@pytest.mark.parametrize(
    ("recipe", "opening", "tags"),
    [
        ("level4", "taught by debates between language models, with MAGDi (arXiv 2402.01620). ", MAGDI),
        ("level3", "with MAGDi (arXiv 2402.01620), without the graph network. ", MAGDI),
        ("level2", "distilled from the correct replies that language models gave in debates. ", MAGDI.removeprefix("magdi\n- ")),
        ("level1", "that one language model gave at the start of debates with others. ", MAGDI.removeprefix("magdi\n- ")),
        ("sft_gold", "fine-tuned on the solutions published with questions. ", "sft"),
        ("dpo", "preference optimisation (DPO) on pairs of replies from debates between", "dpo\n- multi-agent-debate"),
        (
            "orpo",
            "preference optimisation (ORPO) on pairs of replies from debates between language models and by learning",
            "orpo\n- multi-agent-debate",
        ),
    ],
)
def test_a_card_opens_by_what_its_recipe_does_whatever_it_is_called(lora: Run, recipe: str, opening: str, tags: str) -> None:
    text = taught(lora, RECIPES[recipe].model_copy(update={"name": "level2"}))
    assert opening in text
    assert f"tags:\n- {tags}\n- lora\n" in text
    assert ("arXiv 2402.01620" in text) is (recipe in ("level3", "level4"))
    assert "a recipe of this run's own" not in text


def test_who_learned_from_solutions_is_said_to_have_no_teachers(lora: Run) -> None:
    text = taught(lora, "sft_gold")
    assert "Trained on 309 published solutions." in text
    for said in ("Who debated", "Debate protocol", "eplies of", "whose replies", "multi-agent", "MAGDi", "teacher", "$1.25"):
        assert said not in text, said


def test_one_model_alone_is_no_debate(lora: Run) -> None:
    agent = load_config(TINY).debate.agents[0].model_dump(mode="json")  # type: ignore[union-attr]
    debate = json.dumps({"protocol": {"name": "single"}, "agents": [agent]})
    text = taught(lora, "level2", f"debate={debate}")
    assert "the correct replies that one language model gave alone." in text
    assert "multi-agent-debate" not in text


def test_nothing_was_left_out_is_said_only_where_it_is_known(lora: Run) -> None:
    config = load_config(lora.root / "config.yaml")

    def text(**trained: Any) -> str:
        return model_card(record(lora, config, facts=NOTHING | {"student": NOTHING["student"] | trained}))

    assert "Nothing was left out." in text()
    assert "| graphs held out for dev | 8 |" in text(dev_graphs=8)
    assert "| graphs of a single reply | 3 |" in text(notes={"a single node": 3})
    others = (text(dev_graphs=8), text(notes={"a single node": 3}), text(notes={f"{HELD_OUT}test, not learned from": 2}))
    assert not any("Nothing was left out" in other for other in others)
    unknown = {"student": {"steps": 5, "graphs": 60, "nodes": 309}}
    assert "What was left out is unknown." in model_card(record(lora, config, facts=NOTHING | unknown))


@pytest.mark.parametrize(
    ("name", "found"), [("nowhere", "found nothing"), ("empty", "found a directory without"), ("file", "a file")]
)
def test_what_is_no_run_directory_is_said_to_be_none(tmp_path: Path, capsys: Any, name: str, found: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    said = magdi(capsys, "export", tmp_path / name, "--out", tmp_path / "out", code=2)
    assert f"{name} is no run directory. Required is a directory that `magdi run`" in said
    assert found in said
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_exported_with_a_card_and_its_base_is_said(lora: Run, tmp_path: Path, capsys: Any) -> None:
    said = magdi(capsys, "export", lora.root, "--out", tmp_path / "out")
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"README.md", "chat_template.jinja"}
    assert "exported: " in said
    assert "no model of a hub but pkg://magdi_ray/tiny/models/student" in said
    texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".md", ".json")]
    assert not any(path in text for text in texts for path in (str(lora.root), resolve_model("pkg://magdi_ray/tiny")))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_code_of_a_merged_export_s_card_runs_as_it_stands(lora: Run, tmp_path: Path, capsys: Any) -> None:
    magdi(capsys, "export", lora.root, "--out", tmp_path / "out", "--merge", "--student", "level1")
    assert "# tiny-level1\n" in card_of(tmp_path / "out")
    code = card_of(tmp_path / "out").split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "out", check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_full_student_has_nothing_to_merge_and_that_is_no_error(tmp_path: Path, capsys: Any) -> None:
    run, _ = finish(tmp_path / "run", "distil.ablations=[]", until="student")
    said = magdi(capsys, "export", run.root, "--out", tmp_path / "out", "--merge")
    assert "nothing to merge" in said
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (run.path("student") / "model.safetensors").read_bytes()
    assert "not evaluated: how good they are is unknown" in card_of(tmp_path / "out")
    assert "model-index" not in card_of(tmp_path / "out")


def test_what_cannot_be_exported_is_said_and_leaves_nothing_behind(lora: Run, tmp_path: Path, capsys: Any) -> None:
    export = ("export", lora.root, "--out", tmp_path / "out")
    assert "did you mean 'level1'?" in magdi(capsys, *export, "--student", "leve1", code=2)
    assert "it has level1, level4, level2" in magdi(capsys, *export, "--student", "x", code=2)
    assert "needs --merge" in magdi(capsys, *export, "--dtype", "bfloat16", code=2)
    assert "needs --push" in magdi(capsys, *export, "--private", code=2)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "not empty" in magdi(capsys, *export, code=2)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_unfinished_or_outdated_student_is_not_exported(lora: Run, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(lora.root, tmp_path / "run")
    export = ("export", tmp_path / "run", "--out", tmp_path / "out")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace("max_steps: 500", "max_steps: 501"))
    assert "changed. Finish the run first" in magdi(capsys, *export, code=2)
    (tmp_path / "run" / "student" / "manifest.json").unlink()
    assert "no finished 'student' stage" in magdi(capsys, *export, code=2)


def test_a_failed_export_leaves_no_directory(tmp_path: Path) -> None:
    def write_half() -> None:
        with whole_directory(tmp_path / "out") as directory:
            (directory / "half.safetensors").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_the_card_s_front_matter_is_what_the_hub_reads(lora: Run) -> None:
    data = ModelCard(model_card(record(lora, load_config(lora.root / "config.yaml")))).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("org/base", "peft", "text-generation")
    assert data.license is None
    (result,) = data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_type, result.metric_value) == (
        "tiny",
        "test",
        "accuracy",
        0.3,
    )


def test_the_card_says_what_the_record_holds(lora: Run) -> None:
    text = model_card(record(lora, load_config(lora.root / "config.yaml")))
    for said in (
        *("| ada | `pkg://magdi_ray/tiny/models/ada` |", "309 replies to 52 questions", "against the gold answers"),
        *("| debates that failed | 2 |", "| replies: a \\| b | 7 |", "| rows left out: doubled | 1 |"),
        *("| **this student** | 30.0 | 10.0 to 90.0 |", "| the debate's vote | 80.0 |", "| ada (debater, alone) | 40.0 |"),
        *("| this student - the debate's vote | -50.0 |", "| ZeRO stage | 3 |", "$1.25", lora.identity, "No licence is stated"),
    ):
        assert said in text, said


def test_figures_of_an_earlier_student_are_not_shown(lora: Run) -> None:
    config = load_config(lora.root / "config.yaml")
    assert record(lora, config).results is not None
    manifest = replace(finished_student(lora, config, "student"), content="another")
    done: Any = SimpleNamespace(form="adapter", dtype="float32")
    other = record_of(
        lora, config, chosen_recipe(config, None), manifest=manifest, done=done, base=Base("b", "local"), repository=None
    )
    assert other.results is None


def test_an_empty_record_gives_a_card_that_calls_things_unknown(lora: Run) -> None:
    config = load_config(lora.root / "config.yaml")
    bare = record(lora, config, facts={}, results=None, identity="", teachers=(), labels=())
    text = model_card(bare)
    assert ModelCard(text).data.eval_results is None
    for said in (
        "| unknown | `unknown` |",
        "against an unknown source",
        "What was left out is unknown",
        "After which step of the training these weights were taken is unknown",
        "were not evaluated",
    ):
        assert said in text, said
    assert "None" not in text


def test_a_prompt_without_chat_template_ends_as_in_training(lora: Run) -> None:
    text = model_card(record(lora, load_config(lora.root / "config.yaml"), chat=False, prompt="Q: {question}\nA:"))
    assert "prompt = 'Q: {question}\\nA:'.replace(\"{question}\", question)" in text
    assert 'tokenizer(prompt + "\\n\\n"' in text


def test_names_on_a_card_are_not_paths() -> None:
    assert public_name("/home/me/models/llama:/home/me/adapter") == "llama:adapter"
    assert public_name("org/model") == "org/model"
    assert public_name("pkg://magdi_ray/tiny/models/ada") == "pkg://magdi_ray/tiny/models/ada"
    assert hub_dataset("openai/gsm8k:train") == "openai/gsm8k"
    assert hub_dataset("../shared/data/gsm8k/train.jsonl") is None
    assert hub_dataset("/data/gsm8k") is None


class FakeHub:
    """A hub at the edge of the network: notes what is asked of it."""

    def __init__(self, *, public: bool = False, refuses: str = "") -> None:
        self.public, self.refuses = public, refuses
        self.uploaded: dict[str, list[str]] = {}

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        if self.refuses:
            raise HfHubHTTPError(self.refuses, response=SimpleNamespace(headers={}, status_code=403, request=None))  # type: ignore[arg-type]
        return f"https://huggingface.co/{repo_id}"

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=not self.public)

    def list_repo_files(self, repo_id: str) -> list[str]:
        return [".gitattributes", "README.md", "model.safetensors"]

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.uploaded[repo_id] = sorted(path.name for path in folder_path.iterdir())


def test_a_push_uploads_what_was_exported_and_says_so(
    lora: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    said = magdi(capsys, "export", lora.root, "--out", tmp_path / "out", "--push", "org/student", "--private")
    assert hub.uploaded == {"org/student": sorted(path.name for path in (tmp_path / "out").iterdir())}
    assert "pushed 6 files" in said
    assert "https://huggingface.co/org/student: README.md, adapter_config.json" in said
    assert "also holds model.safetensors" in said
    assert "student = 'org/student'" in card_of(tmp_path / "out")


def test_a_private_export_never_goes_to_a_public_repository(
    lora: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(public=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    said = magdi(capsys, "export", lora.root, "--out", tmp_path / "out", "--push", "org/student", "--private", code=2)
    assert "exists and is public; nothing was uploaded" in said
    assert hub.uploaded == {}


def test_a_repository_that_cannot_be_written_is_said_and_the_export_stays(
    lora: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(refuses="403 Forbidden: no rights"))
    said = magdi(capsys, "export", lora.root, "--out", tmp_path / "out", "--push", "org/student", code=2)
    assert "no rights" in said
    assert "hf upload org/student" in said
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("token", "reason"), [("", "set HF_TOKEN"), ("hf_secret", "offline mode is enabled")])
def test_a_push_without_token_or_network_is_refused_before_anything_is_written(
    lora: Run, tmp_path: Path, token: str, reason: str
) -> None:
    command = [sys.executable, "-m", "magdi_ray.cli", "export", str(lora.root), "--out", str(tmp_path / "out"), "--push", "a/b"]
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_TOKEN": token}
    done = subprocess.run(command, env=environment, cwd=TINY.parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.split())
    assert "hf_secret" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_push_needs_an_organisation_and_a_name(lora: Run, tmp_path: Path, capsys: Any) -> None:
    said = magdi(capsys, "export", lora.root, "--out", tmp_path / "out", "--push", "student", code=2)
    assert "as org/name, found 'student'" in said

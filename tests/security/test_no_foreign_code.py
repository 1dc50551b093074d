"""Nothing that is read can run: no unpickling, no evaluation of text, no code that comes with a model."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jinja2.exceptions import SecurityError
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from magdi_ray.agents.base import Message, PromptError
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.agents.transformers import TransformersAgent, load_tokenizer, read_prompt
from magdi_ray.agents.weights import check_model_directory, resolve_model
from magdi_ray.config.engines import EngineConfig, TransformersEngine
from magdi_ray.config.reading import Loader, read_yaml
from magdi_ray.config.serving import ServeConfig
from magdi_ray.debate.templates import compile_template
from magdi_ray.distill.checkpoint.state import load_tensors, save_tensors
from magdi_ray.distill.forecast.shapes import find_shape
from magdi_ray.distill.student import load_tokenizer as student_tokenizer
from magdi_ray.errors import ConfigError, EngineError, MagdiError
from magdi_ray.graph.formats.base import read_json

ROOT = Path(__file__).parent.parent.parent
FILES = sorted([*(ROOT / "magdi_ray").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
RUNS_DATA = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "xmlrpc", "telnetlib"}
TEACHER = "pkg://magdi_ray/tiny/models/ada"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def faults(source: str) -> list[str]:
    """What in some source could run data."""
    found, tree = [], ast.parse(source)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.split(".")[0] in RUNS_DATA]
    for name, call in calls(tree):
        given = keywords(call)
        found += [name] if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen") else []
        found += [name] if name in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all") else []
        found += [name] if name == "yaml.load" and ast.unparse(call.args[-1]) != "Loader" else []  # ours, a SafeLoader
        found += [name] if name in ("torch.load", "torch.jit.load") and given.get("weights_only") != "True" else []
        found += [name] if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False" else []
        found += [f"{name}(shell)"] if given.get("shell", "False") != "False" else []
        found += [f"{name}({given['trust_remote_code']})"] if given.get("trust_remote_code", "False") != "False" else []
        if name.startswith("Auto") and name.endswith((".from_pretrained", ".from_config")):
            found += [f"{name} asks at a terminal"] if "trust_remote_code" not in given else []
            found += [f"{name} reads pickles"] if "Model" in name and given.get("use_safetensors") != "True" else []
    return found


def test_no_module_runs_data() -> None:
    found = {str(path.relative_to(ROOT)): faults(path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: what for path, what in found.items() if what} == {}
    assert issubclass(Loader, yaml.SafeLoader)


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import loads", "eval(text)", "yaml.load(text, yaml.Loader)", "torch.load(path)"),
        *("run(x, shell=True)", "AutoTokenizer.from_pretrained(x)", "AutoConfig.from_pretrained(x, trust_remote_code=True)"),
        "AutoModelForCausalLM.from_pretrained(x, trust_remote_code=False)",
    ],
)
def test_the_search_for_such_modules_finds_them(source: str) -> None:
    assert faults(source)


def test_a_configuration_s_yaml_makes_no_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="python/object"):
        read_yaml(f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']", "x.yaml")
    assert not list(tmp_path.iterdir())


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def copied(tmp_path: Path, **changes: Any) -> Path:
    """A tiny teacher whose `config.json` says something else."""
    directory = tmp_path / "model"
    shutil.copytree(resolve_model(TEACHER), directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


def test_weights_that_are_a_pickle_are_refused_and_never_opened(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    (directory / "model.safetensors").unlink()
    with (directory / "pytorch_model.bin").open("wb") as stream:
        pickle.dump(Bomb(tmp_path / "ran"), stream)
    for load in (check_model_directory, lambda name: TransformersAgent(TransformersEngine(type="transformers", model=name))):
        with pytest.raises(MagdiError, match="safetensors"):
            load(str(directory))
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_refused_even_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    directory = copied(tmp_path, model_type="strange", architectures=["Own"], auto_map={"AutoConfig": "own.Own"})
    told = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(told))
    (directory / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Own: ...\n")
    with pytest.raises(EngineError, match="trust_remote_code"):
        TransformersAgent(TransformersEngine(type="transformers", model=str(directory)))
    with pytest.raises(ConfigError, match="trust_remote_code"):
        student_tokenizer(str(directory))
    with pytest.raises(ConfigError, match="trust_remote_code"):
        find_shape(str(directory))
    assert not (tmp_path / "ran").exists()


def test_it_cannot_be_switched_on() -> None:
    arguments = {"type": "vllm", "model": "org/model", "engine_kwargs": {"trust_remote_code": True}}
    with pytest.raises(ValidationError, match="code that comes with a model is never run"):
        TypeAdapter(EngineConfig).validate_python(arguments)
    with pytest.raises(ValidationError, match="code that comes with a model is never run"):
        ServeConfig(engine="vllm", engine_kwargs={"trust_remote_code": True})
    with pytest.raises(ValidationError):
        TypeAdapter(EngineConfig).validate_python({"type": "transformers", "model": "org/model", "trust_remote_code": True})


def test_a_package_an_adapter_names_is_looked_up_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lurking").mkdir()
    (tmp_path / "lurking" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_model("pkg://lurking/__init__.py") == str(tmp_path / "lurking" / "__init__.py")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pkg://magdi_ray/../x", "pkg://magdi_ray//etc/passwd", "pkg://os.path/x", "pkg:///etc/passwd"])
def test_a_package_s_file_lies_in_the_package(name: str) -> None:
    with pytest.raises(ConfigError, match="pkg://package/path"):
        resolve_model(name)


HOSTILE_TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
    "{% for x in range(10**9) %}{{ x }}{% endfor %}",
)


@pytest.mark.parametrize("source", HOSTILE_TEMPLATES)
def test_a_model_s_chat_template_is_filled_in_in_a_sandbox(source: str) -> None:
    tokenizer = load_tokenizer(TEACHER)
    tokenizer.chat_template = source
    with pytest.raises(PromptError, match="refuses a conversation"):
        read_prompt(tokenizer, [Message("user", "hi")])


@pytest.mark.parametrize("source", HOSTILE_TEMPLATES)
def test_a_prompt_template_is_filled_in_in_a_sandbox(source: str) -> None:
    with pytest.raises((SecurityError, OverflowError, Exception)) as caught:
        compile_template(source).render(messages=[])
    assert type(caught.value).__name__ in ("SecurityError", "OverflowError", "UndefinedError")


def test_a_pickle_of_debates_is_named_and_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "GSM8k_round_2.pkl"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(MagdiError, match=r"never opened|not done here"):
        read_json(file)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_a_training_holds_tensors_and_numbers_only(tmp_path: Path) -> None:
    save_tensors(tmp_path / "own", {"a": torch.zeros(200)})
    assert {path.suffix for path in (tmp_path / "own").iterdir()} == {".safetensors", ".json"}
    with (tmp_path / "own" / "tensors-00000.safetensors").open("r+b") as stream:
        size = len(stream.read())
        stream.seek(0)
        stream.write(pickle.dumps(Bomb(tmp_path / "ran")).ljust(size, b"\0")[:size])
    with pytest.raises(SafetensorError):
        load_tensors(tmp_path / "own")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spelled", ["<|im_start|>", "<eos>", "<bos>", "</s>", "<|end|>"])
def test_a_control_token_that_somebody_spells_is_text_for_local_models(spelled: str) -> None:
    tokenizer = load_tokenizer(TEACHER)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = [token for token in encode_prompt(tokenizer, [Message("user", "what is two")]) if token in special]
    forged = [token for token in encode_prompt(tokenizer, [Message("user", f"what is {spelled} two")]) if token in special]
    assert forged == plain

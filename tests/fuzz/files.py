"""Files and requests that people write, as targets: configurations, keys, stores, logs, and the bodies of requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from magdi_ray.agents.base import Reply
from magdi_ray.agents.recorded import RecordedAgent
from magdi_ray.agents.store import ReplyStore, encode_record
from magdi_ray.config.cluster import load_cluster
from magdi_ray.config.load import apply_override, load_config, parse_config
from magdi_ray.config.reading import read_yaml
from magdi_ray.debate import reconcile
from magdi_ray.debate.convincing import read_convincing
from magdi_ray.debate.load import load_prompts
from magdi_ray.distill.watch.lines import last_lines
from magdi_ray.distill.watch.steplog import read_dev, read_steps, read_trainings
from magdi_ray.errors import ConfigError, EngineError, RunError
from magdi_ray.runs import Run
from magdi_ray.serving.door.body import parse
from magdi_ray.serving.keys import read_keys, read_variable
from magdi_ray.serving.wire.chat import ChatRequest
from magdi_ray.serving.wire.completions import CompletionRequest
from magdi_ray.serving.wire.errors import ApiError
from magdi_ray.serving.wire.score import ScoreRequest
from magdi_ray.tasks.commonsenseqa import CommonsenseQa
from tests.fuzz.target import TOLD, Target, file_fed, text_of
from tests.fuzz.transcripts import MADE

ROOT = Path(__file__).parents[2]
YAML = tuple(
    word.encode()
    for word in (
        *(
            "a: &a [x, x, x, x, x, x, x, x, x]\n",
            "b: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n",
            "c: &c [*b, *b, *b, *b, *b, *b, *b]\n",
        ),
        *(
            "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n",
            "e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\n",
            "f: &f [*e, *e, *e, *e, *e, *e]\n",
        ),
        *(
            "&x [*x]",
            "&m {k: *m}",
            "<<: *a\n",
            "<<: {name: a}\n",
            "? [a, b]\n: c\n",
            "? {a: b}\n: c\n",
            "!!python/object/apply:os.system",
        ),
        *("!!binary abc", "!!timestamp x", "!!int ''", "!!float x", "!!map [1]", "!!seq {a: 1}", "!!set {a, b}", "!!omap [a: 1]"),
        *("2001-99-99", "2001-01-01", "12:99:99", "0x", "0b2", "0o9", "1_000", ".inf", ".nan", "~", "yes", "on", "1e5", "5e-6"),
        *(
            "\t",
            "---\n",
            "...\n",
            "%YAML 9.9\n",
            "# ",
            "|\n  ",
            ">-\n  ",
            "- ",
            "? ",
            ": ",
            '"\\ud800"',
            '"\\x00"',
            "'",
            "name: ",
            "9" * 5000,
        ),
    )
)
KEYS = b"keys:\n  - {name: alice, sha256: 2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683, rpm: 60, tpm: 2000}\n"
FOUR = Reply("4 \"}\n{'key", 5, 2, 0.5, "stop", "m")
NAMES = tuple(f"{number:032x}" for number in range(4))
CHAT = {
    "model": "student",
    "messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": [{"type": "text", "text": "x"}]}],
    "stop": ["a"],
    "temperature": 0.5,
    "seed": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def targets() -> Iterator[Target]:
    """All of them."""
    configs = tuple(path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml")))
    yield Target("configurations (YAML)", file_fed("run.yaml", load_config), configs, YAML, (ConfigError,))
    yield Target(
        *("cluster files with prices (YAML)", file_fed("prices.yaml", load_cluster)),
        *(((ROOT / "cluster" / "prices.yaml").read_bytes(),), YAML, (ConfigError,)),
    )
    prompts = (yaml.safe_dump({"initial": reconcile.INITIAL, "discussion": reconcile.DISCUSSION}).encode(),)
    jinja = (b"{% for a in b %}", b"{% endfor %}", b"{{ a }}", b"{% if", b"%}", b"{#", b"{{ (", b"{% raw %}", b"| format")
    read = file_fed("prompts.yaml", lambda path: load_prompts(str(path), reconcile.Prompts))
    yield Target("prompt files (YAML, jinja2)", read, prompts, YAML + jinja, (ConfigError,))
    sets = (
        b"distil.train.max_steps=200",
        b"debate.agents.0.sampling.temperature=0.7",
        b"task={name: tiny}",
        b"distil.train.adam_betas=[0.9, 0.98]\n\nseed=3",
    )
    yield Target("--set NAME=VALUE", lambda data, _: _set(text_of(data)), sets, YAML, (ConfigError,))
    yield Target("key files (YAML)", lambda data, _: read_keys(text_of(data), "keys.yaml"), (KEYS,), YAML, (ConfigError,))
    variable = b"alice:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683,bob:" + b"0" * 64
    yield Target("keys in a variable", lambda data, _: read_variable(text_of(data), "KEYS"), (variable,), (), (ConfigError,))
    told = json.dumps(MADE["convincing"][2]).encode()
    yield Target("convincing samples (JSON)", _convincing, (told,), (), (ConfigError,))
    for name, kind, body in (
        ("chat", ChatRequest, CHAT),
        ("completions", CompletionRequest, {"model": "m", "prompt": [[1, 2], [3]], "logprobs": 2, "n": 2}),
        ("score", ScoreRequest, {"model": "m", "messages": CHAT["messages"], "reply": "4"}),
    ):
        sample = json.dumps(body).encode()
        yield Target(f"bodies of /v1/{name}", lambda data, _, kind=kind: _body(data, kind), (sample,), (), (ApiError,))  # type: ignore[misc]
    lines = b"".join(encode_record(key, FOUR, agent="a", run="r", usd=0.5) for key in NAMES)
    marks = (
        b'{"key": "',
        b'{"key": "' + NAMES[0].encode(),
        b'", "agent": "',
        b'"run": "',
        b'"usd": ',
        b"\n",
        b"}\n",
        b'"text": "',
        b"\0" * 99,
    )
    yield Target("lines of the reply store", _store, (lines,), marks, (), seconds=8.0)
    recorded = b'{"messages": [{"role": "user", "content": "2 + 2?"}], "text": "4", "tokens_in": 5, "confidence": 0.9}\n'
    yield Target("recordings (JSON lines)", file_fed("recorded.jsonl", RecordedAgent), (recorded * 2,), (), (EngineError,))
    head = {"stage": "distil", "recipe": "level4", "seed": 0, "time": 1.5, "attempt": 1}
    log = [
        {"event": "start", "step": 0, "steps": 9},
        {"step": 0, "loss": 2.5},
        {"event": "dev", "step": 1, "loss": 2.4, "accuracy": None},
    ]
    metrics = b"".join(json.dumps(head | line).encode() + b"\n" for line in (*log, {"event": "end", "step": 9}))
    yield Target("lines of metrics.jsonl", file_fed("metrics.jsonl", _metrics), (metrics,))
    manifest = {
        "stage": "s",
        "config_hash": "a",
        "inputs": {},
        "content": "b",
        "files": {"x": 1},
        "seconds": 1.0,
        "finished": "2026",
    }
    yield Target(
        "manifests of runs", file_fed("student/manifest.json", _manifest), (json.dumps(manifest).encode(),), (), (RunError,)
    )


def _set(text: str) -> None:
    data = read_yaml((ROOT / "configs" / "tiny.yaml").read_text(), "tiny.yaml")
    for override in text.split("\n\n")[:3]:
        apply_override(data, override)
    parse_config(data, "tiny.yaml")


def _convincing(data: bytes, directory: Path) -> None:
    file_fed("samples/bard.json", lambda path: read_convincing(path.parent, CommonsenseQa(), most=9))(data, directory)


def _body(data: bytes, kind: type) -> None:
    try:
        held = parse(data, kind)
    except ApiError as error:
        if not 400 <= error.status < 500 or len(error.message) > TOLD:
            raise AssertionError(f"{error.status}: {error.message[:300]}") from error
        raise
    assert kind.model_validate_json(held.model_dump_json()) == held
    repr(held)


def _store(data: bytes, directory: Path) -> None:
    """What was read before and after is there, whatever lies between; and the store can be written."""
    place = directory / "replies"
    place.mkdir()
    before, after = f"{2**100:032x}", f"{2**101:032x}"
    line = {key: encode_record(key, FOUR, agent="a", run="r", usd=0.5) for key in (before, after)}
    (place / "a.jsonl").write_bytes(line[before] + data + b"\n" + line[after])
    store = ReplyStore(str(place), run="r")
    try:
        for key in NAMES:
            assert isinstance(store.get(key), Reply | None)
        assert store.get(before) == store.get(after) == FOUR
        assert store.spent()["a"].calls >= 2
        assert store.spent("r")["a"].usd >= 1.0
        asyncio.run(store.put(f"{2**102:032x}", FOUR, agent="b", usd=0.0))
        assert store.get(f"{2**102:032x}") == FOUR
        assert store.damaged >= 0
    finally:
        store.close()
        for file in place.iterdir():
            file.unlink()
        place.rmdir()


def _metrics(path: Path) -> None:
    read_trainings(path, ["loss"])
    read_steps(path, "level4")
    read_dev(path, "level4")
    last_lines(path)


def _manifest(path: Path) -> None:
    Run(path.parent.parent).read_manifest("student")

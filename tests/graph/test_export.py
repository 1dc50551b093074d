"""Training files of other trainers: the texts the student is taught, in the columns trainers expect, and where they come from."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from magdi_ray.debate.transcript import Debate
from magdi_ray.errors import GraphError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.export import EXPORTS, SUFFIXES, Exported, export_mags
from magdi_ray.graph.formats import import_debates
from magdi_ray.graph.schema import Mag, Node
from magdi_ray.graph.text import student_reply
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

TASK = Gsm8k()
ORIGIN = {"question_id": str, "agent": str, "round": int, "split": str}
COLUMNS: dict[str, dict[str, type]] = {
    "messages": {"messages": list, **ORIGIN},
    "prompt-completion": {"prompt": str, "completion": str, **ORIGIN},
    "preference": {"prompt": str, "chosen": str, "rejected": str, "question_id": str}
    | {"chosen_agent": str, "chosen_round": int, "rejected_agent": str, "rejected_round": int, "split": str},
    "unpaired": {"prompt": str, "completion": str, "label": bool, **ORIGIN},
}
"""The conventions of TRL's dataset types, and our columns behind them."""
SPOKEN = ("prompt", "completion", "chosen", "rejected")


def node(agent: str, text: str, answer: str | None, correct: bool | None) -> Node:
    return Node(agent, 0, "debater", "m", text, text, answer, None, "none", correct, 1, 1, "ok" if answer else "unparsed")


def mag(*nodes: Node, split: str = "train", identity: str = "q") -> Mag:
    question = Question(identity, "Wie viel sind “8 + 5”?", "13", split)  # type: ignore[arg-type]
    agents = tuple(sorted({one.agent for one in nodes}))
    labels = "none" if any(one.correct is None for one in nodes) else "gold"
    return Mag(question, "society", agents, "13", 1.0, "rounds", labels, nodes, ())  # type: ignore[arg-type]


RIGHT, WRONG = node("a", "8 + 5 = 13 – fertig.", "13", True), node("b", "8 + 5 = 14.", "14", False)
UNPARSED, SILENT = node("c", "No idea.", None, False), node("d", "I agree with the others.", "13", True)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]  # type: ignore[no-any-return]


def export(mags: list[Mag], out: Path, format: str, **settings: Any) -> tuple[Exported, list[dict[str, Any]]]:
    return export_mags(mags, TASK, out, format=format, **settings), read(out)


@pytest.fixture(scope="module")
def recorded(data_dir: Path) -> list[Mag]:
    debates: tuple[Debate, ...] = import_debates("society", data_dir / "debates" / "du_gsm" / "gsm_3_2_100.json", TASK).debates
    return [build_mag(debate, TASK) for debate in debates]


def taught(mags: list[Mag]) -> dict[tuple[str, str, int], tuple[str, str, bool]]:
    """What every node of recorded graphs teaches, straight from the graphs: prompt, text and label by where it stands."""
    return {
        (m.question.id, n.agent, n.round): (TASK.prompt(m.question), text, bool(n.correct))
        for m in mags
        for n in m.nodes
        if (text := student_reply(TASK, n)) is not None
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("format", list(EXPORTS))
def test_what_is_read_back_is_what_the_graphs_teach(recorded: list[Mag], tmp_path: Path, format: str, suffix: str) -> None:
    done, rows = export(recorded, tmp_path / f"out{suffix}", format)
    known, found = taught(recorded), []
    for row in rows:
        if format == "preference":
            for side, label in (("chosen", True), ("rejected", False)):
                key = (row["question_id"], row[f"{side}_agent"], row[f"{side}_round"])
                assert known[key] == (row["prompt"], row[side], label)
            found.append((key, row["chosen_agent"], row["chosen_round"]))
            continue
        key = (row["question_id"], row["agent"], row["round"])
        prompt, text = (m["content"] for m in row["messages"]) if format == "messages" else (row["prompt"], row["completion"])
        assert known[key] == (prompt, text, row.get("label", True))
        found.append(key)
    assert done.rows == len(rows) == len(set(found))


def test_the_recorded_debates_give_every_node_and_every_pair_once(recorded: list[Mag], tmp_path: Path) -> None:
    labels = [Counter(label for (q, _, _), (_, _, label) in taught([m]).items()) for m in recorded]
    right, wrong = sum(one[True] for one in labels), sum(one[False] for one in labels)
    pairs = sum(one[True] * one[False] for one in labels)
    counts = {name: len(export(recorded, tmp_path / f"{name}.jsonl", name)[1]) for name in EXPORTS}
    assert counts == {"messages": right, "prompt-completion": right, "preference": pairs, "unpaired": right + wrong}
    assert counts == {"messages": 451, "prompt-completion": 451, "preference": 164, "unpaired": 590}


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("format", list(EXPORTS))
def test_columns_have_the_names_and_types_that_trainers_expect(tmp_path: Path, format: str, conversational: bool) -> None:
    rows = export([mag(RIGHT, WRONG)], tmp_path / "out.jsonl", format, conversational=conversational)[1]
    wanted = {name: list if conversational and name in SPOKEN else kind for name, kind in COLUMNS[format].items()}
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == wanted
        spoken = [message for value in row.values() if isinstance(value, list) for message in value]
        assert all(set(message) == {"role", "content"} for message in spoken)
        assert [m["role"] for m in row.get("messages", [])] in ([], ["user", "assistant"])
        if conversational and "prompt" in row:
            assert [message["role"] for message in row["prompt"]] == ["user"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("format", list(EXPORTS))
def test_datasets_loads_every_file(tmp_path: Path, format: str, suffix: str) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / f"out{suffix}"
    rows = export([mag(RIGHT, WRONG)], path, format)[1]
    kind = "parquet" if suffix == ".parquet" else "json"
    loaded = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == list(COLUMNS[format])
    assert loaded.to_list() == rows


def test_a_conversation_is_the_question_as_asked_and_the_reply_as_taught(tmp_path: Path) -> None:
    [row] = export([mag(RIGHT)], tmp_path / "out.jsonl", "messages")[1]
    asked, said = row["messages"]
    assert asked["content"] == TASK.prompt(mag(RIGHT).question)
    assert said["content"] == "8 + 5 = 13 – fertig.\nThe answer is 13."
    assert "“8 + 5”" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_what_has_nothing_to_teach_is_left_out_and_counted(tmp_path: Path) -> None:
    mags = [mag(RIGHT, WRONG, UNPARSED, SILENT), mag(node("a", "8.", "8", None), identity="unlabelled")]
    mags += [mag(RIGHT, split="test", identity="held-out"), mag(RIGHT, identity="easy")]
    done, rows = export(mags, tmp_path / "p.jsonl", "preference")
    assert [(row["chosen"][:5], row["rejected"]) for row in rows] == [
        ("8 + 5", "8 + 5 = 14.\nThe answer is 14."),
        ("8 + 5", "No idea."),
    ]
    assert done.left_out == {
        "nodes with no reasoning left to teach": 1,
        "graphs without labels": 1,
        "graphs of the split test": 1,
        "graphs with no pair of a correct and an incorrect node": 1,
    }
    assert export(mags, tmp_path / "m.jsonl", "messages")[0].left_out["incorrect nodes"] == 2


def test_held_out_questions_are_written_only_when_asked_for(tmp_path: Path) -> None:
    mags = [mag(RIGHT), mag(RIGHT, split="test", identity="held-out")]
    splits = {
        name: [r["split"] for r in export(mags, tmp_path / f"{name}.json", "messages", split=name)[1]] for name in ("test", "all")
    }
    assert splits == {"test": ["test"], "all": ["train", "test"]}
    assert [row["split"] for row in export(mags, tmp_path / "out.json", "messages")[1]] == ["train"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"format": "alpaca"}, "--format must be one of messages"),
        ({"format": "messages", "split": "valid"}, "--split must be one of train"),
        ({"format": "messages", "split": "dev"}, "found none for --format messages: 1 graphs of the split train"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path, settings: dict[str, str], complaint: str) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(GraphError, match=complaint):
            export_mags([mag(RIGHT)], TASK, tmp_path / f"out{suffix}", **settings)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"--out must end in one of \.jsonl"):
        export_mags([mag(RIGHT)], TASK, tmp_path / "out.csv", format="messages")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_and_a_failed_export_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(GraphError, match="exists already"):
        export_mags([mag(RIGHT)], TASK, tmp_path / "out.jsonl", format="messages")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    damaged = (replace(mag(RIGHT), question=None) for _ in range(1))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        export_mags(damaged, TASK, tmp_path / "new.jsonl", format="messages", split="all")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]

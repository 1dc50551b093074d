"""Published debates and question files, as targets. Samples are made up here; beginnings of real files stand beside them."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.config.sections import FileTask
from magdi_ray.errors import GraphError, TaskError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import import_debates
from magdi_ray.graph.schema import MAG_SCHEMA, Mag
from magdi_ray.graph.store import iter_questions as mag_questions
from magdi_ray.graph.store import read_mags, to_row, write_mags
from magdi_ray.tasks.load import TASKS, BadRow, iter_questions
from magdi_ray.tasks.source import read_rows
from tests.fuzz.target import Feed, Target, file_fed

DATA = Path(os.environ.get("MAGDI_DATA") or Path(__file__).parents[3] / "shared" / "data")
"""Published files; without them the samples made up here are all there are."""

CHAT = [
    {"role": "user", "content": "How many eggs?"},
    {"role": "assistant", "content": "16 - 3 = 13. The answer is 13."},
    {"role": "user", "content": "One agent solution: ```The answer is 12.```"},
    {"role": "assistant", "content": "Still \\boxed{13}."},
]
OUTPUT = {"reasoning": "16 - 3 = 13.", "answer": "13", "confidence_level": 0.9}
GOLD = "16 - 3 = <<16-3=13>>13\n#### 13"
FORD = {
    "Q": "Would a pear sink in water?",
    "A": "no",
    "O": "None",
    "R": [
        {"role": "system", "content": "Debate."},
        *({"role": "user", "content": f"{word}, it floats."} for word in ("No", "Yes")),
    ],
    "P": ["None", "yes", "no"],
    "M": ["system", "chatgpt", "davinci"],
}
MADE: dict[str, tuple[str, str, object]] = {
    "society": ("gsm_2_2.json", "gsm8k", {"How many eggs?": [[CHAT, CHAT], GOLD]}),
    "reconcile": (
        "r.json",
        "gsm8k",
        [{"question": "How many eggs?", "gold_answer": "13", "claude_output_0": OUTPUT, "bard_output_0": OUTPUT,
        "gpt3_output_1": OUTPUT}],
    ),
    "magdi": ("m.json", "gsm8k", [{"question": "How many eggs?", "gold_answer": "13", "gpt4_output_0": OUTPUT,
    "bard_output_1": OUTPUT}]),
    "llm_agora": (
        "gsm_result.json",
        "gsm8k",
        [{"question": "How many eggs?", "agent_response": {"llama": ["13", "13"], "orca": ["12 USER: 4", ""]}, "answer": GOLD}],
    ),
    "eot": (
        "Sample_CSQA_EoT_m.jsonl",
        "commonsenseqa",
        {"question": "Why?\nAnswer Choices: (A) to be (B) not (C) a (D) b (E) c", "answer": "A", "response_list": ["So (A).",
        "(B)"]},
    ),
    "i2i": (
        "GSM8K_v2.json",
        "gsm8k",
        {"results": [{"question": "How many eggs?", "ground_truth": "13", "consensus_answers": {"x/y": "She has **13**.",
        "z": "takes 8/2 ="}}]},
    ),
    "convincing": (
        "bard.json",
        "commonsenseqa",
        [
            {
                "train_sample": {"question": "Why?", "options": ["to be", "not", "a", "b", "c"], "answer": "4",
                "gold_explanation": "So."},
                "prediction_pre": {"answer_reasoning": "I think.", "answer": "3", "confidence_level": "0.9"},
                "prediction_post": {"answer_reasoning": ["I", "see."], "answer": "4", "confidence_level": 0.9},
            }
        ],
    ),
}  # fmt: skip
REAL = {
    "society": ("du_gsm/gsm_3_2_100.json", "slm_gsm/gsm_Llama-3.2-3B_persona_kantian+cosmic+renaissance_agents3_rounds3.json"),
    "llm_agora": ("llm_agora/gsm_result.json",),
    "eot": ("eot/Sample_CSQA_EoT_gpt-3.5-turbo-0301.jsonl",),
    "i2i": ("i2i/GSM8K_v2_20260131_020056.json",),
    "convincing": ("reconcile_convincing/ECQA/bard.json",),
}
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many eggs?", "answer": GOLD},
    "math": {"problem": "What is $\\frac{1}{2}$?", "level": "Level 1", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
    "strategyqa": {"qid": "2bc9", "question": "Would a pear sink?", "answer": True, "facts": ["Pears float."]},
    "commonsenseqa": {
        "id": "1",
        "question": {"stem": "Why?", "choices": [{"label": label, "text": f"t{label}"} for label in "ABCDE"]},
        "answerKey": "B",
    },
    "arc": {"id": "M_1", "question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "2"},
    "boolq": {"question": "is it so", "passage": "It is so.", "answer": True},
    "svamp": {"ID": "chal-1", "Body": "Each pack costs 76 dollars.", "Question": "How much is it?", "Answer": 51.0},
    "aqua": {
        "question": "How far?",
        "options": ["A)21", "B)21.5", "C)22", "D)22.5", "E)23"],
        "rationale": "So E.",
        "correct": "E",
    },
    "ecare": {"Q": "Otters enter. What happened?", "A": "(A)", "O": "(A) They look for food. (B) They drink."},
}


def excerpt(path: Path, most: int = 20_000) -> bytes | None:
    """The first records of a published file, whole; None where there is none."""
    if not path.is_file():
        return None
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            return b"".join(islice(lines, 3))[:most]
    held = json.loads(path.read_bytes())
    if isinstance(held, list):
        return json.dumps(held[:2]).encode()
    few = {name: value[:2] if isinstance(value, list) else value for name, value in list(held.items())[:2]}
    return json.dumps(held | {"results": held["results"][:2]} if "results" in held else few).encode()


def targets() -> Iterator[Target]:
    """All of them."""
    for format, (name, task, held) in MADE.items():
        real = (excerpt(DATA / "debates" / file) for file in REAL.get(format, ()))
        sample = json.dumps(held).encode() + (b"\n" if name.endswith("l") else b"")
        yield Target(f"debates: {format}", _imports(format, name, task), (sample, *filter(None, real)), errors=(GraphError,))
    line = json.dumps(FORD).encode() + b"\n"
    yield Target("debates: ford", _ford, (line, line + line), errors=(GraphError,))
    graphs = (_mags(), json.dumps([to_row(mag) for mag in made()]).encode())
    yield Target("graphs: mag (parquet)", _as_parquet("mags.parquet", _graphs, NULLABLE), graphs, errors=(GraphError,))
    for task, row in ROWS.items():
        samples = (
            json.dumps(row).encode() + b"\n",
            json.dumps([row, row]).encode(),
            json.dumps({"x": 1, "data": [row]}).encode(),
        )
        for suffix in (".jsonl", ".json"):
            yield Target(f"questions: {task} {suffix}", _questions(task, suffix), samples, errors=(TaskError,))
    csv = b'id,question,answer\nq1,"Janet has 16 eggs\nand eats 3. How many?",#### 13\nq2,How many legs?,#### 8\n'
    yield Target("questions: gsm8k .csv", _questions("gsm8k", ".csv"), (csv,), (b'"', b",", b"\r", b'""'), errors=(TaskError,))
    named = pa.Table.from_pylist([{**ROWS["boolq"], "answer": 1}])
    noted = named.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"answer": {"names": ["no", "yes"]}}}})}
    )
    parquet = (written(noted), json.dumps([ROWS["boolq"]]).encode(), json.dumps([{**ROWS["boolq"], "answer": None}]).encode())
    feed = _as_parquet("questions.parquet", partial(_read_questions, "boolq"))
    yield Target("questions: boolq .parquet", feed, parquet, (b"names", b"info", b"features"), errors=(TaskError,))
    yield Target("questions: a folder of .json", _folder, (json.dumps(ROWS["math"]).encode(),), errors=(TaskError,))


def _imports(format: str, name: str, task: str) -> Feed:
    def read(path: Path) -> None:
        judge = TASKS[task]()
        found = import_debates(format, path, judge)
        mags = [build_mag(debate, judge) for debate in found.debates]
        assert read_mags(write_mags(path.parent / "written.parquet", mags)) == mags  # what is imported can be kept
        for skipped in found.skipped:
            assert skipped.reason
            str(skipped).encode(errors="replace")

    return file_fed(name, read)


def _ford(data: bytes, directory: Path) -> None:
    for round_, part in enumerate(data.split(b"\n\n")):
        folder = directory / "debate_chatgpt_davinci" / (f"round{round_}" if not round_ else f"round{round_}_chatgpt")
        folder.mkdir(parents=True)
        (folder / "strategyqa_agreed.jsonl").write_bytes(part)
    try:
        judge = TASKS["strategyqa"]()
        found = import_debates("ford", directory / "debate_chatgpt_davinci", judge)
        write_mags(directory / "written.parquet", [build_mag(debate, judge) for debate in found.debates])
    finally:
        shutil.rmtree(directory / "debate_chatgpt_davinci")


def _graphs(path: Path) -> None:
    mags = read_mags(path)
    assert [question.id for question in mag_questions(path)] == [mag.question.id for mag in mags]
    write_mags(path.with_name("again.parquet"), mags)


def made() -> list[Mag]:
    judge = TASKS["gsm8k"]()
    name, _, held = MADE["llm_agora"]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / name).write_text(json.dumps(held))
        return [build_mag(debate, judge) for debate in import_debates("llm_agora", Path(directory) / name, judge).debates]


def _mags() -> bytes:
    return written(pa.Table.from_pylist([to_row(mag) for mag in made()], schema=MAG_SCHEMA))


def _nullable(field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_nullable(kind.field(place)) for place in range(kind.num_fields)])
    elif pa.types.is_list(kind):
        kind = pa.list_(_nullable(kind.value_field))
    return pa.field(field.name, kind)


NULLABLE = pa.schema([_nullable(field) for field in MAG_SCHEMA], metadata=MAG_SCHEMA.metadata)
"""The columns of graphs, in which nothing has to be there."""


def _as_parquet(name: str, read: Callable[[Path], object], schema: pa.Schema | None = None) -> Feed:
    """Rows that come as JSON are written as parquet, where such a file can hold them; all else is read as it is."""
    feed = file_fed(name, read)

    def convert(data: bytes, directory: Path) -> None:
        if data[:1] in (b"[", b"{"):
            try:
                held = json.loads(data)
                data = written(pa.Table.from_pylist(held if isinstance(held, list) else [held], schema=schema))
            except (ValueError, TypeError, AttributeError, RecursionError, OverflowError, pa.ArrowException):
                return
        feed(data, directory)

    return convert


def _questions(task: str, suffix: str) -> Feed:
    return file_fed(f"questions{suffix}", partial(_read_questions, task))


def _read_questions(task: str, path: Path) -> None:
    skipped = list[BadRow]()
    section: Any = {"name": task, "path": str(path)}
    for question in iter_questions(FileTask(**section, bad_rows="skip"), skipped=skipped.append):
        (question.id + question.text + (question.gold or "") + (question.solution or "")).encode()
    assert all(len(bad.reason) < 1000 for bad in skipped)
    list(iter_questions(FileTask(**section)))


def _folder(data: bytes, directory: Path) -> None:
    folder = directory / "algebra"
    folder.mkdir()
    try:
        for number, part in enumerate(data.split(b"\n\n")[:5]):
            (folder / f"{number}.json").write_bytes(part)
        for _, row in read_rows(str(folder), split="train"):
            assert isinstance(row, dict | ValueError)
    finally:
        shutil.rmtree(folder)


def written(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="none")
    return stream.getvalue()

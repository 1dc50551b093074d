"""Graphs as training files of other trainers: every format is one function of one signature. Knows no trainer's code.

The texts are those the student is taught (`magdi_ray.graph.text`). One row of each format, as JSON lines:

    messages           {"messages": [{"role": "user", "content": "Natalia sold clips ..."},
                                     {"role": "assistant", "content": "48 / 2 = 24 ...\\nThe answer is 72."}],
                        "question_id": "gsm8k-8a1f", "agent": "ada", "round": 0, "split": "train"}
    prompt-completion  {"prompt": "Natalia sold clips ...", "completion": "48 / 2 = 24 ...\\nThe answer is 72.", ...}
    preference         {"prompt": "Natalia sold ...", "chosen": "... The answer is 72.", "rejected": "... The answer is 70.",
                        "question_id": "gsm8k-8a1f", "chosen_agent": "ada", "chosen_round": 0,
                        "rejected_agent": "ben", "rejected_round": 1, "split": "train"}
    unpaired           {"prompt": "Natalia sold clips ...", "completion": "... The answer is 70.", "label": false, ...}

The columns behind the texts say where a row comes from; trainers ignore them. A conversational row holds lists of messages in
place of the texts of `prompt`, `completion`, `chosen` and `rejected`. Whatever has nothing to teach is left out and counted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from magdi_ray.errors import GraphError
from magdi_ray.graph.schema import Mag, Node
from magdi_ray.graph.text import student_reply
from magdi_ray.tasks.base import SPLITS, Task

Row = dict[str, Any]
Books = Counter[str]
"""What was left out, by reason."""
Export = Callable[[Iterable[Mag], Task, Books], Iterator[Row]]

SUFFIXES = (".jsonl", ".json", ".parquet")
ROWS_PER_GROUP = 1024
SPEAKERS = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, and what it left out."""

    rows: int
    left_out: dict[str, int] = field(default_factory=dict)


def messages(mags: Iterable[Mag], task: Task, left_out: Books) -> Iterator[Row]:
    """One conversation a correct node."""
    for mag, node, text in _correct(mags, task, left_out):
        yield {"messages": [_said("prompt", task.prompt(mag.question)), _said("completion", text)], **_origin(mag, node)}


def prompt_completion(mags: Iterable[Mag], task: Task, left_out: Books) -> Iterator[Row]:
    """One prompt and completion a correct node."""
    for mag, node, text in _correct(mags, task, left_out):
        yield {"prompt": task.prompt(mag.question), "completion": text, **_origin(mag, node)}


def preference(mags: Iterable[Mag], task: Task, left_out: Books) -> Iterator[Row]:
    """Every pair of a correct and an incorrect node of one graph."""
    for mag, nodes in _labelled(mags, task, left_out):
        right = [(node, text) for node, text in nodes if node.correct]
        wrong = [(node, text) for node, text in nodes if not node.correct]
        left_out["graphs with no pair of a correct and an incorrect node"] += not (right and wrong)
        for chosen, better in right:
            for rejected, worse in wrong:
                yield {
                    "prompt": task.prompt(mag.question),
                    "chosen": better,
                    "rejected": worse,
                    "question_id": mag.question.id,
                    "chosen_agent": chosen.agent,
                    "chosen_round": chosen.round,
                    "rejected_agent": rejected.agent,
                    "rejected_round": rejected.round,
                    "split": mag.question.split,
                }


def unpaired(mags: Iterable[Mag], task: Task, left_out: Books) -> Iterator[Row]:
    """One prompt and completion a labelled node, with its label."""
    for mag, nodes in _labelled(mags, task, left_out):
        for node, text in nodes:
            yield {"prompt": task.prompt(mag.question), "completion": text, "label": bool(node.correct), **_origin(mag, node)}


EXPORTS: dict[str, Export] = {
    "messages": messages,
    "prompt-completion": prompt_completion,
    "preference": preference,
    "unpaired": unpaired,
}
"""The formats by the name the command line gives them."""


def export_mags(
    mags: Iterable[Mag], task: Task, out: Path, *, format: str, split: str = "train", conversational: bool = False
) -> Exported:
    """Write graphs of one split ("all": of every split) as a training file: `.jsonl`, `.json` (one array) or `.parquet`.

    Rows are written as they come, under a temporary name; the file is complete when it exists.

    Raises:
        GraphError: there is no such format, split or file ending, the file exists, or there is no row to write.
    """
    if format not in EXPORTS:
        raise GraphError(f"--format must be one of {', '.join(EXPORTS)}; found {format!r}.")
    if split != "all" and split not in SPLITS:
        raise GraphError(f"--split must be one of {', '.join(SPLITS)} or all; found {split!r}.")
    if out.suffix not in SUFFIXES:
        raise GraphError(f"--out must end in one of {', '.join(SUFFIXES)}; found {str(out)!r}.")
    if out.exists():
        raise GraphError(f"{out} exists already; choose another --out.")
    left_out: Books = Counter()
    rows = EXPORTS[format](_of_split(mags, split, left_out), task, left_out)
    count = _write(out, map(_as_conversation, rows) if conversational else rows)
    books = dict(+left_out)
    if not count:
        reasons = ", ".join(f"{number} {reason}" for reason, number in books.items()) or "there is no graph"
        raise GraphError(f"at least one row is required, found none for --format {format}: {reasons}. Nothing was written.")
    return Exported(count, books)


def _of_split(mags: Iterable[Mag], split: str, left_out: Books) -> Iterator[Mag]:
    for mag in mags:
        if split in ("all", mag.question.split):
            yield mag
        else:
            left_out[f"graphs of the split {mag.question.split}"] += 1


def _labelled(mags: Iterable[Mag], task: Task, left_out: Books) -> Iterator[tuple[Mag, list[tuple[Node, str]]]]:
    """The graphs that have labels, with the nodes that have something to teach."""
    for mag in mags:
        if mag.labels == "none":
            left_out["graphs without labels"] += 1
            continue
        own = [node for node in mag.nodes if node.role == "debater"]
        left_out["nodes of other roles than debaters"] += len(mag.nodes) - len(own)
        texts = [(node, student_reply(task, node)) for node in own]
        taught = [(node, text) for node, text in texts if text is not None]
        left_out["nodes with no reasoning left to teach"] += len(texts) - len(taught)
        yield mag, taught


def _correct(mags: Iterable[Mag], task: Task, left_out: Books) -> Iterator[tuple[Mag, Node, str]]:
    for mag, nodes in _labelled(mags, task, left_out):
        for node, text in nodes:
            if node.correct:
                yield mag, node, text
            else:
                left_out["incorrect nodes"] += 1


def _origin(mag: Mag, node: Node) -> Row:
    return {"question_id": mag.question.id, "agent": node.agent, "round": node.round, "split": mag.question.split}


def _said(column: str, text: str) -> dict[str, str]:
    return {"role": SPEAKERS[column], "content": text}


def _as_conversation(row: Row) -> Row:
    return {name: [_said(name, value)] if name in SPEAKERS else value for name, value in row.items()}


def _write(out: Path, rows: Iterator[Row]) -> int:
    """Write a file at once or not at all; returns the number of rows."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        count = (_write_parquet if out.suffix == ".parquet" else _write_json)(temporary, rows, out.suffix)
        if count:
            os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_json(path: Path, rows: Iterator[Row], suffix: str) -> int:
    opening, between, closing = ("[\n", ",\n", "\n]\n") if suffix == ".json" else ("", "\n", "\n")
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):
            file.write((between if count > 1 else opening) + json.dumps(row, ensure_ascii=False))
        file.write(closing)
    return count


def _write_parquet(path: Path, rows: Iterator[Row], suffix: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    del suffix  # one signature for both writers
    first = list(islice(rows, 1))
    if not first:
        return 0
    schema = pa.Table.from_pylist(first).schema  # no column of any format is ever null, so one row shows every type
    count, source = 0, chain(first, rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(source, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count

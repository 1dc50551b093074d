"""The tokenised graphs on disk: written once, read by every worker through a memory map. Knows no Ray and no tokenizer.

A directory holds

    part-00000.arrow ...    Arrow IPC files, uncompressed, in the columns of `UNIT`: one row a unit of work
    index.parquet           one row a unit in the columns of `INDEX`: what planning needs to know, and where the unit lies
    tokens.json             what was kept and left out (`TokenFacts`), and each part's bytes; written last, when the rest is whole

A worker holds the index; token ids stay on disk and are paged in where a batch needs them, so its memory does not grow with them.
"""

from __future__ import annotations

import heapq
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from magdi_ray.agents.base import derive_seed
from magdi_ray.distill.job import Job
from magdi_ray.distill.plan import GraphSize, measure_lengths
from magdi_ray.distill.teaching import Lesson, plain
from magdi_ray.distill.tokens import GraphTokens, NodeTokens, TokenisedGraphs, node_key, node_position
from magdi_ray.errors import ConfigError, GraphError
from magdi_ray.graph.store import iter_questions
from magdi_ray.storage import delivered, fetched, listing, read_text, write_text
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.checks import fingerprint

Use = Literal["train", "dev"]
"""What a unit is for: to be learned from, or to be measured on."""
USES: tuple[Use, ...] = get_args(Use)

INDEX_FILE = "index.parquet"
MARKER = "tokens.json"
FORMAT = 4
"""Raised whenever files of before would be misread, or other units would be made of the same graphs."""
INDEX_ROWS = 4096
"""Rows of the index turned into Python values at a time."""

UNIT = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("reply_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("correct", pa.list_(pa.bool_()), nullable=False),
        pa.field("positions", pa.list_(pa.int32()), nullable=False),
        pa.field("sources", pa.list_(pa.int32()), nullable=False),
        pa.field("targets", pa.list_(pa.int32()), nullable=False),
        pa.field("types", pa.list_(pa.int32()), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("compared", pa.list_(pa.bool_()), nullable=False),
        pa.field("weights", pa.list_(pa.float64()), nullable=False),
        pa.field("starts", pa.list_(pa.int32()), nullable=False),
    ]
)
"""A `GraphTokens`; edges run from `sources[i]` to `targets[i]`, and `weights` and `starts` are what is taught of each node."""

INDEX = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("replies", pa.list_(pa.int32()), nullable=False),
        pa.field("correct", pa.list_(pa.bool_()), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("weights", pa.list_(pa.float64()), nullable=False),
        pa.field("starts", pa.list_(pa.int32()), nullable=False),
        pa.field("file", pa.int32(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
"""`position` is the first node's; `prompt` and `replies` are lengths in tokens; file, batch and row say where the unit lies."""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a dataset holds, and the books of what it does not (`magdi_ray.distill.tokens`)."""

    graphs: int = 0
    """Questions something is learned from; where every node is a unit of its own, fewer than units."""
    nodes: int = 0
    skipped_nodes: dict[str, int] = field(default_factory=dict)
    skipped_graphs: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    dev: TokenFacts | None = None
    """The same of what is measured on; None where nothing is."""

    @classmethod
    def of(cls, done: TokenisedGraphs) -> TokenFacts:
        """Of the units that whole graphs gave."""
        questions = {graph.question_id for graph in done.graphs}
        nodes = sum(len(graph.nodes) for graph in done.graphs)
        return cls(len(questions), nodes, done.skipped_nodes, done.skipped_graphs, done.notes)

    @classmethod
    def read(cls, values: dict[str, Any]) -> TokenFacts:
        """The inverse of `asdict`."""
        return cls(**values | {"dev": None if values["dev"] is None else cls.read(values["dev"])})

    def __add__(self, other: TokenFacts) -> TokenFacts:
        dev = [facts.dev for facts in (self, other) if facts.dev is not None]
        return TokenFacts(
            self.graphs + other.graphs,
            self.nodes + other.nodes,
            _sum(self.skipped_nodes, other.skipped_nodes),
            _sum(self.skipped_graphs, other.skipped_graphs),
            _sum(self.notes, other.notes),
            sum(dev[1:], dev[0]) if dev else None,
        )


def _sum(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    total = Counter(left)
    total.update(right)
    return dict(sorted(total.items()))


def hold_out(questions: Iterable[Question], count: int, *, seed: int) -> frozenset[str]:
    """Ids of `count` training questions to measure on, by a seeded hash of their text: the same ones in whatever order they come.

    Raises:
        ConfigError: as many or more than there are are asked for.
    """
    hashed = [(derive_seed(seed, "dev", fingerprint(q)), q.id) for q in questions if q.split == "train"]
    first = heapq.nsmallest(count, hashed)
    # With all that have its text: a twin of a question that is measured on may not be learned from.
    chosen = frozenset(name for place, name in hashed if first and place <= first[-1][0])
    if len(chosen) >= len(hashed):
        raise ConfigError(
            f"distil.dev.graphs holds out {count} graphs, but there are only {len(hashed)} of training questions, and at least "
            "one has to be left to learn from. Ask for fewer."
        )
    return chosen


def dev_questions(job: Job) -> frozenset[str]:
    """Ids of the questions that are measured on, the same for all recipes of a run.

    Raises:
        ConfigError: there are none, or too few graphs to hold some out.
    """
    if job.dev is None:
        return frozenset()
    if job.dev.graphs:
        return hold_out(iter_questions(fetched(job.graphs)), job.dev.graphs, seed=job.seed)
    found = frozenset(question.id for question in iter_questions(fetched(job.graphs)) if question.split == "dev")
    if not found:
        raise ConfigError(
            "distil.dev measures on the graphs of dev questions, and there are none. Hold out training graphs for it with "
            "distil.dev.graphs=N, or give the task dev questions."
        )
    return found


class PartWriter:
    """Writes one part file, some units at a time; the file appears when it is whole.

    A file that is written again, by a second attempt at the same work, replaces the first with the same content.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self._target = part_path(directory, number)
        self._temporary = self._target.with_name(f".{self._target.name}.{os.getpid()}.tmp")
        self._batches = 0
        self._index: list[dict[str, Any]] = []

    def __enter__(self) -> PartWriter:
        self._stream = pa.OSFile(str(self._temporary), "wb")
        self._writer = pa.ipc.new_file(self._stream, UNIT)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._writer.close()
        self._stream.close()
        if error is None:
            os.replace(self._temporary, self._target)
        else:
            self._temporary.unlink(missing_ok=True)

    def add(self, split: Use, graphs: Sequence[GraphTokens]) -> None:
        """Write some units as one record batch."""
        if not graphs:
            return
        rows = [_to_row(graph) for graph in graphs]
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=UNIT))
        place = {"split": split, "file": self.number, "batch": self._batches}
        self._index += [place | _sizes_of(row) | {"row": number} for number, row in enumerate(rows)]
        self._batches += 1

    @property
    def index(self) -> list[dict[str, Any]]:
        """Rows of `INDEX`, one a unit that was written."""
        return self._index


def part_path(directory: Path, number: int) -> Path:
    """Where a part lies."""
    return directory / part_name(number)


def part_name(number: int) -> str:
    """The file of a part."""
    return f"part-{number:05d}.arrow"


def _to_row(graph: GraphTokens) -> dict[str, Any]:
    return {
        "question_id": graph.question_id,
        "prompt_ids": graph.prompt_ids,
        "reply_ids": [node.reply_ids for node in graph.nodes],
        "correct": [node.correct for node in graph.nodes],
        "positions": [node_position(node.key) for node in graph.nodes],
        "sources": [source for source, _ in graph.edges],
        "targets": [target for _, target in graph.edges],
        "types": graph.types,
        "weight": graph.weight,
        "compared": graph.compared,
        "weights": [node.taught.weight for node in graph.nodes],
        "starts": [node.taught.start for node in graph.nodes],
    }


def _from_row(row: dict[str, Any]) -> GraphTokens:
    columns = zip(row["reply_ids"], row["correct"], row["positions"], row["weights"], row["starts"], strict=True)
    return GraphTokens(
        row["question_id"],
        tuple(row["prompt_ids"]),
        tuple(
            NodeTokens(tuple(ids), right, node_key(row["question_id"], place), _lesson(right, Lesson(weight, start)))
            for ids, right, place, weight, start in columns
        ),
        tuple(zip(row["sources"], row["targets"], strict=True)),
        tuple(row["types"]),
        row["weight"],
        tuple(row["compared"]),
    )


def _lesson(correct: bool, found: Lesson) -> Lesson | None:
    return None if found == plain(correct) else found


def _sizes_of(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "question_id": row["question_id"],
        "position": row["positions"][0],
        "prompt": len(row["prompt_ids"]),
        "replies": [len(ids) for ids in row["reply_ids"]],
        "correct": row["correct"],
        "weight": row["weight"],
        "weights": row["weights"],
        "starts": row["starts"],
    }


def commit(place: Path | str, index: pa.Table, facts: TokenFacts) -> None:
    """Write the index, in order of question and position, and then the marker. All parts the index names must be there."""
    ordered = index.sort_by([("split", "ascending"), ("question_id", "ascending"), ("position", "ascending")])
    with delivered(str(place)) as directory:
        temporary = directory / f".{INDEX_FILE}.{os.getpid()}.tmp"
        pq.write_table(ordered, temporary, compression="zstd")
        os.replace(temporary, directory / INDEX_FILE)
    sizes = listing(str(place))
    names = [part_name(number) for number in sorted(pc.unique(index["file"]).to_pylist())]
    marker = {"format": FORMAT, "parts": {name: sizes[name] for name in names}, "facts": asdict(facts)}
    write_text(f"{place}/{MARKER}", json.dumps(marker, indent=1))


def is_complete(place: Path | str) -> bool:
    """Whether a directory or URL holds a whole dataset: the marker, and every part it names in its size."""
    text = read_text(f"{place}/{MARKER}")
    if text is None:
        return False
    sizes, parts = listing(str(place)), json.loads(text)["parts"]
    return INDEX_FILE in sizes and all(sizes.get(name) == size for name, size in parts.items())


class TokenStore:
    """The tokenised graphs of one directory. Units of a split are numbered from 0, by question id, then by position.

    Opened by each process for itself: it holds the index in memory and the parts by memory map. Threads may share it.
    """

    def __init__(self, directory: Path) -> None:
        """Open a directory.

        Raises:
            GraphError: it holds no whole dataset.
        """
        if not is_complete(directory):
            raise GraphError(
                f"whole tokenised graphs are required, found none at {directory}: their making was broken off, or a part of them "
                "is lost. Train again: they are made anew."
            )
        self.directory = directory
        self._files: dict[int, Any] = {}
        self._lock = threading.Lock()

    @cached_property
    def facts(self) -> TokenFacts:
        """What is held and what was left out."""
        return TokenFacts.read(json.loads((self.directory / MARKER).read_text(encoding="utf-8"))["facts"])

    @cached_property
    def _index(self) -> dict[Use, pa.Table]:
        table = pq.read_table(self.directory / INDEX_FILE, schema=INDEX)
        return {use: table.filter(pc.equal(table["split"], use)).drop_columns("split").combine_chunks() for use in USES}

    @cached_property
    def _places(self) -> dict[Use, NDArray[np.int32]]:
        columns = ("file", "batch", "row")
        return {use: np.stack([table[name].to_numpy() for name in columns], axis=1) for use, table in self._index.items()}

    def question_ids(self, split: Use) -> list[str]:
        """The question of every unit; one that several units share is named as often."""
        names: list[str] = self._index[split]["question_id"].to_pylist()
        return names

    def sizes(self, split: Use, *, next_token: bool, loss_on_prompt: bool, packed: bool) -> tuple[GraphSize, ...]:
        """The size of every unit under a recipe, as `magdi_ray.distill.plan.measure` would find it."""
        switches = {"next_token": next_token, "loss_on_prompt": loss_on_prompt, "packed": packed}
        columns = ("prompt", "replies", "correct", "weight", "weights", "starts")
        return tuple(
            measure_lengths(prompt, replies, correct, weight=weight, lessons=list(zip(weights, starts, strict=True)), **switches)
            for rows in self._index[split].select(columns).to_batches(max_chunksize=INDEX_ROWS)
            for prompt, replies, correct, weight, weights, starts in zip(
                *(rows.column(name).to_pylist() for name in columns), strict=True
            )
        )

    def graph(self, split: Use, index: int) -> GraphTokens:
        """One unit, read from its part."""
        file, batch, row = map(int, self._places[split][index])
        with self._lock:
            rows = self._part(file).get_batch(batch)
        return _from_row(rows.slice(row, 1).to_pylist()[0])

    def _part(self, number: int) -> Any:
        if number not in self._files:
            self._files[number] = pa.ipc.open_file(pa.memory_map(str(part_path(self.directory, number))))
        return self._files[number]

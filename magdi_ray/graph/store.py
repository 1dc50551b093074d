"""MAG files: graphs in parquet, one row a graph, in the columns of `magdi_ray.graph.schema.MAG_SCHEMA`.

A file is complete when it exists: it is written under a temporary name and renamed. Every graph is checked when it is written
and again when it is read. A directory is read as all of its `*.parquet` files in the order of their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.debate.transcript import ConfidenceSource, Role, Status
from magdi_ray.errors import GraphError
from magdi_ray.graph.schema import EDGE, EDGE_TYPES, MAG_SCHEMA, NODE, SCHEMA_VERSION, Edge, LabelSource, Mag, Node, edge_type
from magdi_ray.tasks.base import SPLITS, Question

FILE_NAME = "mags.parquet"
"""What a MAG file is called when only its directory is given."""
ROWS_PER_GROUP = 256
"""Graphs held in memory at a time, when writing and when reading."""
ALWAYS = {
    place: [field.name for field in held if not field.nullable]
    for place, held in (("", MAG_SCHEMA), ("nodes", NODE), ("edges", EDGE))
}
"""Columns that are never null: of a graph, of its nodes and of its edges."""
LONGEST = 300
"""Characters of what is said of a graph that contradicts itself."""
NODE_FIELDS, EDGE_FIELDS = ([field.name for field in fields(kind)] for kind in (Node, Edge))


def write_mags(path: Path | str, mags: Iterable[Mag]) -> Path:
    """Write a MAG file (zstd) and return its path: `path` itself where it ends in .parquet, else `path/mags.parquet`.

    Graphs are drawn from the iterable `ROWS_PER_GROUP` at a time. An existing file is replaced when the new one is complete.

    Raises:
        GraphError: a graph that could not be read back, or two of one question. The old file, if any, is untouched.
    """
    target = Path(path) if Path(path).suffix == ".parquet" else Path(path) / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    source, seen = iter(mags), set[str]()
    try:
        with pq.ParquetWriter(temporary, MAG_SCHEMA, compression="zstd") as writer:
            while batch := list(islice(source, ROWS_PER_GROUP)):
                for mag in batch:
                    _check(mag, str(target), seen)
                writer.write_table(pa.Table.from_pylist([to_row(mag) for mag in batch], schema=MAG_SCHEMA))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_mags(path: Path | str) -> list[Mag]:
    """All graphs of a MAG file or directory. Raises what `iter_mags` raises."""
    return list(iter_mags(path))


def iter_mags(path: Path | str) -> Iterator[Mag]:
    """The graphs of a MAG file or directory in order, a row group in memory at a time.

    Raises:
        GraphError: nothing there, not a MAG file, written by a newer version, columns missing, or a graph that contradicts
            itself. Versions and columns of all files are checked before the first graph is returned.
    """
    seen = set[str]()
    for group in mag_groups(path):
        yield from read_group(group, seen)


@dataclass(frozen=True, slots=True)
class MagGroup:
    """A row group of a MAG file: what is read at a time."""

    file: str
    number: int
    rows: int


def mag_groups(path: Path | str) -> list[MagGroup]:
    """All row groups of a MAG file or directory, in order; reads only the files' metadata.

    Raises:
        GraphError: nothing there, not a MAG file, written by a newer version, or columns missing, in any of the files.
    """
    groups = []
    for file in _files(Path(path)):
        _check_file(file)
        rows = pq.read_metadata(file)
        groups += [MagGroup(str(file), number, rows.row_group(number).num_rows) for number in range(rows.num_row_groups)]
    return groups


def read_group(group: MagGroup, seen: set[str], *, texts: bool = True) -> Iterator[Mag]:
    """The graphs of a row group, in order. `seen`: ids of the questions read before, to which these are added.

    Without `texts`, `Node.text` is left empty and not read: the largest column, of no use to who reads `Node.reasoning`.

    Raises:
        GraphError: a graph that contradicts itself, a second one of a question, or rows that cannot be read.
    """
    schema = pq.read_metadata(group.file).schema
    leaves = [schema.column(i).path for i in range(len(schema))]
    wanted = [leaf for leaf in leaves if leaf.split(".")[0] in MAG_SCHEMA.names and (texts or not _is_node_text(leaf))]
    for row in _rows(group, wanted):
        if not texts:
            row["nodes"] = [{**node, "text": ""} for node in row["nodes"] or ()]
        if hole := next(_holes(row), None):
            raise GraphError(f"{group.file}: a graph has nothing under {hole}. The file is damaged; write it again.")
        mag = from_row(row)
        _check(mag, group.file, seen)
        yield mag


def _holes(row: Mapping[str, Any]) -> Iterator[str]:
    """Columns of a row that are null where there is always something."""
    yield from (name for name in ALWAYS[""] if row[name] is None)
    yield from ("agents" for agent in row["agents"] or () if agent is None)
    for column in ("nodes", "edges"):
        for item in row[column] or ():
            yield from (f"{column}.{name}" for name in ALWAYS[column] if item is None or item[name] is None)


def _rows(group: MagGroup, columns: list[str]) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(group.file) as parquet:
            rows: list[dict[str, Any]] = parquet.read_row_group(group.number, columns=columns).to_pylist()
            return rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise GraphError(f"{group.file}: its graphs cannot be read ({error}). The file is damaged; write it again.") from error


def iter_questions(path: Path | str) -> Iterator[Question]:
    """The question of every graph, without its solution; reads nothing else. Raises what `mag_groups` raises."""
    for group in mag_groups(path):
        for row in _rows(group, ["question_id", "question", "gold", "split"]):
            yield Question(id=row["question_id"], text=row["question"], gold=row["gold"], split=row["split"])


def check_version(path: Path | str) -> int:
    """The schema version of a MAG file or directory (the newest in it); reads only the files' metadata.

    Raises:
        GraphError: nothing there, not a MAG file, or a version newer than this magdi_ray reads.
    """
    return max(_version(file, _schema(file)) for file in _files(Path(path)))


def to_row(mag: Mag) -> dict[str, Any]:
    """A graph as a row of `MAG_SCHEMA`, in plain Python values."""
    question = mag.question
    return {
        "question_id": question.id,
        "question": question.text,
        "gold": question.gold,
        "split": question.split,
        "protocol": mag.protocol,
        "agents": list(mag.agents),
        "answer": mag.answer,
        "agreement": mag.agreement,
        "stopped": mag.stopped,
        "labels": mag.labels,
        # What `asdict` gives, which copies plain values with great care: half the time of the whole stage.
        "nodes": [{name: getattr(node, name) for name in NODE_FIELDS} for node in mag.nodes],
        "edges": [{name: getattr(edge, name) for name in EDGE_FIELDS} for edge in mag.edges],
        "solution": question.solution,
    }


def from_row(row: Mapping[str, Any]) -> Mag:
    """The graph of a row of `MAG_SCHEMA`; fields of nodes and edges that the schema does not name are left out."""
    return Mag(
        question=Question(row["question_id"], row["question"], row["gold"], row["split"], row.get("solution")),
        protocol=row["protocol"],
        agents=tuple(row["agents"]),
        answer=row["answer"],
        agreement=row["agreement"],
        stopped=row["stopped"],
        labels=row["labels"],
        nodes=tuple(Node(**{field.name: node[field.name] for field in NODE}) for node in row["nodes"]),
        edges=tuple(Edge(**{field.name: edge[field.name] for field in EDGE}) for edge in row["edges"]),
    )


def faults(mag: Mag) -> Iterator[str]:
    """What is wrong with a graph, in words; nothing for a sound one."""
    if mag.question.split not in SPLITS:
        yield f"split {mag.question.split!r} is none of {', '.join(SPLITS)}"
    if mag.labels not in get_args(LabelSource):
        yield f"labels {mag.labels!r} is none of {', '.join(get_args(LabelSource))}"
    rounds = [node.round for node in mag.nodes]
    if rounds != sorted(rounds):
        yield f"nodes must be ordered by round, found rounds {rounds}"
    for index, node in enumerate(mag.nodes):
        yield from (f"node {index}: {fault}" for fault in _node_faults(mag, node))
    for index, edge in enumerate(mag.edges):
        yield from (f"edge {index} ({edge.source} -> {edge.target}): {fault}" for fault in _edge_faults(mag, edge))


def _node_faults(mag: Mag, node: Node) -> Iterator[str]:
    if node.agent not in mag.agents:
        yield f"agent {node.agent!r} is none of {', '.join(mag.agents)}"
    if node.round < 0:
        yield f"round {node.round} is negative"
    if node.role not in get_args(Role):
        yield f"role {node.role!r} is none of {', '.join(get_args(Role))}"
    if node.status not in get_args(Status):
        yield f"status {node.status!r} is none of {', '.join(get_args(Status))}"
    elif (node.status == "unparsed") != (node.answer is None):
        yield f"status {node.status!r} contradicts answer {node.answer!r}: unparsed means exactly that there is no answer"
    if node.confidence_source not in get_args(ConfidenceSource):
        yield f"confidence_source {node.confidence_source!r} is none of {', '.join(get_args(ConfidenceSource))}"
    if node.confidence is not None and not 0.0 <= node.confidence <= 1.0:
        yield f"confidence {node.confidence} is outside [0, 1]"
    if (mag.labels == "none") != (node.correct is None):
        yield f"correct {node.correct!r} contradicts the graph's labels {mag.labels!r}"


def _edge_faults(mag: Mag, edge: Edge) -> Iterator[str]:
    size = len(mag.nodes)
    if not (0 <= edge.source < size and 0 <= edge.target < size):
        yield f"the graph has only {size} nodes"
    elif edge.source >= edge.target:
        yield "an edge runs from an earlier to a later node"
    elif edge.type in EDGE_TYPES and edge.type != edge_type(mag.nodes[edge.source], mag.nodes[edge.target]):
        yield f"type {edge.type!r} contradicts the agents of its nodes and their roles"
    if edge.type not in EDGE_TYPES:
        yield f"type {edge.type!r} is none of {', '.join(EDGE_TYPES)}"


def _check(mag: Mag, place: str, seen: set[str]) -> None:
    fault = next(faults(mag), None)
    if mag.question.id in seen:
        fault = "one graph per question is required, found a second one"
    if fault:
        told = f"question {mag.question.id[:LONGEST]!r}: {fault[:LONGEST]}"
        raise GraphError(f"{place}, {told}. The graph is damaged; write the file again.")
    seen.add(mag.question.id)


def _is_node_text(leaf: str) -> bool:
    return leaf.startswith("nodes.") and leaf.endswith(".text")


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise GraphError(f"a MAG file or a directory of them (*.parquet) is required, found none at {path}. Check the path.")
    return files


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise GraphError(f"{file}: a parquet file of MAGs is required; this cannot be read as parquet ({error}).") from error


def _version(file: Path, schema: pa.Schema) -> int:
    metadata = schema.metadata or {}
    kind, version = (
        metadata.get(key, b"").decode(errors="replace") for key in (b"magdi_ray.schema", b"magdi_ray.schema_version")
    )
    if kind != "mag" or not version.isdecimal():
        raise GraphError(
            f"{file}: a MAG file is required, found a parquet file whose metadata says schema {kind!r}, version {version!r}. "
            "Give a file that magdi_ray wrote, or import other formats first."
        )
    if int(version) > SCHEMA_VERSION:
        raise GraphError(
            f"{file}: written in MAG schema version {version}; this magdi_ray reads versions up to {SCHEMA_VERSION}. "
            "Upgrade magdi_ray."
        )
    return int(version)


def _check_file(file: Path) -> None:
    schema = _schema(file)
    _version(file, schema)
    missing = [name for name in MAG_SCHEMA.names if name not in schema.names and name != "solution"]
    for column, struct in (("nodes", NODE), ("edges", EDGE)):
        if column not in missing:
            held = schema.field(column).type
            names = {field.name for field in held.value_type} if pa.types.is_list(held) else set()
            missing += [f"{column}.{field.name}" for field in struct if field.name not in names]
    if missing:
        raise GraphError(f"{file}: columns {', '.join(missing)} are required and missing. The file is damaged; write it again.")

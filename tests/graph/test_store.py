"""MAG files: what is written is read, and what is damaged is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magdi_ray.debate.store import read_debates, write_debates
from magdi_ray.debate.transcript import Debate
from magdi_ray.errors import GraphError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.schema import MAG_SCHEMA, SCHEMA_VERSION, Edge, Mag, Node
from magdi_ray.graph.store import (
    ROWS_PER_GROUP,
    check_version,
    iter_mags,
    iter_questions,
    mag_groups,
    read_group,
    read_mags,
    to_row,
    write_mags,
)
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.store import QUESTION_SCHEMA, iter_stored, write_questions

NODE = Node("a", 0, "debater", "m", "It is 18.", "It is", "18", 0.5, "stated", True, 3, 4, "ok")
LOST = replace(NODE, agent="b", answer=None, confidence=None, confidence_source="none", correct=False, status="unparsed")
NODES = (NODE, LOST, replace(NODE, round=1))
EDGES = (Edge(0, 2, "self"), Edge(1, 2, "peer"))


def mag(name: str = "q") -> Mag:
    return Mag(Question(name, "How many?", "18"), "reconcile", ("a", "b"), "18", 0.5, "rounds", "gold", NODES, EDGES)


def write_rows(path: Path, rows: list[dict[str, object]], schema: pa.Schema = MAG_SCHEMA) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def test_graphs_are_read_as_they_were_written(tmp_path: Path) -> None:
    unlabelled = replace(mag("u"), labels="none", answer=None, nodes=(replace(NODE, correct=None),), edges=())
    mags = [mag(), unlabelled, replace(mag("empty"), nodes=(), edges=())]
    assert write_mags(tmp_path, mags) == tmp_path / "mags.parquet"
    assert read_mags(tmp_path) == read_mags(tmp_path / "mags.parquet") == mags


def test_a_large_file_is_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    path = write_mags(tmp_path / "x.parquet", (mag(str(i)) for i in range(ROWS_PER_GROUP + 1)))
    assert pq.ParquetFile(path).num_row_groups == 2
    assert next(iter_mags(path)).question.id == "0"


def test_a_file_is_compressed_with_zstd_and_carries_its_version(tmp_path: Path) -> None:
    path = write_mags(tmp_path, [mag()])
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert check_version(path) == check_version(tmp_path) == SCHEMA_VERSION


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def broken() -> Iterator[Mag]:
        yield mag("new")
        raise RuntimeError("out of debates")

    write_mags(tmp_path, [mag("old")])
    with pytest.raises(RuntimeError):
        write_mags(tmp_path, broken())
    assert [m.question.id for m in read_mags(tmp_path)] == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["mags.parquet"]


def test_a_newer_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    newer = MAG_SCHEMA.with_metadata({"magdi_ray.schema": "mag", "magdi_ray.schema_version": str(SCHEMA_VERSION + 1)})
    path = write_rows(tmp_path / "x.parquet", [to_row(mag())], newer)
    for read in (check_version, read_mags):
        with pytest.raises(GraphError, match=rf"version {SCHEMA_VERSION + 1}; .* up to {SCHEMA_VERSION}. Upgrade magdi_ray"):
            read(path)


def test_files_of_version_1_are_still_read(tmp_path: Path) -> None:
    older = MAG_SCHEMA.with_metadata({"magdi_ray.schema": "mag", "magdi_ray.schema_version": "1"})
    path = write_rows(tmp_path / "x.parquet", [to_row(mag())], older)
    assert (check_version(path), read_mags(path)) == (1, [mag()])


def test_criticism_and_several_replies_of_a_round_are_kept(tmp_path: Path) -> None:
    nodes = (NODE, replace(NODE, answer="7"), replace(LOST, role="critic", round=1), replace(NODE, round=2))
    kept = replace(mag(), nodes=nodes, edges=(Edge(0, 2, "peer"), Edge(2, 3, "critique"), Edge(0, 3, "self")))
    write_mags(tmp_path, [kept])
    assert read_mags(tmp_path) == [kept]


def test_other_files_are_not_mag_files(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="found none"):
        read_mags(tmp_path)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(GraphError, match="cannot be read as parquet"):
        read_mags(tmp_path / "text.parquet")
    other = write_rows(tmp_path / "other.parquet", [{"a": 1}], pa.schema([("a", pa.int64())]))
    with pytest.raises(GraphError, match="a MAG file is required"):
        check_version(other)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    edge = pa.struct([field for field in MAG_SCHEMA.field("edges").type.value_type if field.name != "type"])
    fields = [f.with_type(pa.list_(edge)) if f.name == "edges" else f for f in MAG_SCHEMA if f.name != "gold"]
    path = write_rows(tmp_path / "x.parquet", [], pa.schema(fields, metadata=MAG_SCHEMA.metadata))
    with pytest.raises(GraphError, match=r"columns gold, edges\.type"):
        read_mags(path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"edges": (Edge(0, 3, "self"),)}, "only 3 nodes"),
        ({"edges": (Edge(-1, 2, "peer"),)}, "only 3 nodes"),
        ({"edges": (Edge(2, 0, "self"),)}, "earlier to a later"),
        ({"edges": (Edge(1, 1, "self"),)}, "earlier to a later"),
        ({"edges": (Edge(0, 2, "friend"),)}, "'friend' is none of"),  # type: ignore[arg-type]  # the damage under test
        ({"edges": (Edge(0, 2, "peer"),)}, "contradicts the agents"),
        ({"nodes": NODES[::-1], "edges": ()}, "ordered by round"),
        ({"nodes": (replace(NODE, answer=None),), "edges": ()}, "contradicts answer None"),
        ({"nodes": (replace(LOST, answer="1"),), "edges": ()}, "contradicts answer '1'"),
        ({"edges": (Edge(1, 2, "critique"),)}, "and their roles"),
        ({"nodes": (replace(NODE, role="clown"),), "edges": ()}, "role 'clown' is none of debater, critic, judge"),  # type: ignore[arg-type]  # the damage under test
        ({"nodes": (replace(NODE, agent="z"),), "edges": ()}, "agent 'z'"),
        ({"nodes": (replace(NODE, confidence=1.5),), "edges": ()}, r"outside \[0, 1\]"),
        ({"nodes": (replace(NODE, correct=None),), "edges": ()}, "contradicts the graph's labels"),
    ],
)
def test_a_damaged_graph_is_refused_on_both_sides(tmp_path: Path, damage: dict[str, object], complaint: str) -> None:
    damaged = replace(mag("bad-one"), **damage)  # type: ignore[arg-type]  # fields by name
    path = write_rows(tmp_path / "x.parquet", [to_row(damaged)])
    with pytest.raises(GraphError, match=complaint) as error:
        read_mags(path)
    assert "bad-one" in str(error.value)
    with pytest.raises(GraphError, match=complaint):
        write_mags(tmp_path / "y.parquet", [damaged])


def test_one_question_has_one_graph_across_the_files_of_a_directory(tmp_path: Path) -> None:
    write_mags(tmp_path / "a.parquet", [mag()])
    write_mags(tmp_path / "b.parquet", [mag()])
    with pytest.raises(GraphError, match="second one"):
        read_mags(tmp_path)


def test_the_published_solution_stays_with_its_question(tmp_path: Path) -> None:
    solved = replace(mag(), question=replace(mag().question, solution="9 * 2 = 18"))
    write_mags(tmp_path, [solved, mag("none")])
    assert read_mags(tmp_path) == [solved, mag("none")]


def test_files_from_before_solutions_were_kept_are_read(tmp_path: Path) -> None:
    older = pa.schema([field for field in MAG_SCHEMA if field.name != "solution"], metadata=MAG_SCHEMA.metadata)
    assert read_mags(write_rows(tmp_path / "x.parquet", [to_row(mag())], older)) == [mag()]


def test_a_row_group_can_be_read_without_the_replies_as_they_came(tmp_path: Path) -> None:
    [group] = mag_groups(write_mags(tmp_path, [mag()]))
    [read] = read_group(group, set(), texts=False)
    assert [node.text for node in read.nodes] == [""] * 3
    assert replace(read, nodes=tuple(replace(n, text=m.text) for n, m in zip(read.nodes, NODES, strict=True))) == mag()


def test_questions_are_read_without_their_graphs(tmp_path: Path) -> None:
    path = write_mags(tmp_path, [mag("a"), mag("b")])
    assert list(iter_questions(path)) == [Question("a", "How many?", "18"), Question("b", "How many?", "18")]


def test_a_solution_travels_from_the_questions_through_the_debates_into_the_graphs(tmp_path: Path) -> None:
    question = Question("q", "How many?", "18", solution="9 * 2 = 18")
    write_questions(tmp_path / "questions.parquet", [question, Question("r", "Which?")])
    debates = [Debate(read, ("a",), "single") for read in iter_stored(tmp_path)]
    (tmp_path / "debates").mkdir()
    write_debates(tmp_path / "debates" / "part.parquet", debates)
    mags = [build_mag(debate, Gsm8k()) for debate in read_debates(tmp_path / "debates")]
    write_mags(tmp_path / "graphs", mags)
    assert [read.question for read in read_mags(tmp_path / "graphs")] == [question, Question("r", "Which?")]


def test_questions_and_debates_from_before_solutions_were_kept_are_read(tmp_path: Path) -> None:
    question = Question("q", "How many?", "18")
    debate = Debate(question, ("a",), "single")
    write_debates(tmp_path / "old.parquet", [debate])
    pq.write_table(pq.read_table(tmp_path / "old.parquet").drop_columns("solution"), tmp_path / "old.parquet")
    assert list(read_debates(tmp_path)) == [debate]
    pq.write_table(pa.Table.from_pylist([asdict(question)], QUESTION_SCHEMA).drop_columns("solution"), tmp_path / "old.parquet")
    assert list(iter_stored(tmp_path)) == [question]

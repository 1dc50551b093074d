"""What is written is read back as it was: graphs in every form, questions, manifests, leases, prices, requests."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from magdi_ray.config.cluster import Cluster, EngineSpeed, Network, NodeType, Placed, Stages, Storage, load_cluster
from magdi_ray.debate.transcript import ConfidenceSource, Role
from magdi_ray.errors import GraphError
from magdi_ray.graph.export import EXPORTS, export_mags
from magdi_ray.graph.pyg import to_pyg
from magdi_ray.graph.schema import EDGE_TYPES, MAG_SCHEMA, Edge, Mag, Node, edge_type
from magdi_ray.graph.store import faults, from_row, iter_questions, read_mags, to_row, write_mags
from magdi_ray.lease import Holder, Lease, Record
from magdi_ray.runs import MANIFEST, Manifest, Run
from magdi_ray.serving.door.body import parse
from magdi_ray.serving.wire.chat import ChatRequest
from magdi_ray.serving.wire.completions import CompletionRequest
from magdi_ray.serving.wire.score import ScoreRequest
from magdi_ray.tasks.base import SPLITS, Question
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.store import iter_stored, write_questions
from tests.properties.rules import rule

TASK = Gsm8k()
TEXTS = st.text(max_size=30) | st.sampled_from(["18", "The answer is 18.", "\u2028\x00\r\n", '"}{', "é漢🎈", "NaN", "null"])
SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 2**62)

questions = st.builds(
    Question, id=TEXTS, text=TEXTS, gold=st.none() | TEXTS, split=st.sampled_from(SPLITS), solution=st.none() | TEXTS
)


@st.composite
def nodes(draw: st.DrawFn, agents: tuple[str, ...], labelled: bool) -> Node:
    answer = draw(st.none() | TEXTS)
    return Node(
        agent=draw(st.sampled_from(agents)),
        round=draw(st.integers(0, 4)),
        role=draw(st.sampled_from(get_args(Role))),
        model=draw(TEXTS),
        text=draw(TEXTS),
        reasoning=draw(TEXTS),
        answer=answer,
        confidence=draw(st.none() | SHARES),
        confidence_source=draw(st.sampled_from(get_args(ConfidenceSource))),
        correct=draw(st.booleans()) if labelled else None,
        tokens_in=draw(COUNTS),
        tokens_out=draw(COUNTS),
        status="unparsed" if answer is None else "ok",
    )


@st.composite
def mags(draw: st.DrawFn) -> Mag:
    """Any sound graph, however odd."""
    agents = tuple(draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True)))
    labels = draw(st.sampled_from(("gold", "vote", "judge", "none")))
    held = sorted(draw(st.lists(nodes(agents, labels != "none"), max_size=6)), key=lambda node: node.round)
    pairs = [(source, target) for target in range(len(held)) for source in range(target)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return Mag(
        question=draw(questions),
        protocol=draw(TEXTS),
        agents=agents,
        answer=draw(st.none() | TEXTS),
        agreement=draw(SHARES),
        stopped=draw(st.sampled_from(("consensus", "rounds", "error"))),
        labels=labels,
        nodes=tuple(held),
        edges=tuple(Edge(s, t, edge_type(held[s], held[t])) for s, t in chosen),
    )


collections = st.lists(mags(), max_size=4, unique_by=lambda mag: mag.question.id)


@rule(40)
@given(mags())
def test_a_graph_comes_back_from_a_row_from_json_and_from_arrow(mag: Mag) -> None:
    assert list(faults(mag)) == []
    assert from_row(to_row(mag)) == mag
    assert from_row(json.loads(json.dumps(to_row(mag)))) == mag
    assert from_row(pa.Table.from_pylist([to_row(mag)], schema=MAG_SCHEMA).to_pylist()[0]) == mag


@rule(25)
@given(collections)
def test_graphs_come_back_from_a_file(held: list[Mag]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = write_mags(Path(place), held)
        assert read_mags(path) == held
        assert list(iter_questions(path)) == [replace(mag.question, solution=None) for mag in held]


@rule(25)
@given(st.lists(mags(), min_size=1, max_size=3))
def test_tensors_hold_every_node_edge_and_label(held: list[Mag]) -> None:
    batch = to_pyg(held)
    ends = list(zip(*batch.edge_index.tolist(), strict=True))
    starts = batch.ptr.tolist()
    found = Counter((s - starts[g], t - starts[g], EDGE_TYPES[kind], g) for (s, t), kind, g in [
        (pair, kind, int(batch.batch[pair[0]])) for pair, kind in zip(ends, batch.edge_type.tolist(), strict=True)
    ])  # fmt: skip
    assert found == Counter((e.source, e.target, e.type, g) for g, mag in enumerate(held) for e in mag.edges)
    labels = [-1 if node.correct is None else int(node.correct) for mag in held for node in mag.nodes]
    assert (batch.y.tolist(), batch.num_nodes) == (labels, len(labels))


@pytest.mark.parametrize("format", EXPORTS)
@rule(15)
@given(held=st.lists(mags(), min_size=1, max_size=3), conversational=st.booleans())
def test_an_export_says_the_same_in_every_kind_of_file(format: str, held: list[Mag], conversational: bool) -> None:
    found = []
    with tempfile.TemporaryDirectory() as place:
        for suffix in (".jsonl", ".json", ".parquet"):
            out = Path(place) / f"rows{suffix}"
            try:
                export_mags(held, TASK, out, format=format, split="all", conversational=conversational)
            except GraphError as error:
                found.append(str(error).replace(str(out), ""))  # there may be no row to write
                continue
            found.append(_rows(out))
    assert found[0] == found[1] == found[2]


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]


@rule(30)
@given(st.lists(questions, max_size=5))
def test_questions_come_back_from_a_file(held: list[Question]) -> None:
    with tempfile.TemporaryDirectory() as place:
        write_questions(Path(place) / "train.parquet", held)
        assert list(iter_stored(Path(place))) == held


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXTS, lambda held: st.lists(held, max_size=3), max_leaves=5
)
manifests = st.builds(
    *(Manifest, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=3), TEXTS, st.dictionaries(TEXTS, COUNTS, max_size=3)),
    *(st.floats(0, 1e9), TEXTS, st.dictionaries(TEXTS, plain, max_size=3), TEXTS, st.integers(0, 2**40)),
)


@rule(40)
@given(manifests)
def test_a_manifest_comes_back_from_its_file(manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "s").mkdir()
        (Path(place) / "s" / MANIFEST).write_text(json.dumps(asdict(manifest)), encoding="utf-8")
        assert Run(place).read_manifest("s") == manifest


records = st.builds(Record, COUNTS, st.builds(Holder, TEXTS, TEXTS, COUNTS, TEXTS), COUNTS, st.booleans())


@rule(40)
@given(records, st.integers(0, 200))
def test_a_lease_comes_back_whole_or_not_at_all(record: Record, cut: int) -> None:
    text = record.dumped()
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "a.json").write_text(text, encoding="utf-8")
        (Path(place) / "b.json").write_text(text[:cut], encoding="utf-8")
        lease = Lease(place)
        assert lease._read("a.json") == record  # type: ignore[attr-defined]  # what every other attempt looks at
        assert lease._read("b.json") == (record if cut >= len(text) else None)  # type: ignore[attr-defined]


SOME = st.floats(0.001, 1e6)
kinds = st.builds(
    NodeType,
    vcpus=SOME,
    gpus=st.integers(0, 9),
    memory_gib=SOME,
    on_demand=SOME,
    spot=SOME,
    preemptions_per_hour=st.floats(0, 60),
)
places = st.builds(Placed, nodes=st.just("n"), market=st.sampled_from(("on_demand", "spot")))
clusters = st.builds(
    Cluster,
    name=TEXTS,
    prices=TEXTS.filter(bool),
    nodes=st.fixed_dictionaries({"n": kinds}, optional={"other": kinds}),
    stages=st.builds(Stages, workers=places, agents=st.none() | places, distil=places, evaluate=places),
    storage=st.builds(Storage, usd_per_gb_month=SOME, months=SOME),
    network=st.builds(Network, out_usd_per_gb=SOME, inside_usd_per_gb=SOME),
    speeds=st.dictionaries(TEXTS, st.builds(EngineSpeed, step_ms=SOME, row_ms=SOME), max_size=2),
    deadline_hours=st.none() | SOME,
)


@rule(30)
@given(clusters)
def test_a_price_table_comes_back_from_its_file(cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "prices.yaml"
        path.write_text(yaml.safe_dump(cluster.model_dump(mode="json"), allow_unicode=True), encoding="utf-8")
        assert load_cluster(path) == cluster


messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(("system", "developer", "user", "assistant")),
            "content": TEXTS | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=3),
        }
    ),
    min_size=1,
    max_size=4,
)
drawing = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "n": st.integers(1, 9),
    "stop": TEXTS.filter(bool) | st.lists(TEXTS.filter(bool), max_size=4),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stream": st.booleans(),
    "user": TEXTS,
    "metadata": st.dictionaries(TEXTS, TEXTS, max_size=3),
}
ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)
prompts = TEXTS | st.lists(TEXTS, min_size=1, max_size=3) | ids | st.lists(ids, min_size=1, max_size=3)
BODIES: dict[type, st.SearchStrategy[dict[str, Any]]] = {
    ChatRequest: st.fixed_dictionaries({"model": TEXTS, "messages": messages}, optional=drawing),
    CompletionRequest: st.fixed_dictionaries({"model": TEXTS, "prompt": prompts}, optional=drawing),
    ScoreRequest: st.fixed_dictionaries({"model": TEXTS, "messages": messages, "reply": TEXTS}, optional={"user": TEXTS}),
}


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@rule(40)
@given(data=st.data())
def test_a_request_says_again_what_it_said(kind: type[Any], data: st.DataObject) -> None:
    body = data.draw(BODIES[kind])
    request = parse(json.dumps(body).encode(), kind)
    assert request == parse(request.model_dump_json(exclude_unset=True).encode(), kind)
    assert json.loads(request.model_dump_json(exclude_unset=True)) == body

"""The questions of a run with their debates, found by words and read one at a time. Knows no HTTP and no Ray.

    debates = RunDebates(Path("runs/demo"), task)
    debates.find("figs", offset=0, limit=10)   # {"total": 61, "questions": [{"id", "text", "split", "debated"}, ...]}
    debates.detail("tiny-test-00384")          # the question, its prompt, and every reply of its debate
    debates.read("tiny-test-00384", "14 - 4 = 10 . answer 10")   # {"answer": "10", "correct": True}

Held in memory, from the first call on: ids and texts of all questions as Arrow columns, and two positions a question. That is the
length of the texts and about 40 bytes a question more, and twice as much while it is put in order: 0.35 GB, after 0.8 GB, for a
million questions of 250 characters, in about 2 s. A debate is read from its row group when it is asked for, and not kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from magdi_ray.debate.store import DEBATE_SCHEMA
from magdi_ray.debate.store import from_row as debate_of
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.schema import MAG_SCHEMA, Mag, Node
from magdi_ray.graph.store import from_row as mag_of
from magdi_ray.graph.store import mag_groups
from magdi_ray.runs import Run
from magdi_ray.tasks.base import Question, Task, group_same
from magdi_ray.tasks.store import QUESTION_SCHEMA

ORDER = ("test", "ood", "dev", "train")
"""Held-out questions first: of those the student knows nothing."""
SHOWN_TEXT = 280
"""Characters of a question in a list."""
MAX_WORDS = 8
"""Words of a search that count."""
REMEMBERED = 8
"""Searches whose finds are kept, so that turning a page does not search again."""
BATCH = 32
"""Rows decoded at a time on the way to the one that is wanted."""


class _Rows:
    """All rows of a stage's parquet files, in the order of the files' names, reached by their position."""

    def __init__(self, groups: Sequence[tuple[str, int, int]]) -> None:
        """`groups`: file, number and rows of every row group."""
        self._groups = groups
        self._starts = list(accumulate((rows for *_, rows in groups), initial=0))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows, as large strings."""
        files = dict.fromkeys(file for file, *_ in self._groups)
        chunks = [pq.ParquetFile(file).read(columns=[name])[name].cast(pa.large_string()) for file in files]
        return pa.chunked_array([part for column in chunks for part in column.chunks], pa.large_string())

    def row(self, position: int, columns: Sequence[str], id_: str) -> dict[str, Any]:
        """One row, whose first column must hold `id_`; columns that its file lacks are left out.

        Raises:
            OSError: the file is not there, or is not the one that was indexed.
        """
        place = bisect_right(self._starts, position) - 1
        file, number, _ = self._groups[place]
        left = position - self._starts[place]
        with pq.ParquetFile(file) as parquet:
            there = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(BATCH, row_groups=[number], columns=there, use_threads=False):
                if left < batch.num_rows:
                    row: dict[str, Any] = batch.slice(left, 1).to_pylist()[0]
                    if row[columns[0]] == id_:
                        return row
                    break
                left -= batch.num_rows
        raise OSError(f"{file} was written anew since it was indexed, and {id_!r} is not where it was. Start the server again.")


@dataclass(frozen=True, slots=True)
class _Index:
    """What is kept of all questions, held-out ones first."""

    stages: dict[str, _Rows]
    ids: pa.ChunkedArray
    texts: pa.ChunkedArray
    splits: pa.ChunkedArray
    rows: pa.ChunkedArray
    """Position of each question in the files of `questions/`."""
    graphs: pa.Array
    """Position of its graph; null where there is none."""
    debates: pa.Array
    """Position of its debate, where there is no graph; null where there is none."""


class RunDebates:
    """What one run has to show. Safe to use from several threads."""

    def __init__(self, root: Path, task: Task) -> None:
        """`task`: by whose rules questions are put and answers read.

        Raises:
            RunError: the run has no finished questions.
        """
        self._run, self._task = Run(root), task
        self._run.require("questions")
        self._lock = threading.Lock()
        self._index: _Index | None = None
        self._found: dict[tuple[str, ...], pa.Array] = {}

    def find(self, search: str, *, offset: int, limit: int) -> dict[str, Any]:
        """Questions that hold all words of a search in their id or text, whatever the case; all questions where it has none.

        Raises:
            OSError: the run's files cannot be read (any more).
        """
        index = self._ready()
        words = tuple(search.split())[:MAX_WORDS]
        total = len(index.ids)
        if words:
            hits = self._search(index, words)
            total, positions = len(hits), hits.slice(offset, limit).to_pylist()
        else:
            positions = list(range(min(offset, total), min(offset + limit, total)))
        return {"total": total, "questions": [_entry(index, position) for position in positions]}

    def detail(self, id_: str) -> dict[str, Any] | None:
        """A question, exactly the prompt it is put to a model with, and its debate; None where the run has no such question.

        Raises:
            OSError: the run's files cannot be read (any more).
        """
        index, position = self._ready(), self._position(id_)
        if position is None:
            return None
        question = self._question(index, position)
        return {
            "id": question.id,
            "text": question.text,
            "split": question.split,
            "gold": question.gold,
            "prompt": self._task.prompt(question),
            "debate": self._debate(index, position),
        }

    def read(self, id_: str, reply: str) -> dict[str, Any] | None:
        """The answer that a reply to a question gives, and whether it is right (None: nobody knows); None for no such question.

        Raises:
            OSError: the run's files cannot be read (any more).
        """
        index, position = self._ready(), self._position(id_)
        if position is None:
            return None
        question = self._question(index, position)
        answer = self._task.extract(question, reply)
        return {"answer": answer, "correct": None if question.gold is None else self._task.same(answer, question.gold)}

    def _position(self, id_: str) -> int | None:
        position: int = pc.index(self._ready().ids, pa.scalar(id_, pa.large_string())).as_py()
        return None if position < 0 else position

    def _question(self, index: _Index, position: int) -> Question:
        row = index.stages["questions"].row(index.rows[position].as_py(), QUESTION_SCHEMA.names, index.ids[position].as_py())
        return Question(**row)

    def _debate(self, index: _Index, position: int) -> dict[str, Any] | None:
        id_, graph, debate = (column[position].as_py() for column in (index.ids, index.graphs, index.debates))
        if graph is not None:
            return _told(self._task, mag_of(index.stages["graphs"].row(graph, MAG_SCHEMA.names, id_)), None)
        if debate is not None:
            held = debate_of(index.stages["debates"].row(debate, DEBATE_SCHEMA.names, id_))
            return _told(self._task, build_mag(held, self._task), held.error)
        return None

    def _stage(self, name: str) -> _Rows:
        """The files of a stage; none where it is not finished."""
        if self._run.read_manifest(name) is None:
            return _Rows(())
        directory = self._run.path(name)
        if name == "graphs":
            return _Rows([(group.file, group.number, group.rows) for group in mag_groups(directory)])
        files = [(str(path), pq.read_metadata(path)) for path in sorted(directory.glob("*.parquet"))]
        return _Rows([(file, n, data.row_group(n).num_rows) for file, data in files for n in range(data.num_row_groups)])

    def _ready(self) -> _Index:
        """The index, made at the first call; further callers wait for it."""
        with self._lock:
            if self._index is None:
                self._index = self._made()
            return self._index

    def _made(self) -> _Index:
        stages = {name: self._stage(name) for name in ("questions", "graphs", "debates")}
        columns = {name: stages["questions"].column(name) for name in ("id", "text", "split")}
        rank = pc.index_in(columns["split"], pa.array(ORDER, pa.large_string()))
        table = pa.table(columns | {"row": pa.array(np.arange(len(rank)))})
        # Filtered a split at a time, not sorted: a sort would copy all texts once more.
        table = pa.concat_tables([table.filter(pc.equal(rank, place)) for place in range(len(ORDER))])
        ids = table["id"]
        graphs, debates = (_positions(ids, stages[name]) for name in ("graphs", "debates"))
        return _Index(stages, ids, table["text"], table["split"], table["row"], graphs, debates)

    def _search(self, index: _Index, words: tuple[str, ...]) -> pa.Array:
        """Positions of the questions that hold every word."""
        with self._lock:
            known = self._found.get(words)
        if known is not None:
            return known
        found = None
        for word in words:
            has = pc.or_(*(pc.match_substring(column, word, ignore_case=True) for column in (index.texts, index.ids)))
            found = has if found is None else pc.and_(found, has)
        assert found is not None
        hits = pc.indices_nonzero(found)
        with self._lock:
            while len(self._found) >= REMEMBERED:
                self._found.pop(next(iter(self._found)))
            self._found[words] = hits
        return hits


def _positions(ids: pa.ChunkedArray, rows: _Rows) -> pa.Array:
    """Where each question is among the rows of debates or graphs; null where it is not."""
    found = pc.index_in(ids, rows.column("question_id"))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _entry(index: _Index, position: int) -> dict[str, Any]:
    text: str = index.texts[position].as_py()
    return {
        "id": index.ids[position].as_py(),
        "text": text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}…",
        "split": index.splits[position].as_py(),
        "debated": index.graphs[position].is_valid or index.debates[position].is_valid,
    }


def _told(task: Task, mag: Mag, error: str | None) -> dict[str, Any]:
    """A debate for people: what was said, what became of it, and who was right."""
    gold = mag.question.gold
    return {
        "agents": list(mag.agents),
        "protocol": mag.protocol,
        "answer": mag.answer,
        "correct": None if gold is None else task.same(mag.answer, gold),
        "agreement": mag.agreement,
        "stopped": mag.stopped,
        "labels": mag.labels,
        "error": error,
        "votes": _votes(task, mag),
        "replies": [_reply(task, mag, place) for place in range(len(mag.nodes))],
    }


def _votes(task: Task, mag: Mag) -> list[dict[str, Any]]:
    """The answers of every debater's last replies, each with who gave it, most frequent first."""
    last = {node.agent: node.round for node in mag.nodes if node.role == "debater"}
    ballots = [node for node in mag.nodes if node.role == "debater" and node.round == last[node.agent]]
    groups = group_same(task, [node.answer for node in ballots])
    groups.sort(key=lambda group: (-len(group), not task.same(ballots[group[0]].answer, mag.answer)))
    votes = [_vote(task, mag, [ballots[i] for i in group]) for group in groups]
    unread = [node for node in ballots if node.answer is None]
    return [*votes, _vote(task, mag, unread)] if unread else votes


def _vote(task: Task, mag: Mag, nodes: Sequence[Node]) -> dict[str, Any]:
    answer = nodes[0].answer
    return {
        "answer": answer,
        "agents": [node.agent for node in nodes],
        "correct": nodes[0].correct,
        "won": answer is not None and task.same(answer, mag.answer),
    }


def _reply(task: Task, mag: Mag, place: int) -> dict[str, Any]:
    node = mag.nodes[place]
    before = next((own for own in reversed(mag.nodes[:place]) if own.agent == node.agent and own.round < node.round), None)
    changed = before is not None and node.role == before.role == "debater" and not task.same(node.answer, before.answer)
    return {
        "agent": node.agent,
        "round": node.round,
        "role": node.role,
        "text": node.text,
        "answer": node.answer,
        "confidence": node.confidence,
        "correct": node.correct,
        "before": before.answer if changed and before is not None else None,
        "changed": changed and (before is not None and (before.answer is not None or node.answer is not None)),
        "tokens": node.tokens_out,
    }

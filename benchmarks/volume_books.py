"""The books of a run of debates and graphs, made up from four sides that know nothing of each other: the questions that were put
in, the debates and graphs that came out, the reply store in between, and the ledger that the provider itself kept.

It reads files and knows neither Ray nor HTTP.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.counting_server import question_number, text_of
from magdi_ray.agents.store import ReplyStore, decode_record

Place = tuple[int, str, int]
"""Question, agent, round."""


@dataclass
class Asked:
    """What the provider's ledger says."""

    replies: int = 0
    """It gave."""
    texts: dict[Place, int] = field(default_factory=dict)
    """What it said, by the question, the model and how many different things that model had been asked about it before."""
    again: int = 0
    """Replies to what it had been asked before."""
    changed: int = 0
    """Of those, replies other than the first one."""


def read_ledger(path: Path) -> Asked:
    """The provider's side."""
    asked, places = Asked(), dict[tuple[int, str, str], int]()
    rounds: Counter[tuple[int, str]] = Counter()
    with path.open(encoding="ascii") as lines:
        for line in lines:
            number, model, prompt, text = line.split()
            asked.replies += 1
            key = (int(number), model, prompt)
            if key in places:
                asked.again += 1
                asked.changed += asked.texts[key[0], model, places[key]] != int(text, 16)
                continue
            places[key] = rounds[key[:2]]
            rounds[key[:2]] += 1
            asked.texts[key[0], model, places[key]] = int(text, 16)
    return asked


@dataclass
class Written:
    """What a stage's files say."""

    ids: Counter[str] = field(default_factory=Counter)
    texts: dict[Place, int] = field(default_factory=dict)
    doubled: int = 0
    """Replies of one question, agent and round beyond the first."""
    failed: int = 0


def rows(directory: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a stage, some hundred in memory at a time."""
    for path in sorted(directory.glob("*.parquet")):
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()


def read_stage(directory: Path, replies: str) -> Written:
    """Debates (`replies`: "turns") or graphs ("nodes")."""
    written = Written()
    columns = ["question_id", "question", *(f"{replies}.list.element.{name}" for name in ("agent", "round", "text", "model"))]
    errors = replies == "turns"
    for row in rows(directory, [*columns, "error"] if errors else columns):
        written.ids[row["question_id"]] += 1
        written.failed += errors and row["error"] is not None
        number = question_number(row["question"])
        for reply in row[replies]:
            place = (number, reply["model"], reply["round"])
            written.doubled += place in written.texts
            written.texts[place] = text_of(reply["text"])
    return written


def count_records(directory: Path) -> tuple[int, int, int]:
    """Records of a reply store, different keys among them, and lines that are no record; read line by line."""
    keys, records, damaged = set[str](), 0, 0
    for path in sorted(directory.glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                try:
                    keys.add(decode_record(line)[0])
                    records += 1
                except ValueError:
                    damaged += 1
    return records, len(keys), damaged


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the books."""

    what: str
    found: int
    expected: str
    balanced: bool


def equal(what: str, found: int, expected: int) -> Line:
    """A figure that has to be another."""
    return Line(what, found, spaced(expected), found == expected)


def at_most(what: str, found: int, bound: int) -> Line:
    """A figure that has a bound."""
    return Line(what, found, f"at most {bound}", found <= bound)


def audit(run: Path, ledger: Path, stats: dict[str, Any], *, questions: int, in_flight: int) -> list[Line]:
    """Make up the books. `stats`: the provider's counts; `in_flight`: requests that may have been under way in kills."""
    expected = {f"q{number}" for number in range(questions)}
    debates, graphs, asked = read_stage(run / "debates", "turns"), read_stage(run / "graphs", "nodes"), read_ledger(ledger)
    records, keys, damaged = count_records(run / "replies")
    opened = ReplyStore(str(run / "replies"))
    found, paid = len(opened), sum(spend.calls for spend in opened.spent().values())
    opened.close()
    facts = json.loads((run / "debates" / "manifest.json").read_text(encoding="utf-8"))["facts"]
    lost = stats["received"] - asked.replies
    return [
        equal("questions with a debate", len(expected & debates.ids.keys()), questions),
        equal("debates", debates.ids.total(), questions),
        equal("debates that failed", debates.failed, 0),
        equal("questions with a graph", len(expected & graphs.ids.keys()), questions),
        equal("graphs", graphs.ids.total(), questions),
        equal("replies in debates", len(debates.texts), facts["replies"]),
        equal("replies doubled in debates or graphs", debates.doubled + graphs.doubled, 0),
        equal("replies in graphs that are those of the debates", same(graphs.texts, debates.texts), len(debates.texts)),
        equal("replies in debates that are what the provider said", same(debates.texts, asked.texts), len(debates.texts)),
        equal("different questions to an agent, as the provider counts them", len(asked.texts), len(debates.texts)),
        equal("records of the reply store", records, len(debates.texts)),
        equal("different keys among them", keys, len(debates.texts)),
        equal("records that the store finds when it is opened anew", found, records),
        equal("calls that the store says were paid for", paid, records),
        equal("damaged lines of the store", damaged, 0),
        at_most("replies given a second time", asked.again, in_flight),
        equal("of those, other than the first time", asked.changed, 0),
        at_most("requests that broke off before their reply", lost, in_flight),
    ]


def same(one: dict[Place, int], other: dict[Place, int]) -> int:
    """How many replies of one side are, word for word, at the same place on the other."""
    return sum(other.get(place) == text for place, text in one.items())


def table(lines: list[Line]) -> str:
    """The books as Markdown."""
    shown = [
        f"| {line.what} | {spaced(line.found)} | {line.expected} | {'yes' if line.balanced else '**no**'} |" for line in lines
    ]
    return "\n".join(["| what | found | expected | balanced |", "|---|---|---|---|", *shown])


def spaced(count: int) -> str:
    """A number in groups of three digits."""
    return f"{count:,}".replace(",", " ")

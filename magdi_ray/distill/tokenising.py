"""From graph files to tokenised graphs on Ray Data: once for all trainings that read the same graphs alike.

Work is cut by the row groups of the graph files, a few of them a task. A task writes one part file, under a name that says which
row groups it holds, and returns its index rows; a task that is tried again writes the same file again. The driver holds only
the index, and writes it and the marker when all parts are there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoConfig, PreTrainedTokenizerBase

from magdi_ray.agents.weights import resolve_model
from magdi_ray.cluster import quiet_ray_data, root_cause
from magdi_ray.config.base import content_hash
from magdi_ray.config.recipes import NextToken, RecipeConfig
from magdi_ray.config.sections import TaskConfig
from magdi_ray.distill.dataset import FORMAT, INDEX, USES, PartWriter, TokenFacts, Use, commit, dev_questions, is_complete
from magdi_ray.distill.job import Job
from magdi_ray.distill.labels import relabel
from magdi_ray.distill.tokens import best_of, first_correct, needs_incorrect, needs_structure, tokenise
from magdi_ray.errors import ConfigError, EngineError, GraphError, MagdiError
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import MagGroup, mag_groups, read_group
from magdi_ray.storage import alone, delivered, fetched, is_url
from magdi_ray.tasks.load import load_task

PARTS = 256
"""At most so many part files: a worker maps them all."""
GRAPHS = 256
"""Graphs a task holds in memory at a time."""

RESULT = pa.schema(
    [
        pa.field("unit", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("facts", pa.string()),
        pa.field("questions", pa.list_(pa.string()), nullable=False),
        pa.field("index", pa.list_(pa.struct(list(INDEX))), nullable=False),
    ]
)
"""What a task returns, in one row. Never inferred: a task whose graphs are all left out returns empty lists."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How graphs become units; travels to every task."""

    graphs: str
    """Place of the graphs' directory."""
    directory: str
    """Place of the parts."""
    task: TaskConfig
    recipe: RecipeConfig
    max_length: int
    tokenizer: PreTrainedTokenizerBase
    dev: frozenset[str]
    """Ids of the questions that are measured on."""
    best: str | None = None

    def use(self, mag: Mag) -> Use | None:
        """What a graph is for; None where its question is held out for the evaluation."""
        if mag.question.id in self.dev:
            return "dev"
        return "train" if mag.question.split == "train" else None


def tokenise_graphs(job: Job) -> str:
    """The place of a job's tokenised graphs, made where they are not there yet. Ray must be running.

    It is named by the hash of everything that shapes it, so that recipes which read the graphs alike share it. Of
    several callers at once, in threads or in processes, one makes it and the others wait.

    Raises:
        ConfigError: `dev` asks for more graphs than there are, or has none that can be used.
        GraphError: a graph file is missing or damaged, or two graphs are of one question.
        EngineError: a task failed for another reason, such as a full disk.
    """
    from magdi_ray.distill.student import load_tokenizer

    tokenizer = load_tokenizer(job.model)
    name = _name(job, tokenizer)
    place = f"{job.tokens}/{name}" if is_url(job.tokens) else str(Path(job.tokens).resolve() / name)
    with alone(name, None if is_url(place) else Path(place).parent):
        if not is_complete(place):
            _make(job, tokenizer, place)
    return place


def _name(job: Job, tokenizer: PreTrainedTokenizerBase) -> str:
    held = None if job.dev is None else [job.dev.graphs, job.seed if job.dev.graphs else None]
    learned = job.recipe.next_token
    lessons = [learned.after_divergence, learned.persuasion] if learned else [0.0, 0.0]
    needed = [needs_incorrect(job.recipe), needs_structure(job.recipe)]
    recipe = [job.recipe.nodes, job.recipe.labels, job.recipe.control, needed, lessons]
    parts = [FORMAT, job.inputs, job.task, recipe, longest(job), held, tokenizer_hash(tokenizer)]
    return content_hash(parts)[:16]


def longest(job: Job) -> int:
    """Tokens a node may have: `student.max_length`, or the context the student's positions are made for where that is shorter."""
    config = AutoConfig.from_pretrained(resolve_model(job.model), trust_remote_code=False).get_text_config()
    return min(job.student.max_length, getattr(config, "max_position_embeddings", None) or job.student.max_length)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the files a tokenizer saves, its chat template among them; the same wherever it was loaded from."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="magdi-tokenizer-") as directory:
        tokenizer.save_pretrained(directory)
        for path in sorted(path for path in Path(directory).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(directory)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _make(job: Job, tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    units = cut(mag_groups(fetched(job.graphs).resolve()))
    dev = dev_questions(job)
    reading = Reading(job.graphs, place, job.task, job.recipe, longest(job), tokenizer, dev)
    if job.recipe.nodes.agents == "best":
        scores = Counter[str]()
        for row in _run(units, score_unit, reading):
            scores.update(json.loads(row["facts"]))
        reading = replace(reading, best=best_of(scores))
    seen = set[str]()
    facts = TokenFacts(dev=TokenFacts() if dev else None)
    indices: list[pa.StructArray] = []
    for row in _run(units, tokenise_unit, reading):
        if twice := seen.intersection(row["questions"]):
            raise GraphError(f"{job.graphs}: one graph per question is required, found a second one of {min(twice)!r}.")
        seen.update(row["questions"])
        facts += TokenFacts.read(json.loads(row["facts"]))
        indices.append(row["index"])
    if dev and facts.dev is not None and not facts.dev.nodes:
        left_out = {**facts.dev.skipped_graphs, **facts.dev.skipped_nodes}
        raise ConfigError(
            f"Nothing can be measured on: none of the {len(dev)} dev graphs holds a usable reply ({left_out}). Hold out more of "
            "them (distil.dev.graphs), or leave distil.dev out."
        )
    index = pa.Table.from_batches([pa.RecordBatch.from_struct_array(held) for held in indices], schema=INDEX)
    commit(place, index, facts)


def cut(groups: Sequence[MagGroup]) -> list[list[MagGroup]]:
    """Row groups in order, each alone or, where there are over `PARTS`, with its neighbours; a function of the files alone."""
    total = sum(group.rows for group in groups) or 1
    units: dict[int, list[MagGroup]] = {}
    before = 0
    for group in groups:
        units.setdefault(before * PARTS // total, []).append(group)
        before += group.rows
    return list(units.values())


def _run(units: Sequence[Sequence[MagGroup]], work: Callable[..., pa.Table], reading: Reading) -> Iterator[dict[str, Any]]:
    """One task a unit; what they return, row by row as they end, the index as an Arrow array."""
    import ray.data

    quiet_ray_data()
    if not units:
        return
    items = [{"unit": i, "groups": json.dumps([asdict(group) for group in unit])} for i, unit in enumerate(units)]
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        work, batch_size=1, batch_format="pyarrow", fn_kwargs={"reading": reading}
    )
    try:
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for place in range(table.num_rows):
                error = table["error"][place].as_py()
                if error is not None:
                    raise GraphError(error)
                row = {name: table[name][place].as_py() for name in ("unit", "facts", "questions")}
                yield row | {"index": table["index"][place].values}
    except MagdiError:
        raise
    except Exception as error:  # Ray wraps whatever happened in a task; the person needs the task's own words
        raise EngineError(f"The graphs could not be tokenised: {root_cause(error)}") from error


def tokenise_unit(batch: pa.Table, *, reading: Reading) -> pa.Table:
    """Tokenise the graphs of one unit of work and write them as one part."""
    number, groups = _unit(batch, reading)
    facts = TokenFacts(dev=TokenFacts() if reading.dev else None)
    seen = set[str]()
    try:
        with delivered(reading.directory) as directory, PartWriter(directory, number) as writer:
            mags = (mag for group in groups for mag in read_group(group, seen, texts=False))
            while chunk := list(islice(mags, GRAPHS)):
                facts += _write_chunk(chunk, reading, writer)
    except MagdiError as error:
        return _result(number, error=str(error))
    return _result(number, facts=json.dumps(asdict(facts)), questions=sorted(seen), index=writer.index)


def _write_chunk(mags: Sequence[Mag], reading: Reading, writer: PartWriter) -> TokenFacts:
    task = load_task(reading.task)
    total = TokenFacts()
    other = Counter(mag.question.split for mag in mags if reading.use(mag) is None)
    total += TokenFacts(notes={f"graph of the split {split}, not learned from": count for split, count in other.items()})
    for use in USES:
        done = tokenise(
            [mag for mag in mags if reading.use(mag) == use],
            task,
            tokenizer=reading.tokenizer,
            recipe=reading.recipe if use == "train" else measured(reading.recipe),
            max_length=reading.max_length,
            best=reading.best,
        )
        writer.add(use, done.graphs)
        found = TokenFacts.of(done)
        total += found if use == "train" else TokenFacts(dev=found if reading.dev else None)
    return total


def measured(recipe: RecipeConfig) -> RecipeConfig:
    """A recipe as dev graphs are read: all graphs and tokens count alike, and incorrect replies are not learned."""
    plain = {"after_divergence": 0.0, "persuasion": 0.0}
    terms = tuple(term.model_copy(update=plain) if isinstance(term, NextToken) else term for term in recipe.objectives)
    labels = recipe.labels.model_copy(update={"weight": "equal"})
    nodes = recipe.nodes.model_copy(update={"revisions": "none"})
    return recipe.model_copy(update={"labels": labels, "nodes": nodes, "objectives": terms})


def score_unit(batch: pa.Table, *, reading: Reading) -> pa.Table:
    """Count each agent's correct first replies to training questions."""
    number, groups = _unit(batch, reading)
    task = load_task(reading.task)
    try:
        mags = (mag for group in groups for mag in read_group(group, set(), texts=False) if reading.use(mag) == "train")
        labelled = (relabel(mag, reading.recipe.labels, task) for mag in mags)
        score = first_correct(mag for mag in labelled if isinstance(mag, Mag))
    except MagdiError as error:
        return _result(number, error=str(error))
    return _result(number, facts=json.dumps(score))


def _unit(batch: pa.Table, reading: Reading) -> tuple[int, list[MagGroup]]:
    [row] = batch.to_pylist()
    groups = [MagGroup(**group) for group in json.loads(row["groups"])]
    if is_url(reading.graphs):  # the driver names files of its own copy
        copy = fetched(reading.graphs)
        groups = [replace(group, file=str(copy / Path(group.file).name)) for group in groups]
    return row["unit"], groups


def _result(
    unit: int, *, error: str | None = None, facts: str | None = None, questions: Sequence[str] = (), index: Sequence[Any] = ()
) -> pa.Table:
    row = {"unit": unit, "error": error, "facts": facts, "questions": list(questions), "index": list(index)}
    return pa.Table.from_pylist([row], schema=RESULT)

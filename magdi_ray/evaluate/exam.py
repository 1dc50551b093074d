"""An examination: which questions are asked, and of whom. Plain data that travels to the workers; knows no ray.

`magdi_ray.evaluate.run` holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from magdi_ray.agents.base import Sampling, derive_seed
from magdi_ray.config.engines import ApiEngine, EngineConfig, Price
from magdi_ray.config.resources import ANYWHERE, Place
from magdi_ray.config.sections import TaskConfig
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.store import QUESTION_SCHEMA

Domain = Literal["in", "out"]

SAMPLES = 1_000_000
"""More than are ever drawn of one system: twins, who would be asked the very same, get replies of their own."""

ASKED_SCHEMA = QUESTION_SCHEMA.append(pa.field("task", pa.string(), nullable=False))
"""Questions of several tasks in one file."""


@dataclass(frozen=True, slots=True)
class Paper:
    """The questions of one task that are asked, all with a gold answer."""

    task: TaskConfig
    domain: Domain
    """in: the run's own task; its split `ood` is out of domain all the same."""
    questions: tuple[Question, ...]

    def sets(self) -> Iterator[dict[str, object]]:
        """One row a split: what `metrics.json` says was asked."""
        for split in dict.fromkeys(question.split for question in self.questions):
            domain = "out" if split == "ood" else self.domain
            count = sum(question.split == split for question in self.questions)
            yield {"task": self.task.name, "split": split, "domain": domain, "questions": count}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One system that answers."""

    system: str
    engine: EngineConfig
    identity: str
    """What exactly answers: equal identities give equal replies."""
    sampling: Sampling
    seed: int = 0
    """Which training of its recipe it is."""
    drawn: Sampling | None = None
    """How replies for self-consistency are drawn; None draws none."""
    samples: int = 0
    revises: bool = False
    """Whether it is shown its own single reply once more."""
    price: Price | None = None
    twin: int = 0
    """How many candidates before it have the same identity and sampling."""
    own: bool = False
    """Whether the workers that ask it decode it themselves, in their own processes; else a local model is deployed."""
    size: int = 0
    """Bytes of its weights on disk, where that is known."""
    replicas: tuple[int, int] = (1, 1)
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    place: Place = ANYWHERE
    """The nodes its replicas may run on."""

    @property
    def label(self) -> str:
        """Unique among the candidates."""
        return f"{self.system}-{self.seed}" if self.seed else self.system

    @property
    def remote(self) -> bool:
        """Asked over HTTP by the workers themselves; else it is deployed."""
        return isinstance(self.engine, ApiEngine)

    @property
    def provider(self) -> str:
        """Whose model it is, in the reply store."""
        return self.engine.base_url if isinstance(self.engine, ApiEngine) else self.engine.type

    def samplings(self, seed: int) -> list[Sampling]:
        """The reply of its own sampling, then the drawn ones; `seed` is of the question, each reply's is made from it.

        A provider is only sent a seed where one was asked for.
        """
        chosen = [self.sampling] + [self.drawn] * self.samples if self.drawn else [self.sampling]
        if self.remote and self.sampling.seed is None:
            return chosen
        return [one.model_copy(update={"seed": (seed + 7919 * place) % 2**31}) for place, one in enumerate(chosen)]


@dataclass(frozen=True)
class Examination:
    """Everything the workers are told."""

    tasks: tuple[TaskConfig, ...]
    candidates: tuple[Candidate, ...]
    seed: int
    replies: str
    """Directory or URL of the reply store."""
    run: str
    """Who pays."""
    max_batch_size: int
    max_failed_share: float
    latency_questions: int = 0
    times: str = ""
    """File in which the times of replies are kept."""
    done: frozenset[str] = frozenset()
    """Labels of those all of whose replies are in the store."""

    @property
    def timed(self) -> list[Candidate]:
        """Whose replies are timed: local models, one training for all of a recipe's."""
        return [one for one in self.candidates if not one.remote and one.seed == 0]

    def asks(self, candidate: Candidate, question: Question) -> list[tuple[int, Sampling]]:
        """What a candidate is asked of a question: how each reply is drawn, and which place it has in the reply store."""
        seed = derive_seed(self.seed, candidate.sampling.seed, "evaluate", question.id, candidate.label)
        return [(place + SAMPLES * candidate.twin, sampling) for place, sampling in enumerate(candidate.samplings(seed))]

    def of(self, candidates: Sequence[Candidate]) -> Examination:
        """The same for some of the candidates."""
        return replace(self, candidates=tuple(candidates))


def write_asked(path: Path, papers: Iterable[Paper]) -> int:
    """Write all questions of some papers into one file; returns the number of rows."""
    rows = [asdict(question) | {"task": paper.task.name} for paper in papers for question in paper.questions]
    pq.write_table(pa.Table.from_pylist(rows, schema=ASKED_SCHEMA), path, compression="zstd")
    return len(rows)


def read_asked(path: Path) -> list[tuple[str, Question]]:
    """(task, question) of every row of such a file."""
    return [asked(row) for row in pq.read_table(path).to_pylist()]


def asked(row: dict[str, object]) -> tuple[str, Question]:
    """(task, question) of one row."""
    values = {name: row[name] for name in QUESTION_SCHEMA.names}
    return str(row["task"]), Question(**values)  # type: ignore[arg-type]

"""One example of one target: made, read within its bounds, and judged."""

from __future__ import annotations

import random
import shutil
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from magdi_ray.debate.quoting import fenced, quoted
from magdi_ray.debate.reading import read_reply, reasoning_of
from magdi_ray.tasks.choices import options_of
from magdi_ray.tasks.latex import normal_form
from tests.fuzz import files, replies, transcripts
from tests.fuzz.attacks import attacks
from tests.fuzz.bounds import TooSlow, bounded
from tests.fuzz.mutate import mutated
from tests.fuzz.target import Target

ATTACK = 20_000
"""Characters of a text made from an expression."""


@dataclass(frozen=True)
class Finding:
    """Something that must not happen."""

    kind: str
    """Where, for telling findings apart."""
    told: str


@cache
def all_targets() -> tuple[Target, ...]:
    """Every parser of data from elsewhere."""
    return (*replies.targets(), *transcripts.targets(), *files.targets())


@cache
def attack_texts() -> tuple[str, ...]:
    """Texts that make an expression which reads replies go back and forth."""
    return tuple({text for pattern in replies.patterns() for text in attacks(pattern, length=ATTACK)})


def example(target: Target, draw: random.Random, number: int) -> bytes:
    """The sample itself at first, then what becomes of one; for replies also texts made from the expressions that read them."""
    if number < len(target.samples):
        return target.samples[number]
    if "repl" in target.name and draw.random() < 0.4:
        return (
            draw.choice(("{}", "{}", "The answer is {}", "\\boxed{{{}}}", "So {}.\nThe answer is 13."))
            .format(draw.choice(attack_texts()))
            .encode("utf-8", "surrogatepass")
        )
    return mutated(draw.choice(target.samples), target.samples, target.words, draw)


def tried(target: Target, data: bytes, place: Path, *, ends_process: bool = False) -> Finding | Literal["read", "refused"]:
    """Read an example."""
    for remembered in (read_reply, reasoning_of, quoted, fenced, options_of, normal_form):
        remembered.cache_clear()
    try:
        with bounded(target.seconds, ends_process=ends_process):
            target.feed(data, place)
    except target.errors:
        return "refused"
    except (Exception, TooSlow) as error:
        ours = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "magdi_ray" in frame.filename or "tests/fuzz" in frame.filename
        ]
        last = ours[-1]
        kind = f"{type(error).__name__} in {Path(last.filename).name}, {last.name}"
        for rest in place.iterdir():
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        return Finding(kind, f"{kind}, line {last.lineno}: {str(error)[:300]}")
    return "read"

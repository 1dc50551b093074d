"""What the README says comes out, held against what came out.

A claim is a pattern of the README's own words with its numbers in groups. Where the words are no longer there the claim fails
too: then this file has to follow. Another processor may round differently, and one run is one draw: a stated figure holds if the
measured one lies in the interval that is stated with it, or in `WITHIN` of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.blocks import Block
from tests.docs.shell import Done

WITHIN = {"points": 6.0, "tokens": 2.0, "ratio": 1.0, "loss": 0.7, "answers": 3}
"""How far a measured figure may lie from a stated one that has no interval."""

SYSTEMS = {
    "base student (level 0)": "base",
    "level 1 student": "level1",
    "level 2 student": "level2",
    "level 4 student": "level4",
    "the debate's vote": "vote",
}
"""Rows of the README's table, by how they begin."""

HELD = ("questions", "debates", "graphs")


@dataclass(frozen=True)
class Seen:
    """What a claim may look at."""

    readme: str
    root: Path
    """The copy in which the README was followed."""
    done: list[Done]
    """Every command that was run."""

    def run(self, name: str) -> Path:
        """The newest run directory whose name begins so."""
        return max((self.root / "runs").glob(f"{name}*"), key=lambda path: path.stat().st_mtime)


def metrics(run: Path) -> dict[str, Any]:
    """The figures of a run's evaluation."""
    found: dict[str, Any] = json.loads((run / "evaluation" / "metrics.json").read_text())
    return found


def table_holds(seen: Seen) -> Iterator[str]:
    """Accuracies lie in the stated intervals, tokens near what is stated."""
    scores = {(one["system"], one["method"]): one for one in metrics(seen.run("demo"))["scores"]}
    rows = re.findall(
        r"^\| \**(.+?)\** \| \**([\d.]+)\** \| ([\d.]+) to ([\d.]+) \| \**([\d.]+)\** \|$", seen.readme, re.MULTILINE
    )
    found = [
        (name, [float(one) for one in rest])
        for title, *rest in rows
        for begin, name in SYSTEMS.items()
        if title.startswith(begin)
    ]
    if {name for name, _ in found} != set(SYSTEMS.values()):
        yield f"the table of `make demo` has rows {[row[0] for row in rows]}"
    for name, (stated, low, high, tokens) in found:
        one = scores[name, "single"]
        if not low <= 100 * one["accuracy"] <= high:
            yield f"{name}: {stated} ({low} to {high}) is stated, measured was {100 * one['accuracy']:.1f}"
        if abs(one["tokens_out"] - tokens) > WITHIN["tokens"] + 0.03 * tokens:
            yield f"{name}: {tokens} tokens a question are stated, measured were {one['tokens_out']:.1f}"


def differences_hold(seen: Seen) -> Iterator[str]:
    """Level 2 against level 1 and against the debate, and the tokens that are saved."""
    stated = re.search(
        r"Level 2 - level 1: \+([\d.]+) points \(([\d.]+) to ([\d.]+), paired\)\. "
        r"The student answers with ([\d.]+) times fewer tokens.*?"
        r"and is ([\d.]+) points \(([\d.]+) to ([\d.]+)\) less often right",
        " ".join(seen.readme.split()),
    )
    if stated is None:
        yield "the README no longer says what level 2 gains"
        return
    data = metrics(seen.run("demo"))
    accuracy = {one["system"]: 100 * one["accuracy"] for one in data["scores"] if one["method"] == "single"}
    tokens = {one["system"]: one["tokens_out"] for one in data["scores"] if one["method"] == "single"}
    gain, less, ratio = (
        accuracy["level2"] - accuracy["level1"],
        accuracy["vote"] - accuracy["level2"],
        tokens["vote"] / tokens["level2"],
    )
    if not float(stated[2]) <= gain <= float(stated[3]):
        yield f"level 2 - level 1: {stated[1]} is stated, measured was {gain:.1f}"
    if not float(stated[6]) <= less <= float(stated[7]):
        yield f"the debate's vote - level 2: {stated[5]} is stated, measured was {less:.1f}"
    if abs(ratio - float(stated[4])) > WITHIN["ratio"]:
        yield f"{stated[4]} times fewer tokens are stated, measured was {ratio:.1f}"


def second_time_does_nothing(seen: Seen) -> Iterator[str]:
    """The same command again prints the table within a minute."""
    same = [
        one
        for one in seen.done
        if one.command.startswith("magdi run configs/tiny.yaml --out runs/first ") and "--set" not in one.command
    ]
    if len(same) != 2:
        yield "the README no longer runs the same command twice"
    elif "student" not in same[1].output or same[1].seconds > 60:
        yield f"the second time took {same[1].seconds:.0f} s and printed:\n{same[1].output[-400:]}"


def only_later_stages_ran_again(seen: Seen) -> Iterator[str]:
    """With other training steps the questions, debates and graphs stay, and the student is another one."""
    first, demo = seen.root / "runs" / "first", seen.root / "before"
    for stage in HELD:
        if digest(first / stage / "manifest.json") != digest(demo / f"{stage}.json"):
            yield f"{stage} ran again, for distil.train.max_steps was changed"
    if digest(first / "student" / "manifest.json") == digest(demo / "student.json"):
        yield "the student was not trained again, though distil.train.max_steps was changed"


def keep_manifests(root: Path) -> None:
    """Keep the manifests of the first run, before its training is changed."""
    (root / "before").mkdir(exist_ok=True)
    for stage in (*HELD, "student"):
        (root / "before" / f"{stage}.json").write_bytes((root / "runs" / "first" / stage / "manifest.json").read_bytes())


def recorded_debates_come_out(seen: Seen) -> Iterator[str]:
    """The loss falls as stated, and the student solves as little as stated."""
    words = " ".join(seen.readme.split())
    stated = re.search(
        r"the loss falls from ([\d.]+) to about ([\d.]+) in (\d+) steps .*?\((\d+) of (\d+) held-out questions", words
    )
    if stated is None:
        yield "the README no longer says how the recorded debates come out"
        return
    run = seen.root / "runs" / "gsm8k-recorded"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [one["loss"] for one in steps if "loss" in one and one.get("event") != "dev"]
    if abs(losses[0] - float(stated[1])) > WITHIN["loss"] or abs(min(losses[-3:]) - float(stated[2])) > WITHIN["loss"]:
        yield f"a loss from {stated[1]} to {stated[2]} is stated, measured was {losses[0]:.2f} to {losses[-1]:.2f}"
    if abs(len(losses) - int(stated[3])) > 2:
        yield f"{stated[3]} steps are stated, found {len(losses)}"
    right = {
        one["system"]: round(one["accuracy"] * one["questions"]) for one in metrics(run)["scores"] if one["method"] == "single"
    }
    if abs(right["level4"] - int(stated[4])) > WITHIN["answers"]:
        yield f"{stated[4]} of {stated[5]} are stated, measured was {right['level4']}"


def tree_holds(block: Block, run: Path) -> Iterator[str]:
    """Whatever a run directory holds is named in the tree; what the tree names need not be in every run."""
    names = set(re.findall(r"[\w.-]+", block.text))
    yield from (
        f"{block.place} does not name {path.name}, which a run has" for path in sorted(run.iterdir()) if path.name not in names
    )


def digest(file: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


CLAIMS: dict[str, Callable[[Seen], Iterator[str]]] = {
    "make demo": table_holds,
    "make demo ": differences_hold,
    "magdi run configs/tiny.yaml --out runs/first --set": only_later_stages_ran_again,
    "magdi run configs/tiny.yaml --out runs/first": second_time_does_nothing,
    "magdi run configs/gsm8k-recorded.yaml": recorded_debates_come_out,
}
"""What is held against the README when a command that begins so was run."""

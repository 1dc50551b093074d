"""What a training step costs: ours beside the step over pairs that MAGDi's released code takes (`benchmarks/pairwise.py`).

    python -m benchmarks.distil_step --json

Both learn level 4 from the same recorded GSM8K debates, with copies of one randomly initialised Llama and a byte-level
tokenizer trained on the debates. A step is 8 graphs on either side, with torch's AdamW and no DeepSpeed;
the sides take turns step by step, and who begins alternates. Counted is the CPU time of the process from token ids to updated
weights (making tensors, forward, backward, clipping, optimizer), after a step of each side that is not counted.

- ours: packed micro-batches of at most 2048 tokens, the LM head on correct replies in chunks, all pairs, live graph network.
- pairwise: micro-batches of 4 pairs as in the released code, shuffled as there but within the step, padded to the longest of the
  micro-batch. Its node embeddings are made before the clock starts.

tokens_ratio, cpu_ratio and rss_ratio are pairwise over ours. rss_ratio compares what the peak adds to the resident memory of the
process once the model is loaded, each side in a process of its own, over the longest graph alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.pairwise import PAIRS, RECIPE, Pairwise, Updates
from magdi_ray.config.distil import LoraTuning
from magdi_ray.distill.attention import Path as Packing
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import Counts, collate
from magdi_ray.distill.objectives import weighted_sum
from magdi_ray.distill.plan import Step, measure, share
from magdi_ray.distill.scratch import train_tokenizer
from magdi_ray.distill.student import DistillModel, add_lora, decoder_of
from magdi_ray.distill.tokens import GraphTokens, tokenise
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import import_debates
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.text import student_reply
from magdi_ray.progress import Progress, console
from magdi_ray.tasks.gsm8k import Gsm8k

MAX_LENGTH = 2048
"""The default of `distil.student.max_length`; a longer node is left out on both sides."""

DATA = Path(os.environ.get("MAGDI_DATA", "../shared/data"))

GRAPHS_A_STEP = 8
MICRO_BATCH = 2048
"""Tokens of a packed micro-batch, at most (one graph may be longer). From 1024 to 16384 the CPU time is the same within 7%."""

SETS: dict[str, tuple[tuple[str, str], ...]] = {
    "small": (("society", "du_gsm/gsm_3_2_100.json"),),
    "large": (("llm_agora", "llm_agora/gsm_result.json"), ("society", "slm_gsm/*.json")),
}
"""Format and file under `debates/` of the data directory: 6 nodes a graph, and 9 to 15."""

SHAPES: dict[str, dict[str, int]] = {
    "5M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 5, "num_attention_heads": 4},
    "40M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "num_attention_heads": 8},
}
"""By their size with a vocabulary of 4096; a larger one adds its embeddings, which are tied to the head."""

VOCABULARIES = {"4k": 4096, "32k": 32768}
HEADLINE = "large/5M/4k/lora"
LIMITS = {("large", "5M"): 8, ("small", "5M"): 16, ("large", "40M"): 4, ("small", "40M"): 8}
"""Graphs of a cell, evenly chosen from its set; in the headline's cell it is all of them."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table."""

    graphs: str
    size: str
    vocabulary: str
    tuning: Literal["lora", "full"]

    @property
    def name(self) -> str:
        """What `--cells` matches."""
        return f"{self.graphs}/{self.size}/{self.vocabulary}/{self.tuning}"


CELLS = tuple(Cell(*each) for each in product(("large", "small"), SHAPES, VOCABULARIES, ("lora", "full")))  # type: ignore[arg-type]


@cache
def load_mags(name: str, data: Path) -> tuple[Mag, ...]:
    """The debates of a set that hold a correct node, in the order of their files."""
    task = Gsm8k()
    files = [(format_, path) for format_, pattern in SETS[name] for path in sorted((data / "debates").glob(pattern))]
    if len(files) < len(SETS[name]):
        raise SystemExit(
            f"The set {name} needs {[p for _, p in SETS[name]]}; found {files} under {data / 'debates'}. Set MAGDI_DATA."
        )
    mags = [build_mag(debate, task) for format_, path in files for debate in import_debates(format_, path, task).debates]
    return tuple(mag for mag in mags if any(node.correct for node in mag.nodes))


@cache
def load_tokenizer(vocabulary: str, data: Path) -> PreTrainedTokenizerBase:
    """Trained on the texts of both sets, so that a student has the same size with either."""
    task = Gsm8k()

    def texts() -> Iterator[str]:
        for mag in (mag for name in SETS for mag in load_mags(name, data)):
            yield task.prompt(mag.question)
            yield from (text for node in mag.nodes if (text := student_reply(task, node)))

    return train_tokenizer(texts(), VOCABULARIES[vocabulary])


def load_graphs(name: str, tokenizer: PreTrainedTokenizerBase, data: Path, *, limit: int | None) -> list[GraphTokens]:
    """Shuffled graphs with a correct node, `limit` of them evenly chosen."""
    tokenised = tokenise(load_mags(name, data), Gsm8k(), tokenizer=tokenizer, recipe=RECIPE, max_length=MAX_LENGTH).graphs
    graphs = [graph for graph in tokenised if any(node.correct for node in graph.nodes)]
    count = min(limit or len(graphs), len(graphs))
    # Two files may debate one question: the number keeps their graphs apart.
    chosen = [replace(graphs[i], question_id=f"{i}") for i in (n * len(graphs) // count for n in range(count))]
    random.Random(0).shuffle(chosen)
    return chosen


def make_student(cell: Cell, vocab_size: int) -> LlamaForCausalLM:
    """Random weights; the same for both sides."""
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=MAX_LENGTH, tie_word_embeddings=True, **SHAPES[cell.size])
    return LlamaForCausalLM(shape)


class Method(Protocol):
    """One way of taking a step."""

    model: nn.Module

    def step(self, graphs: Sequence[GraphTokens]) -> int:
        """One optimiser step; the tokens that were forwarded, padding included."""
        ...


class Packed:
    """Our step."""

    def __init__(
        self,
        student: Any,
        *,
        pad_id: int,
        packing: Packing = "segments",
        device: str = "cpu",
        limit: int = MICRO_BATCH,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = DistillModel(student, RECIPE).to(device, dtype).train()
        prepare_attention(decoder_of(student), packing, device=device)
        self.update, self.pad_id, self.device, self.limit = Updates(self.model), pad_id, device, limit

    def step(self, graphs: Sequence[GraphTokens]) -> int:
        """Micro-batches under a token budget, dealt out as the trainer deals them; every mean is over the whole step."""
        sizes = [measure(graph, next_token=True, loss_on_prompt=False, packed=True) for graph in graphs]
        sums = (sum(size.supervised for size in sizes), sum(size.nodes for size in sizes), sum(size.pairs for size in sizes))
        counts = Counts(*(max(1, total) for total in sums))
        tokens = 0
        for places in share(Step(tuple(range(len(graphs))), *sums), sizes, workers=1, limit=self.limit)[0]:
            batch = collate([graphs[i] for i in places], pad_id=self.pad_id, packed=True).to(self.device)
            loss, _ = weighted_sum(self.model(batch), batch, RECIPE.objectives, counts)
            loss.backward()
            tokens += batch.input_ids_BT.numel()
        self.update()
        return tokens


@dataclass(frozen=True, slots=True)
class Bench:
    """A cell, ready to run."""

    cell: Cell
    graphs: list[GraphTokens]
    student: LlamaForCausalLM
    pad_id: int
    placeholder: list[int]

    def steps(self) -> list[list[GraphTokens]]:
        """The graphs of each step."""
        return [self.graphs[first : first + GRAPHS_A_STEP] for first in range(0, len(self.graphs), GRAPHS_A_STEP)]

    def _student(self) -> Any:
        student = copy.deepcopy(self.student)
        return add_lora(student, LoraTuning(type="lora")) if self.cell.tuning == "lora" else student

    def packed(self, options: argparse.Namespace) -> Packed:
        """Our side."""
        return Packed(self._student(), pad_id=self.pad_id, limit=options.micro_batch)

    def pairwise(self, options: argparse.Namespace) -> Pairwise:
        """The other side."""
        shuffled = not options.in_order
        side = Pairwise(self._student(), pad_id=self.pad_id, placeholder=self.placeholder, pairs=options.pairs, shuffled=shuffled)
        side.freeze(self.graphs, self.student.config.hidden_size)
        return side


def prepare(cell: Cell, options: argparse.Namespace) -> Bench:
    """Data, tokenizer and weights of a cell."""
    tokenizer = load_tokenizer(cell.vocabulary, options.data)
    limit = None if cell.name == HEADLINE else LIMITS[cell.graphs, cell.size]
    limit = min(limit or options.graphs, options.graphs) if options.graphs else limit
    graphs = load_graphs(cell.graphs, tokenizer, options.data, limit=limit)
    placeholder = [*tokenizer("NA", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Bench(cell, graphs, make_student(cell, len(tokenizer)), tokenizer.pad_token_id, placeholder)


def compare(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds and tokens of both sides over the same graphs, step by step in turns."""
    sides: dict[str, Method] = {"packed": bench.packed(options), "pairwise": bench.pairwise(options)}
    seconds, tokens = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    shortest = sorted(bench.graphs, key=lambda graph: sum(len(node.reply_ids) for node in graph.nodes))[:2]
    for side in sides.values():
        side.step(shortest)
    steps = bench.steps()
    for number, graphs in enumerate(steps):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            forwarded = sides[name].step(graphs)
            seconds[name] += time.process_time() - started
            tokens[name] += forwarded
    prompts, replies = (
        sum(len(graph.prompt_ids) for graph in bench.graphs),
        sum(len(node.reply_ids) for graph in bench.graphs for node in graph.nodes),
    )
    return {
        **asdict(bench.cell),
        "parameters": bench.student.num_parameters(),
        "graph_count": len(bench.graphs),
        "nodes": sum(len(graph.nodes) for graph in bench.graphs),
        "steps": len(steps),
        "prompt_share": round(prompts / (prompts + replies), 3),
        "packed_tokens": tokens["packed"],
        "pairwise_tokens": tokens["pairwise"],
        "packed_cpu_s": round(seconds["packed"], 2),
        "pairwise_cpu_s": round(seconds["pairwise"], 2),
        "tokens_ratio": round(tokens["pairwise"] / tokens["packed"], 3),
        "cpu_ratio": round(seconds["pairwise"] / seconds["packed"], 3),
    }


def peak_memory(bench: Bench, side: str, options: argparse.Namespace) -> dict[str, float]:
    """MB resident with the model loaded, and at the peak of a step over the longest graph; this process does nothing else."""
    method: Method = bench.packed(options) if side == "packed" else bench.pairwise(options)
    longest = max(bench.graphs, key=lambda graph: sum(len(node.reply_ids) for node in graph.nodes))
    before = _status("VmRSS")
    method.step([longest])
    return {"before_mb": before, "peak_mb": _status("VmHWM")}


def _status(field: str) -> float:
    """A line of /proc/self/status in MB. Unlike getrusage's, its peak is not inherited from the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024, 1)


def memory_ratio(packed: dict[str, float], pairwise: dict[str, float]) -> dict[str, float]:
    """The memory part of a line, from both sides' `peak_memory`."""
    figures: dict[str, float] = {}
    for side, seen in (("packed", packed), ("pairwise", pairwise)):
        figures |= {f"{side}_rss_mb": seen["peak_mb"], f"{side}_rss_added_mb": round(seen["peak_mb"] - seen["before_mb"], 1)}
    return {**figures, "rss_ratio": round(figures["pairwise_rss_added_mb"] / figures["packed_rss_added_mb"], 3)}


def in_child(cell: Cell, part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part of a cell, measured in a process of its own."""
    given = {"threads": options.threads, "micro-batch": options.micro_batch, "pairs": options.pairs, "data": options.data}
    given |= {"cells": cell.name, "part": part, **({"graphs": options.graphs} if options.graphs else {})}
    arguments = [f"--{name}={value}" for name, value in given.items()] + ["--in-order"] * options.in_order
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{cell.name}, {part}, failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_cell(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """A line of the table."""
    row = in_child(cell, "compare", options)
    if not options.no_memory:
        row |= memory_ratio(in_child(cell, "packed", options), in_child(cell, "pairwise", options))
    return row


def show(cells: Sequence[dict[str, Any]]) -> None:
    """The table for people."""
    table = Table(title="pairwise over packed")
    columns = ("graphs", "student", "parameters", "count", "prompt", "tokens", "CPU s", "tokens x", "CPU x", "MB", "memory x")
    for column in columns:
        table.add_column(column, justify="right")
    for cell in cells:
        table.add_row(
            cell["graphs"],
            f"{cell['size']} {cell['vocabulary']} {cell['tuning']}",
            f"{cell['parameters'] / 1e6:.1f}M",
            str(cell["graph_count"]),
            f"{cell['prompt_share']:.1%}",
            f"{cell['pairwise_tokens']} / {cell['packed_tokens']}",
            f"{cell['pairwise_cpu_s']:.1f} / {cell['packed_cpu_s']:.1f}",
            f"{cell['tokens_ratio']:.2f}",
            f"{cell['cpu_ratio']:.2f}",
            f"{cell['pairwise_rss_added_mb']:.0f} / {cell['packed_rss_added_mb']:.0f}" if "rss_ratio" in cell else "-",
            f"{cell['rss_ratio']:.2f}" if "rss_ratio" in cell else "-",
        )
    Console(width=150).print(table)


def markdown(row: dict[str, Any]) -> str:
    """A line of the table in `benchmarks/README.md`."""
    student = f"{row['size']} {row['vocabulary']} {row['tuning']} ({row['parameters'] / 1e6:.1f}M)"
    tokens, cpu = f"{row['packed_tokens']} / {row['pairwise_tokens']}", f"{row['packed_cpu_s']} / {row['pairwise_cpu_s']}"
    added = f"{row.get('packed_rss_added_mb', '-')} / {row.get('pairwise_rss_added_mb', '-')}"
    ratios = [f"**{row[name]:.2f}**" if name in row else "-" for name in ("tokens_ratio", "cpu_ratio", "rss_ratio")]
    return " | ".join(["", row["graphs"], student, str(row["graph_count"]), tokens, cpu, added, *ratios, ""]).strip()


def run(cells: Sequence[Cell], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every cell, `jobs` at a time: each side of a cell is slowed down by the other cells as much as its rival."""
    rows: dict[str, dict[str, Any]] = {}
    with Progress("Cells", len(cells)) as progress, ThreadPoolExecutor(options.jobs) as pool:
        for done in as_completed([pool.submit(measure_cell, cell, options) for cell in cells]):
            row = done.result()
            name = Cell(*(row[field.name] for field in fields(Cell))).name
            rows[name] = row
            memory = f", memory {row['rss_ratio']:.2f}x" if "rss_ratio" in row else ""
            console.print(f"  {name}: tokens {row['tokens_ratio']:.2f}x, CPU {row['cpu_ratio']:.2f}x{memory}")
            progress.update(len(rows))
    return [rows[cell.name] for cell in cells]


def one_part(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """What a child process measures."""
    bench = prepare(cell, options)
    return compare(bench, options) if options.part == "compare" else peak_memory(bench, options.part, options)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Our training step beside a pairwise one.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cells", default="", help="only cells whose name holds one of these, comma-separated: large/5M/4k/lora")
    parser.add_argument("--graphs", type=int, help="at most so many graphs a cell")
    parser.add_argument("--threads", type=int, default=1, help="of torch; one, so that no CPU time is spent waiting")
    parser.add_argument("--micro-batch", type=int, default=MICRO_BATCH, help="tokens of a packed micro-batch")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of a pairwise micro-batch")
    parser.add_argument("--in-order", action="store_true", help="pairs in the order of the graphs, not shuffled: less padding")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="cells measured at the same time")
    parser.add_argument("--part", choices=("compare", "packed", "pairwise"), help=argparse.SUPPRESS)
    parser.add_argument("--markdown", action="store_true", help="print the lines of the table in benchmarks/README.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = [part for part in options.cells.split(",") if part]
    cells = [cell for cell in CELLS if not wanted or any(part in cell.name for part in wanted)]
    if not cells:
        parser.error(f"--cells {options.cells!r} matches none of {', '.join(cell.name for cell in CELLS)}")
    if options.part:
        print(json.dumps(one_part(cells[0], options)))
        return
    rows = run(cells, options)
    if options.markdown:
        print("\n".join(markdown(row) for row in rows))
    elif not options.json:
        show(rows)
    if not options.json:
        return
    headline = next((row for cell, row in zip(cells, rows, strict=True) if cell.name == HEADLINE), {})
    print(json.dumps({**{name: headline.get(name) for name in ("tokens_ratio", "cpu_ratio", "rss_ratio")}, "cells": rows}))


if __name__ == "__main__":
    main()

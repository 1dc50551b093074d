"""What a training step costs on a GPU: packed rows by FlexAttention and by segments, beside the step over pairs.

    python -m benchmarks.gpu_step --json

Randomly initialised Llamas of 1B and 7B parameters in bfloat16, LoRA (r 16 on q_proj and v_proj), level 4, the large debates of
`benchmarks/distil_step.py` with a vocabulary of 32k, AdamW without DeepSpeed, no gradient checkpointing unless asked for. The
paths go one after the other over the same graphs, since only one 7B student fits; each takes two steps first that are not
counted, in which kernels are compiled.

- tokens_s: tokens forwarded a second, padding and repetition included; graphs_s: graphs a second.
- mfu, the model FLOP utilisation: of useful work only, so that no path is paid for repetition or padding.
  `mfu = FLOPs / (seconds x peak)`, `FLOPs = 4 D t + 4 V h m + 12 L h sum_i n_i (c_i + n_i / 2)`.
  D: weights of the decoder's linear layers; t: tokens of prompts and replies, each once. A frozen weight is used in the forward
  pass and in the gradient of its input, 2 + 2 FLOPs a token (LoRA's own, below 1%, are left out). V h: weights of the head; m:
  supervised tokens. Attention, in L layers of width h: span i of n_i tokens sees its c_i prompt tokens and half of itself, at 4
  FLOPs a pair and channel forward and 8 backward.
- ratio_to_pairwise: wall time of the pairwise step over that of a path. peak_gb: `max_memory_allocated`, weights included.

It needs CUDA and exits with 2 where there is none. `--device cpu --tiny` runs the same code with a student of two small layers
and without FlexAttention, which has no backward pass there: that checks the script and says nothing of speed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.distil_step import DATA, MAX_LENGTH, Method, Packed, load_graphs, load_tokenizer
from benchmarks.pairwise import PAIRS, Pairwise
from magdi_ray.config.distil import LoraTuning
from magdi_ray.distill.student import add_lora
from magdi_ray.distill.tokens import GraphTokens
from magdi_ray.progress import console

SHAPES: dict[str, dict[str, int]] = {
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
"""The shapes of Llama 3.2 1B and Llama 2 7B; the vocabulary is the benchmark's own."""

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}
"""Dense bfloat16 TFLOP/s by what a device's name holds (the makers' data sheets, SXM variants)."""

NO_CUDA = 2


def peak_flops(device: str, given: float | None) -> float | None:
    """FLOP/s of the device; None where it is not known."""
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    # Longest first: "L40S" also holds "L4".
    return next((PEAK_TFLOPS[key] * 1e12 for key in sorted(PEAK_TFLOPS, key=len, reverse=True) if key in name), None)


def useful_flops(graphs: Sequence[GraphTokens], config: LlamaConfig, decoder_weights: int) -> float:
    """FLOPs of a LoRA step that does nothing twice; the formula stands at the top."""
    tokens = supervised = 0
    seen = 0.0
    for graph in graphs:
        prompt = len(graph.prompt_ids)
        replies = [len(node.reply_ids) for node in graph.nodes]
        tokens += prompt + sum(replies)
        supervised += sum(len(node.reply_ids) for node in graph.nodes if node.correct)
        seen += prompt * prompt / 2 + sum(reply * (prompt + reply / 2) for reply in replies)
    attention = 12 * config.num_hidden_layers * config.hidden_size * seen
    return 4 * decoder_weights * tokens + 4 * config.vocab_size * config.hidden_size * supervised + attention


def make_student(size: str, vocab_size: int, options: argparse.Namespace) -> tuple[Any, LlamaConfig, int]:
    """A student under LoRA on the device, its configuration, and the weights of its decoder's linear layers."""
    config = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=MAX_LENGTH, tie_word_embeddings=True, **SHAPES[size])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(options.device):
            student = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    linear = sum(module.weight.numel() for module in student.model.modules() if isinstance(module, torch.nn.Linear))
    if options.gradient_checkpointing:
        student.gradient_checkpointing_enable()
        student.enable_input_require_grads()
    return add_lora(student, LoraTuning(type="lora")), config, linear


def make_method(
    path: str, student: Any, tokenizer: PreTrainedTokenizerBase, graphs: Sequence[GraphTokens], options: argparse.Namespace
) -> Method:
    """One of the three ways of taking a step."""
    common: dict[str, Any] = {"pad_id": tokenizer.pad_token_id, "device": options.device, "dtype": torch.bfloat16}
    if path != "pairwise":
        return Packed(student, packing=path, limit=options.micro_batch, **common)  # type: ignore[arg-type]
    placeholder = [*tokenizer("NA", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    method = Pairwise(student, placeholder=placeholder, pairs=options.pairs, **common)
    method.freeze(graphs, student.config.hidden_size)
    return method


def measure_path(
    path: str, size: str, tokenizer: PreTrainedTokenizerBase, steps: Sequence[Sequence[GraphTokens]], options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds, tokens and memory of one path over all steps. One path at a time: two 7B students are more than they need."""
    student, config, linear = make_student(size, len(tokenizer), options)
    method = make_method(path, student, tokenizer, [graph for graphs in steps for graph in graphs], options)
    for graphs in steps[:2]:
        method.step(graphs)
    _wait(options.device)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    tokens = sum(method.step(graphs) for graphs in steps)
    _wait(options.device)
    seconds = time.perf_counter() - started
    flops = sum(useful_flops(graphs, config, linear) for graphs in steps)
    peak = peak_flops(options.device, options.peak_tflops)
    memory = torch.cuda.max_memory_allocated() / 1e9 if options.device == "cuda" else None
    count = sum(len(graphs) for graphs in steps)
    return {
        "student": size,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "path": path,
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_s": round(tokens / seconds, 1),
        "graphs_s": round(count / seconds, 3),
        "mfu": None if peak is None else round(flops / (seconds * peak), 4),
        "peak_gb": None if memory is None else round(memory, 2),
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every path of every student; ratios to the pairwise step of the same student."""
    tokenizer = load_tokenizer("4k" if options.tiny else "32k", options.data)
    graphs = load_graphs("large", tokenizer, options.data, limit=options.graphs)
    steps = [graphs[first : first + options.graphs_a_step] for first in range(0, len(graphs), options.graphs_a_step)]
    paths = ["pairwise", "segments", *(["flex"] if options.device == "cuda" else [])]
    rows: list[dict[str, Any]] = []
    for size in ["tiny"] if options.tiny else options.students.split(","):
        seconds = 0.0
        for path in paths:
            row = measure_path(path, size, tokenizer, steps, options)
            seconds = seconds or row["seconds"]
            row["ratio_to_pairwise"] = round(seconds / row["seconds"], 3)
            rows.append(row)
            console.print(f"  {size} {path}: {row['tokens_s']:.0f} tokens/s, {row['ratio_to_pairwise']:.2f}x")
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table for people."""
    table = Table()
    columns = ("student", "path", "tokens_s", "graphs_s", "mfu", "peak_gb", "ratio_to_pairwise")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*("-" if row[column] is None else str(row[column]) for column in columns))
    Console(width=120).print(table)


def main() -> int:
    """Command line; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description="Our training step beside a pairwise one, on a GPU.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--students", default="1B,7B", help="of 1B and 7B")
    parser.add_argument("--graphs", type=int, default=80)
    parser.add_argument("--graphs-a-step", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=8192, help="tokens of a packed micro-batch")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of a pairwise micro-batch")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the device in dense bfloat16, where its name is not known")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a student of two small layers: checks the script")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "An NVIDIA GPU and a build of torch with CUDA are required (24 GB for 1B, 80 GB for 7B); torch.cuda finds none. "
            "To check the script itself: --device cpu --tiny --graphs 4.",
            file=sys.stderr,
        )
        return NO_CUDA
    rows = run(options)
    if options.json:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        print(json.dumps({"device": device, "torch": torch.__version__, "paths": rows}))
    else:
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

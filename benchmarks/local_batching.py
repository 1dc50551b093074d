"""How fast one local teacher answers with dynamic and with continuous batching, on one machine in one run.

    python benchmarks/local_batching.py --json

The teacher is a copy of a tiny model that knows no end token, so that every reply is exactly as long as it is asked to be: all
equally long, or uneven (exponential, with the same mean). The two engines take turns, and each turn is one comparison; the ratio
is continuous to dynamic in generated tokens a second, above 1 where continuous is faster. It says nothing of GPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from magdi_ray.agents.base import Message, Sampling
from magdi_ray.agents.continuous import ContinuousAgent
from magdi_ray.agents.transformers import TransformersAgent
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.engines import TransformersEngine

END_TOKENS = {"config.json": "eos_token_id", "generation_config.json": "eos_token_id", "tokenizer_config.json": "eos_token"}
"""Where a model directory says how a reply ends."""


def endless_copy(model: str, directory: Path) -> str:
    """A copy of a model that never ends a reply by itself."""
    shutil.copytree(resolve_model(model), directory)
    for file, field in END_TOKENS.items():
        settings = json.loads((directory / file).read_text(encoding="utf-8"))
        settings.pop(field, None)
        (directory / file).write_text(json.dumps(settings), encoding="utf-8")
    return str(directory)


def reply_lengths(kind: str, *, requests: int, mean: int, seed: int) -> list[int]:
    """Tokens of every reply; both kinds come to about the same sum."""
    if kind == "equal":
        return [mean] * requests
    draw = random.Random(seed)
    return [min(4 * mean, max(4, round(draw.expovariate(1 / mean)))) for _ in range(requests)]


def tokens_a_second(agent: TransformersAgent, lengths: list[int]) -> float:
    """Ask everything at once and wait for the last reply."""

    async def run() -> int:
        asked = [
            agent.generate(
                [Message("user", f"Mia has {i % 9} apples and buys {i % 7} more. How many?")], Sampling(max_tokens=length)
            )
            for i, length in enumerate(lengths)
        ]
        return sum(reply.tokens_out for reply in await asyncio.gather(*asked))

    start = time.perf_counter()
    tokens = asyncio.run(run())
    if tokens != sum(lengths):
        raise RuntimeError(f"{sum(lengths)} tokens were to be generated, found {tokens}.")
    return tokens / (time.perf_counter() - start)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Speeds and ratios of both kinds of load."""
    with tempfile.TemporaryDirectory() as scratch:
        model = endless_copy(options.model, Path(scratch) / "teacher")
        config = TransformersEngine(type="transformers", model=model, max_batch_size=options.batch)
        dynamic = TransformersAgent(config, device=options.device)
        continuous = ContinuousAgent(config, device=options.device)
    ratios: dict[str, list[float]] = {}
    speeds: dict[str, dict[str, list[float]]] = {}
    for kind in ("equal", "uneven"):
        lengths = reply_lengths(kind, requests=options.requests, mean=options.tokens, seed=options.seed)
        speeds[kind] = {"dynamic": [], "continuous": []}
        for turn in range(options.turns + 1):
            pair = {"dynamic": tokens_a_second(dynamic, lengths), "continuous": tokens_a_second(continuous, lengths)}
            if turn:  # the first one warms up
                ratios.setdefault(kind, []).append(pair["continuous"] / pair["dynamic"])
                for engine, speed in pair.items():
                    speeds[kind][engine].append(speed)
    continuous.close()
    return {
        "ratio_continuous_to_dynamic": {kind: round(median(values), 3) for kind, values in ratios.items()},
        "range": {kind: [round(min(values), 3), round(max(values), 3)] for kind, values in ratios.items()},
        "tokens_a_second": {kind: {name: round(median(v)) for name, v in each.items()} for kind, each in speeds.items()},
        "requests": options.requests,
        "batch": options.batch,
        "turns": options.turns,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pkg://magdi_ray/tiny/models/ada")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="replies decoded together, at most")
    parser.add_argument("--tokens", type=int, default=64, help="of a reply, on average")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()

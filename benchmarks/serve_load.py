"""How many tokens a second the endpoint serves, how long a client waits for the first, and what the front door itself costs.

    python -m benchmarks.serve_load --json

The model is made here: a Llama of random weights that knows no end token, so that every reply is exactly as long as it is asked
to be; lengths are uneven (exponential). 1, 8, 32 and 128 clients ask over loopback, each its next question when the last is
answered, and read the stream. Three servers take their turn, on the same model, machine and requests, each alone:

- `magdi`: this project's endpoint, as `magdi serve` starts it;
- `transformers`: `transformers serve`, as it comes, and `transformers-cb`: the same with `--continuous-batching`.

- throughput_ratio: tokens a second of `magdi` over those of `transformers`, at 32 clients; `throughput_ratio_cb`: over those of
  `transformers-cb`.
- overhead_p50_ms: median seconds of a request of one token over HTTP, less those of the same request by the engine's own handle;
  `overhead_in_process_p50_ms`: less those of the same engine, called in this process.
- errors: requests of `magdi` that failed, of all levels.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import aiohttp
import psutil

from magdi_ray.cluster import free_ports, ray_session, serve_over_http

TOKENIZER = Path(__file__).parent.parent / "magdi_ray" / "tiny" / "models" / "ada"
WORDS = ["kim", "has", "13", "eggs", ".", "kim", "finds", "9", "eggs", ".", "how", "many", "eggs", "does", "kim", "have", "?"]
MEAN_TOKENS = 48
TIMEOUT = 900.0


@dataclass
class Seen:
    """What the clients of one level saw."""

    firsts: list[float] = field(default_factory=list)
    """Seconds to the first token, a request each."""
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def row(self, server: str, clients: int) -> dict[str, Any]:
        """A line of the table."""
        return {
            "server": server,
            "clients": clients,
            "requests": len(self.firsts) + len(self.errors),
            "tokens_per_s": round(self.tokens / self.seconds, 1),
            **{f"ttft_p{share}_ms": round(1000 * quantile(self.firsts, share / 100), 1) for share in (50, 95, 99)},
            "errors": len(self.errors),
        }


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def make_model(directory: Path, *, hidden: int, layers: int) -> None:
    """A Llama of random weights without an end token, with the tiny world's tokenizer and a plain chat template."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    shutil.copytree(TOKENIZER, directory, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "generation_config.json"))
    settings = directory / "tokenizer_config.json"
    text = {name: value for name, value in json.loads(settings.read_text()).items() if name != "eos_token"}
    text["chat_template"] = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    settings.write_text(json.dumps(text))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    torch.manual_seed(0)
    shape = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, bos_token_id=None, eos_token_id=None, **shape)
    LlamaForCausalLM(config).save_pretrained(directory)


def requests_of(clients: int, *, seed: int) -> list[dict[str, Any]]:
    """Chat requests with prompts and replies of uneven length."""
    draw = random.Random(seed)
    count = max(6, 3 * clients) if clients < 128 else 2 * clients
    made = []
    for _ in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randint(8, 60))]
        tokens = min(4 * MEAN_TOKENS, max(4, round(draw.expovariate(1 / MEAN_TOKENS))))
        made.append({"messages": [{"role": "user", "content": " ".join(words)}], "max_tokens": tokens})
    return made


async def load(url: str, model: str, bodies: list[dict[str, Any]], clients: int) -> Seen:
    """Send all requests by so many clients, each one after the other."""
    seen, waiting = Seen(), iter(bodies)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()

        async def client() -> None:
            for body in waiting:
                try:
                    await one(session, url, {"model": model, "temperature": 0, "stream": True, **body}, seen)
                except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
                    seen.errors.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(client() for _ in range(clients)))
        seen.seconds = time.perf_counter() - started
    return seen


async def one(session: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Seen) -> None:
    """One request, read to its end."""
    started, first = time.perf_counter(), 0.0
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:200]}")
        finished = False
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            choice = event["choices"][0] if event["choices"] else {}
            finished = finished or bool(choice.get("finish_reason"))
            # A reply of a few special tokens has no text: its first token is seen when it ends.
            if not first and (finished or choice.get("delta", {}).get("content")):
                first = time.perf_counter() - started
        if not finished:
            raise RuntimeError("the stream ended early")
    seen.firsts.append(first)
    seen.tokens += body["max_tokens"]  # there is no end token: every reply is as long as it may be


async def medians(calls: int, *ask: Callable[[], Awaitable[object]]) -> list[float]:
    """Median seconds of a call of each kind; they take turns, so that a slow moment meets all alike."""
    times: list[list[float]] = [[] for _ in ask]
    for turn in range(calls + 10):
        for kept, call in zip(times, ask, strict=True):
            started = time.perf_counter()
            await call()
            if turn >= 10:
                kept.append(time.perf_counter() - started)
    return [quantile(kept, 0.5) for kept in times]


async def overheads(url: str, model: str, directory: Path, calls: int) -> dict[str, float]:
    """What HTTP and the front door add to a request of one token."""
    from ray import serve

    from magdi_ray.agents.base import Message
    from magdi_ray.agents.continuous import ContinuousAgent
    from magdi_ray.agents.streaming import Decoding, Prompt
    from magdi_ray.config.engines import TransformersEngine

    handle = serve.get_deployment_handle("student", "student")
    prompt, decoding = Prompt(messages=(Message("user", "kim has 13 eggs ."),)), Decoding(max_tokens=1)
    agent = ContinuousAgent(TransformersEngine(type="transformers", model=str(directory), batching="continuous"), device="cpu")
    body = {"model": model, "max_tokens": 1, "temperature": 0, "messages": [{"role": "user", "content": "kim has 13 eggs ."}]}

    async def by_handle() -> object:
        return await handle.complete.remote(prompt, decoding)

    async with aiohttp.ClientSession() as session:

        async def over_http() -> object:
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                assert response.status == 200, await response.text()
                return await response.read()

        http, handled, direct = await medians(calls, over_http, by_handle, lambda: agent.complete(prompt, decoding))
    agent.close()
    return {
        "overhead_p50_ms": round(1000 * (http - handled), 2),
        "overhead_in_process_p50_ms": round(1000 * (http - direct), 2),
        "http_p50_ms": round(1000 * http, 2),
        "handle_p50_ms": round(1000 * handled, 2),
        "in_process_p50_ms": round(1000 * direct, 2),
    }


def levels(
    loop: asyncio.Runner, server: str, url: str, model: str, clients: list[int], errors: list[str]
) -> Iterator[dict[str, Any]]:
    """The table's lines of one server."""
    loop.run(load(url, model, requests_of(2, seed=99), 2))  # warm
    for count in clients:
        seen = loop.run(load(url, model, requests_of(count, seed=count), count))
        errors += seen.errors
        row = seen.row(server, count)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if seen.errors:
            print(f"  {len(seen.errors)} errors, such as: {seen.errors[0]}", file=sys.stderr, flush=True)
        yield row


def measure_ours(
    directory: Path, clients: list[int], calls: int, batch: int
) -> tuple[list[dict[str, Any]], list[str], dict[str, float]]:
    """This project's endpoint, started as `magdi serve` does."""
    from magdi_ray.config.serving import StudentArgs

    errors: list[str] = []
    # One event loop for all: Serve's handles live on the one that asked first.
    with tempfile.TemporaryDirectory(prefix="magdi-load-") as files, asyncio.Runner() as loop:
        serve_over_http(Path(files))
        with ray_session():
            from magdi_ray.serving.app import deploy, start_http

            [port] = free_ports(1)
            start_http("127.0.0.1", port)
            deploy(StudentArgs(model=str(directory), model_name="student", num_cpus=1.0, max_batch_size=batch))
            url = f"http://127.0.0.1:{port}"
            rows = list(levels(loop, "magdi", url, "student", clients, errors))
            costs = loop.run(overheads(url, "student", directory, calls)) if calls else {}
    return rows, errors, costs


@contextmanager
def transformers_server(directory: Path, *flags: str) -> Iterator[str]:
    """`transformers serve` on a free port, as a child process."""
    [port] = free_ports(1)
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(directory), "--device", "cpu", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--dtype", "float32", *flags], stdout=log, stderr=log)
        try:
            url = f"http://localhost:{port}"
            asyncio.run(until_up(url, process))
            yield url
        finally:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
            process.wait()


async def until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: it ended, or said nothing for three minutes.
    """
    async with aiohttp.ClientSession() as session:
        for _ in range(360):
            if process.poll() is not None:
                raise RuntimeError(f"`transformers serve` ended with {process.returncode}")
            try:
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise RuntimeError("`transformers serve` did not come up")


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64, help="replies that magdi decodes together (serve.max_batch_size)")
    parser.add_argument("--calls", type=int, default=200, help="requests of one token, for the overhead; 0 leaves it out")
    parser.add_argument("--servers", nargs="+", default=["magdi", "transformers", "transformers-cb"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="magdi-model-") as files:
        directory = Path(files) / "model"
        make_model(directory, hidden=options.hidden, layers=options.layers)
        rows: list[dict[str, Any]] = []
        errors: list[str] = []
        costs: dict[str, float] = {}
        for server in options.servers:  # theirs first: Ray stays in this process
            if server != "magdi":
                flags = ["--continuous-batching"] * (server == "transformers-cb")
                with transformers_server(directory, *flags) as url, asyncio.Runner() as loop:
                    rows += levels(loop, server, url, str(directory), options.clients, [])
        if "magdi" in options.servers:
            ours, errors, costs = measure_ours(directory, options.clients, options.calls, options.batch)
            rows += ours
    speed = {(row["server"], row["clients"]): row["tokens_per_s"] for row in rows}
    mine = speed.get(("magdi", 32), float("nan"))
    ratios = {
        name: round(mine / speed[server, 32], 2)
        for name, server in (("throughput_ratio", "transformers"), ("throughput_ratio_cb", "transformers-cb"))
        if (server, 32) in speed
    }
    result = {**ratios, **costs, "errors": len(errors), "table": rows, "messages": sorted(set(errors))[:5]}
    if options.json:
        print(json.dumps(result))
    else:
        for row in rows:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
        print({name: value for name, value in result.items() if name != "table"})


if __name__ == "__main__":
    main()

"""`python -m tests.fuzz --seconds 300`: every parser in turn, with examples made of real samples, until the time is over.

    --only replies      targets whose name holds the word
    --seed 7            other examples; the same seed makes the same ones

Ends with a markdown table of what was run, and with 1 where anything was found; each finding is told with its example.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.bounds import MEMORY
from tests.fuzz.run import Finding, all_targets, example, tried


def main(arguments: list[str]) -> int:
    """Run for a while; returns the exit code."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--only", default="")
    chosen = options.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    targets = [target for target in all_targets() if chosen.only in target.name]
    print(f"{len(targets)} targets, seed {seed}", flush=True)
    ran, refused = Counter[str](), Counter[str]()
    found: dict[tuple[str, str], Finding] = {}
    end = time.monotonic() + chosen.seconds
    number = 0
    with tempfile.TemporaryDirectory(prefix="magdi-fuzz-") as place:
        while time.monotonic() < end:
            for target in targets:
                data = example(target, random.Random(f"{seed}/{number}/{target.name}"), number)
                outcome = tried(target, data, Path(place), ends_process=True)
                ran[target.name] += 1
                refused[target.name] += outcome == "refused"
                if isinstance(outcome, Finding) and (target.name, outcome.kind) not in found:
                    found[target.name, outcome.kind] = outcome
                    print(
                        f"\nFOUND {target.name}, example {number}: {outcome.told}\n  {data[:300]!r} ... ({len(data)} bytes)",
                        flush=True,
                    )
            number += 1
    print("\n| parser | bound | examples | refused | found |\n|---|---|---|---|---|")
    for target in targets:
        bound = f"{target.seconds:g} s of computing, {MEMORY >> 20} MiB"
        many = sum(name == target.name for name, _ in found)
        print(f"| {target.name} | {bound} | {ran[target.name]} | {refused[target.name]} | {many} |")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Trials by the dozen: `python -m tests.chaos --seeds 20`, or `make chaos SEEDS=20`. Minutes each on two cores.

A quiet run comes first, once for each version of the code; its books are what all others are held against. Then one
run a seed. Exit code 1 where the books of any do not balance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.audit import account_of
from tests.chaos.books import Account
from tests.chaos.faults import BY_NAME, PATIENT, cards
from tests.chaos.grounds import CONFIG, ROOT, Grounds
from tests.chaos.plan import plan_for
from tests.chaos.table import line, table
from tests.chaos.trial import Trial, forget


def quiet_account(grounds: Grounds) -> Account:
    """The books of a run to which nothing happens; found again where the same code has run it before.

    Raises:
        RuntimeError: it did not come to its end, or is not in order by itself.
    """
    sources = [CONFIG, CONFIG.with_name("teacher.py"), *sorted((ROOT / "magdi_ray").rglob("*.py"))]
    shaping = b"".join(path.read_bytes() for path in sources)
    kept = grounds.out / f"quiet-{hashlib.sha256(shaping).hexdigest()[:12]}.json"
    if kept.is_file():
        return account_of(json.loads(kept.read_text(encoding="utf-8")))
    run = grounds.disk / "quiet"
    forget(run)
    result, account = Trial(grounds, run, -1)()
    print(line(asdict(result)), flush=True)
    if account is None or result.wrong:
        grounds.keep(run)
        raise RuntimeError(f"the quiet run is not in order: {result.wrong}; it is in {grounds.out / 'kept'}")
    kept.write_text(json.dumps(asdict(account)), encoding="utf-8")
    forget(run)
    return account


def one(grounds: Grounds, quiet: Account, seed: int, faults: list[str] | None) -> dict[str, Any]:
    """The trial of a seed; a run whose books are wrong is kept."""
    run = grounds.disk / f"seed-{seed}"
    forget(run)
    known = [card for card in cards(faults) if grounds.bounded or card[0] != "disk-full"]
    result, _ = Trial(grounds, run, seed, blows=plan_for(seed, known, patient=PATIENT), quiet=quiet)()
    if result.wrong:
        grounds.keep(run)
    forget(run)
    return asdict(result)


def main() -> None:
    """Read the command line, run the trials, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--faults", default=None, help=f"only these, with commas between: {','.join(BY_NAME)}")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "chaos", help="for results, and for runs that went wrong")
    options = parser.parse_args()
    faults = options.faults.split(",") if options.faults else None
    if unknown := sorted(set(faults or ()) - set(BY_NAME)):
        parser.error(f"no such fault: {', '.join(unknown)}")
    results: list[dict[str, Any]] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is told to end takes the cluster along
    with Grounds(options.out) as grounds:
        if not grounds.bounded:
            print("no small file system can be mounted here: disk-full is left out", flush=True)
        quiet = quiet_account(grounds)
        for seed in range(options.first, options.first + options.seeds):
            results.append(one(grounds, quiet, seed, faults))
            print(line(results[-1]), flush=True)
            (grounds.out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
            (grounds.out / "table.md").write_text(table(results, order=cards()) + "\n", encoding="utf-8")
        cluster = grounds.cluster
    if left := cluster.left():
        print(f"still running after the end: {left}")
    print(f"{sum(not result['wrong'] for result in results)} of {len(results)} books balanced; {options.out / 'table.md'}")
    sys.exit(any(result["wrong"] for result in results) or bool(left))


if __name__ == "__main__":
    main()

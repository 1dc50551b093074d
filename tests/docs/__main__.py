"""Follow README.md and docs/*.md as a stranger would: `python -m tests.docs`, or `make docs-test`.

The files under version control are copied to an empty folder; with an empty HOME every block is run, loaded or looked at, and
what came out is held against what is stated. A block that cannot be run here has a mark with its reason (tests/docs/blocks.py).

    python -m tests.docs                        # everything, with an environment of its own: about half an hour on two cores
    python -m tests.docs --quick runs/demo-X    # this Python's environment and a finished demo run are taken
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.docs.follow import Follower, Outcome


def main() -> int:
    """Follow the documents; 0 where nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", type=Path, metavar="RUN", help="a finished run of configs/tiny.yaml, taken in place of `make demo`"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="documents whose path holds these words")
    parser.add_argument("--section", default="", metavar="WORDS", help="sections whose heading holds these words")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write what came of each block, as markdown")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    workspace = Path(tempfile.mkdtemp(prefix="md"))  # short: sockets of Ray lie below it
    started = time.monotonic()
    follower = Follower(workspace, options.quick.resolve() if options.quick else None)
    print(f"in {workspace}", flush=True)
    follower.prepare()
    follower.follow(options.only, options.section)
    counts = Counter(outcome.state for outcome in follower.outcomes)
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    print(f"{said}; {(time.monotonic() - started) / 60:.0f} minutes")
    if options.report:
        options.report.write_text(as_markdown(follower.outcomes, said))
    if not options.keep and not counts["failed"]:
        shutil.rmtree(workspace, ignore_errors=True)
    return 1 if counts["failed"] or not follower.outcomes else 0


def as_markdown(outcomes: list[Outcome], said: str) -> str:
    """A row a block or command."""
    rows = []
    for one in outcomes:
        what, note = one.what.replace("|", "\\|")[:90], " ".join(one.note.split())[:200].replace("|", "\\|")
        rows.append(f"| {one.place} | `{what}` | {one.state} | {one.seconds:.0f} | {note} |")
    return "\n".join([f"{said}\n", "| where | what | outcome | seconds | note |", "|---|---|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    sys.exit(main())

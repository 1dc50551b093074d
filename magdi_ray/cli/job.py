"""What a Ray job runs: the command line, which a stopped job leaves as Ctrl-C does. `python -m magdi_ray.cli.job run CONFIG`

`ray job stop`, a node that is drained and Kubernetes all send SIGTERM first.
"""

from __future__ import annotations

import signal
import sys

from magdi_ray.cli import main


def run_job(*arguments: str) -> None:
    """Run a command of `magdi`; SIGTERM leaves a run that can go on, and exit code 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main([*arguments, *sys.argv[1:]])


if __name__ == "__main__":
    run_job()

"""`magdi doctor`: one line a check, grouped by topic; exit code 1 where something failed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magdi_ray.cli.options import Set, option, out, print_table

if TYPE_CHECKING:
    from magdi_ray.doctor.check import Finding

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of a run; what it needs is checked too.", show_default=False)
    ] = None,
    out_: Annotated[str | None, option("--out", help="The run directory, or its URL. Default with CONFIG: runs/NAME.")] = None,
    address: Annotated[
        str | None, option(help="Join this cluster: HOST:6379, ray://HOST:10001, http://HOST:8265 or auto.")
    ] = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead: a list of findings.")] = False,
) -> None:
    """Check this machine and what a run needs: packages, disks, GPUs, Ray, keys and endpoints. Exit code 1 where a check failed.

    Asks nothing that costs money, starts no Ray, and shows no key.

    Example: magdi doctor configs/gsm8k-api.yaml --out runs/first
    """
    from magdi_ray.doctor.examine import examine

    findings = examine(config, out_, address, set_ or (), environment=dict(os.environ))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        show(findings)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def show(findings: Sequence[Finding]) -> None:
    """Print findings, and how many there are of each kind."""
    from rich.table import Table
    from rich.text import Text

    width = max((len(finding.name) for finding in findings), default=0)
    for topic, group in groupby(findings, key=lambda finding: finding.topic):
        out.print(Text(topic, style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=9)
        table.add_column(width=width, overflow="fold")
        table.add_column(overflow="fold")
        for finding in group:
            said = Text(finding.found)
            if finding.todo:
                said.append(f"\n→ {finding.todo}", style="italic")
            table.add_row(Text(f"  {finding.state}", style=STYLES[finding.state]), finding.name, said)
        print_table(table)
    out.print(summary(findings))


def summary(findings: Sequence[Finding]) -> str:
    """Such as "2 failed, 1 warning, 31 ok"."""
    counts = Counter(finding.state for finding in findings)
    warnings = f"{counts['warning']} warning{'s' * (counts['warning'] != 1)}"
    return ", ".join(
        text
        for state, text in (("failed", f"{counts['failed']} failed"), ("warning", warnings), ("ok", f"{counts['ok']} ok"))
        if counts[state]  # type: ignore[index]
    )

"""Whether a bill of materials (CycloneDX, JSON) lists what is installed: `python -m tests.security.sbom SBOM CONSTRAINTS`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(constraints: str) -> dict[str, str]:
    """Package -> version, of a constraints file."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in constraints.splitlines())
    return {plain(name): number for name, _, number in (line.partition("==") for line in lines if line)}


def listed(sbom: str) -> dict[str, str]:
    """Package -> version, of a bill of materials."""
    told = json.loads(sbom)
    if told.get("bomFormat") != "CycloneDX":
        raise ValueError("this is no CycloneDX document")
    return {plain(one["name"]): one.get("version", "") for one in told.get("components", ())}


def installed(names: Mapping[str, str]) -> dict[str, str]:
    """Those of some packages that this interpreter has, with their versions."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # for another platform
    return found


def faults(bill: Mapping[str, str], here: Mapping[str, str], pins: Mapping[str, str]) -> list[str]:
    """What the bill leaves out or gets wrong, and what is installed in another version than the one that was tested."""
    told = [f"{name} {here[name]} is installed and not listed" for name in here if bill.get(name) != here[name]]
    return told + [f"{name} is {here[name]}, tested was {pins[name]}" for name in here if here[name].split("+")[0] != pins[name]]


def main(sbom: str, constraints: str) -> int:
    """Print what is wrong; 0 where nothing is."""
    pins = pinned(Path(constraints).read_text(encoding="utf-8"))
    here, bill = installed(pins), listed(Path(sbom).read_text(encoding="utf-8"))
    wrong = faults(bill, here, pins)
    print("\n".join(wrong) or f"{sbom} lists {len(bill)} packages, all {len(here)} of {constraints} that are here among them")
    return 1 if wrong or not here else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

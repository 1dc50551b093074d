"""A bill of materials that leaves something out is refused."""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.security.sbom import faults, installed, listed, main, pinned, plain

CONSTRAINTS = Path(__file__).parent.parent.parent / "constraints.txt"


def bill(components: dict[str, str]) -> str:
    told = [{"type": "library", "name": name, "version": number} for name, number in components.items()]
    return json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": told})


def test_a_bill_of_all_that_is_installed_is_taken(tmp_path: Path) -> None:
    (tmp_path / "sbom.json").write_text(bill({one.metadata["Name"]: one.version for one in distributions()}))
    assert main(str(tmp_path / "sbom.json"), str(CONSTRAINTS)) == 0


@pytest.mark.parametrize("name", ["jinja2", "ray", "torch"])
def test_a_bill_that_leaves_a_package_out_or_gets_it_wrong_is_refused(tmp_path: Path, name: str) -> None:
    everything = {plain(one.metadata["Name"]): one.version for one in distributions()}
    for changed in ({key: value for key, value in everything.items() if key != name}, everything | {name: "0.0.1"}):
        (tmp_path / "sbom.json").write_text(bill(changed))
        assert main(str(tmp_path / "sbom.json"), str(CONSTRAINTS)) == 1


def test_an_environment_that_is_not_the_tested_one_is_told() -> None:
    here = {"a": "1.0", "b": "2.0+cpu"}
    assert faults(here, here, {"a": "1.0", "b": "2.0"}) == []
    assert faults(here, here, {"a": "1.1", "b": "2.0"}) == ["a is 1.0, tested was 1.1"]


def test_another_format_is_no_bill() -> None:
    with pytest.raises(ValueError, match="no CycloneDX"):
        listed(json.dumps({"spdxVersion": "SPDX-2.3"}))


def test_every_package_is_pinned_to_one_version() -> None:
    pins = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    assert len(pins) > 100
    assert [name for name, number in pins.items() if not number] == []
    assert len(installed(pins)) > 100

"""Every parser of data from elsewhere reads odd examples without a crash, a hang or more memory than it may take.

A few examples of each here, always the same ones; `python -m tests.fuzz --seconds 300` tries as many others as there is time for.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.fuzz.attacks import attacks
from tests.fuzz.bounds import TooSlow, bounded
from tests.fuzz.run import all_targets, example, tried
from tests.fuzz.target import Target, file_fed

EXAMPLES = 12


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_a_parser_reads_or_refuses_whatever_it_is_given(target: Target, tmp_path: Path) -> None:
    for number in range(EXAMPLES):
        data = example(target, random.Random(f"0/{number}/{target.name}"), number)
        assert tried(target, data, tmp_path) in ("read", "refused"), data[:500]


def test_an_example_that_takes_too_long_is_stopped_within_an_expression() -> None:
    import re

    started = time.process_time()
    with pytest.raises(TooSlow), bounded(0.2):
        re.fullmatch(r"(a|aa)+b", "a" * 200)
    assert time.process_time() - started < 2


def test_a_crash_and_an_error_without_the_file_s_name_are_findings(tmp_path: Path) -> None:
    from magdi_ray.errors import ConfigError

    def crash(data: bytes, _: Path) -> None:
        raise KeyError("x")

    def nameless(_: Path) -> None:
        raise ConfigError("something is wrong")

    for feed in (crash, file_fed("f.yaml", nameless)):
        assert tried(Target("t", feed, (b"",), errors=(ConfigError,)), b"", tmp_path) not in ("read", "refused")


def test_texts_made_from_an_expression_find_one_that_tries_every_way() -> None:
    import re

    slow = re.compile(r'\[\s*(?:"[^"]*"\s*,?\s*)*\]')
    texts = list(attacks(slow, length=2000))
    with pytest.raises(TooSlow), bounded(0.5):
        any(slow.search(text) for text in texts)

"""A run that accidents befall comes to what a quiet run comes to; the trials of `make chaos`, two of them chosen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.chaos.__main__ import quiet_account
from tests.chaos.books import Account
from tests.chaos.grounds import Grounds
from tests.chaos.plan import Blow
from tests.chaos.trial import Result, Trial

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.e2e,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("cc") is None, reason="failing storage is made with a C compiler"),
]


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with Grounds(tmp_path_factory.mktemp("chaos")) as running:
        yield running
    assert running.cluster.left() == []


@pytest.fixture(scope="module")
def quiet(grounds: Grounds) -> Account:
    """The books of a run to which nothing happened."""
    return quiet_account(grounds)


def struck(grounds: Grounds, quiet: Account, *blows: Blow) -> Result:
    """What becomes of a run that all of these befall; its books are balanced."""
    result, _ = Trial(grounds, grounds.disk / blows[0].fault, 0, blows=blows, quiet=quiet)()
    assert result.wrong == []
    assert [told.fault for told in result.blows] == [blow.fault for blow in blows]
    return result


def test_a_killed_driver_and_a_killed_training_worker_cost_one_more_attempt_and_change_nothing(
    grounds: Grounds, quiet: Account
) -> None:
    result = struck(grounds, quiet, Blow("driver-killed", "debates", 0.4, 1), Blow("trainer-killed", "student", 0.5, 1))
    assert result.codes == [-9, 0]
    assert [start.step > 0 for start in result.starts] == [False, True]


def test_storage_that_fails_and_a_torn_file_lose_nothing_that_was_safe(grounds: Grounds, quiet: Account) -> None:
    result = struck(grounds, quiet, Blow("tail-torn", "debates", 0.5, 2), Blow("storage-failing", "student", 0.5, 3))
    assert result.codes[-1] == 0
    assert result.starts[-1].step > 0

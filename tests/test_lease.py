"""A lease: one attempt at a time works at a run, and each is told from those before it."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.errors import RunError
from magdi_ray.lease import Holder, Lease, Record
from magdi_ray.storage import listing, read_text, write_text

HOLD = """
import sys, time
from magdi_ray.lease import Lease
print(Lease(sys.argv[1]).acquire(), flush=True)
time.sleep(60)
"""
QUICK = {"renewal_s": 0.05, "expiry_s": 0.5}
ELSEWHERE = Holder("node-7", "another start", 12, "99")


@pytest.fixture(params=["{}/leases", "file://{}/leases"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory, and a URL, where nothing is made exclusively."""
    return str(request.param).format(tmp_path)


def leave(place: str, number: int, holder: Holder = ELSEWHERE, **changes: Any) -> str:
    """The record of a lease of another process."""
    file = f"{place}/{number:08d}{'-0123abcd' if '://' in place else ''}.json"
    write_text(file, replace(Record(number, holder), **changes).dumped())
    return file


def renew_always(file: str, ending: threading.Event) -> None:
    record = json.loads(read_text(file) or "")
    while not ending.wait(0.05):
        record["renewals"] += 1
        write_text(file, json.dumps(record))


def test_every_attempt_has_a_greater_number(place: str) -> None:
    numbers = []
    for _ in range(3):
        lease = Lease(place, **QUICK)
        numbers.append(lease.acquire())
        lease.release()
    assert numbers == [1, 2, 3]


def test_a_lease_of_a_living_process_here_is_refused_at_once(place: str) -> None:
    first = Lease(place)
    first.acquire()
    with pytest.raises(RunError, match="in use by process"):
        Lease(place).acquire()
    first.release()
    second = Lease(place)
    assert second.acquire() == 2
    second.release()


def test_a_lease_of_a_process_that_was_killed_here_is_taken_over_at_once(place: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1"
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    after = Lease(place)
    assert after.acquire() == 2
    assert time.monotonic() - began < 10  # nothing like the 30 s of a machine that cannot be asked
    after.release()


def test_a_lease_of_another_machine_is_watched_until_it_has_stood_still(place: str) -> None:
    leave(place, 4)
    said: list[str] = []
    began = time.monotonic()
    lease = Lease(place, waiting=said.append, **QUICK)
    assert lease.acquire() == 5
    assert time.monotonic() - began >= 0.5
    assert ["process 12 on node-7" in text for text in said] == [True]
    lease.release()


def test_a_lease_that_another_machine_renews_is_refused(place: str) -> None:
    file, ending = leave(place, 4), threading.Event()
    renewing = threading.Thread(target=renew_always, args=(file, ending))
    renewing.start()
    try:
        with pytest.raises(RunError, match=r"in use by process 12 on node-7\. Wait for it to end"):
            Lease(place, renewal_s=0.2, expiry_s=30).acquire()
    finally:
        ending.set()
        renewing.join()


def test_a_lease_that_was_released_is_free_at_once(place: str) -> None:
    leave(place, 4, released=True)
    assert Lease(place, renewal_s=0.05, expiry_s=600).acquire() == 5


def test_who_was_taken_over_from_learns_it_and_stops(place: str) -> None:
    lost = threading.Event()
    lease = Lease(place, on_lost=lost.set, **QUICK)
    lease.acquire()
    leave(place, 2)
    assert lost.wait(5)
    with pytest.raises(RunError, match="attempt 2 took over: this one was not heard of"):
        lease.check()
    before = listing(place)
    lease.release()
    assert listing(place) == before  # the later one's record is its own


def test_who_cannot_renew_its_lease_gives_it_up(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    lease = Lease(place, on_lost=lost.set, **QUICK)
    lease.acquire()

    def away(*_: Any) -> None:
        raise OSError("the network is away")

    monkeypatch.setattr(lease, "_renew", away)
    assert lost.wait(5)
    with pytest.raises(RunError, match=r"could not be renewed for 0 s \(OSError: the network is away\)"):
        lease.check()


def test_a_lease_is_lost_only_once_and_a_check_sees_it_before_the_watch(place: str) -> None:
    lease = Lease(place, renewal_s=600)
    lease.acquire()
    lease.check()
    leave(place, 2)
    with pytest.raises(RunError, match="attempt 2 took over"):
        lease.check()


def test_a_damaged_record_is_watched_like_one_that_is_held(place: str) -> None:
    write_text(leave(place, 3), "{")
    began = time.monotonic()
    assert Lease(place, **QUICK).acquire() == 4
    assert time.monotonic() - began >= 0.5


def test_of_many_at_once_exactly_one_holds_each_number(place: str) -> None:
    """Whoever gets no lease is told so; no number is held twice."""
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(_try, [place] * 8))
    held = [result for result in results if isinstance(result, int)]
    assert held in (([1], []) if "://" in place else ([1],))


def _try(place: str) -> int | str:
    try:
        return Lease(place, renewal_s=5, expiry_s=600).acquire()
    except RunError as error:
        return str(error)


def test_a_process_number_that_is_used_again_is_no_living_holder() -> None:
    own = Holder.own()
    assert not own.is_gone()
    assert replace(own, began="1").is_gone()
    assert not replace(own, boot="another start", began="1").is_gone()


@pytest.fixture
def child() -> Callable[[], int]:
    def run() -> int:
        process = multiprocessing.get_context("spawn").Process(target=int)
        process.start()
        process.join()
        assert process.pid is not None
        return process.pid

    return run


def test_a_process_that_ended_is_gone(child: Callable[[], int]) -> None:
    assert replace(Holder.own(), process=child()).is_gone()

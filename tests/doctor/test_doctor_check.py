"""Checks side by side: each has a time limit, none ends the others, and no secret is shown."""

from __future__ import annotations

import time
from collections.abc import Iterator

from magdi_ray.doctor.check import Check, Finding, failed, ok, run_checks, secrets_of, size


def crash() -> Iterator[Finding]:
    yield ok("half", "was seen")
    raise RuntimeError("the disk\nis on fire")


def test_a_crash_is_a_finding_and_the_other_checks_go_on() -> None:
    first, second = run_checks([Check("a", "disk", crash), Check("b", "fine", lambda: [ok("fine", "all")])])
    assert (first.topic, first.name, first.state) == ("a", "disk", "failed")
    assert first.found == "could not be checked: RuntimeError: the disk is on fire"
    assert (second.topic, second.state) == ("b", "ok")


def test_a_check_that_hangs_is_a_finding_when_its_time_is_up() -> None:
    begun = time.monotonic()
    checks = [Check("a", "mount", lambda: time.sleep(30) or [], limit_s=0.3), Check("a", "fine", lambda: [ok("fine", "")])]
    hung, fine = run_checks(checks)
    assert time.monotonic() - begun < 5
    assert (hung.state, fine.state) == ("failed", "ok")
    assert "no answer within 0.3 s" in hung.found


def test_checks_run_side_by_side_and_are_told_in_their_order() -> None:
    begun = time.monotonic()
    checks = [Check("a", str(n), lambda n=n: time.sleep(0.4) or [ok(str(n), "")]) for n in range(10)]  # type: ignore[misc]
    assert [finding.name for finding in run_checks(checks)] == [str(n) for n in range(10)]
    assert time.monotonic() - begun < 3


def test_secrets_are_blotted_out_wherever_a_check_repeats_them() -> None:
    def leaky() -> Iterator[Finding]:
        yield failed("key", "sk-12345678 is refused at https://me:pass@host/v1", "do not use sk-12345678")

    (finding,) = run_checks([Check("a", "key", leaky)], secrets=["sk-12345678", "", "of"])
    assert finding.found == "*** is refused at https://***@host/v1"
    assert finding.todo == "do not use ***"


def test_a_crash_shows_no_secret_either() -> None:
    def leaky() -> Iterator[Finding]:
        raise ValueError("bad header 'Bearer sk-12345678'")

    (finding,) = run_checks([Check("a", "key", leaky)], secrets=["sk-12345678"])
    assert "sk-1" not in finding.found
    assert "Bearer ***" in finding.found


def test_variables_named_like_secrets_hold_secrets_and_paths_are_none() -> None:
    environment = {"OPENAI_API_KEY": "sk-1", "AWS_SECRET_ACCESS_KEY": "x", "RAY_AUTH_TOKEN": "t", "RAY_AUTH_TOKEN_PATH": "/a/b"}
    environment |= {"HOME": "/root", "KEYBOARD": "de", "DB_PASSWORD": "p", "SSH_KEY": "~/.ssh/id"}
    assert secrets_of(environment) == {"sk-1", "x", "t", "p"}


def test_sizes_are_said_in_the_unit_that_fits() -> None:
    assert [size(n) for n in (0, 512, 65536, 1.5 * 2**30, 37 * 2**30, 3 * 2**40)] == [
        *("0 bytes", "512 bytes", "64 KiB", "1.5 GiB", "37 GiB", "3.0 TiB"),
    ]

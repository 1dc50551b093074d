"""What is read from a finished run is what happened in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from magdi_ray.config.load import parse_config
from magdi_ray.errors import ConfigError
from magdi_ray.simulate.build import build, fit_error
from magdi_ray.simulate.calibrate import calibrate
from tests.simulate.runs import API, LOCAL, configuration, write_run

QUICK_AND_SLOW = [
    (agent, debate, number, 100.0 + debate + number * 3.0 + (1.0 if agent == "quick" else 3.0) - 3.0)
    for debate in range(30)
    for number in range(2)
    for agent in ("quick", "slow")
]
"""Rounds of 3 s, one debate a second: one agent answers after 1 s, the other after 3."""


def test_latencies_are_the_time_from_a_rounds_last_reply_to_each_of_the_next(tmp_path: Path) -> None:
    found = calibrate(write_run(tmp_path / "run", configuration({"quick": API, "slow": API}), QUICK_AND_SLOW))
    assert found.latency["quick"].base_s == pytest.approx(1.0)
    assert found.latency["slow"].base_s == pytest.approx(3.0)
    assert (found.agreement, found.reply_tokens) == (0.0, 10)


def test_what_the_stage_took_beside_its_replies_is_fixed(tmp_path: Path) -> None:
    found = calibrate(write_run(tmp_path / "run", configuration({"quick": API, "slow": API}), QUICK_AND_SLOW))
    assert found.span_s == pytest.approx(34.0)
    assert found.fixed_s == pytest.approx(50.0 - 34.0)


def test_traces_are_the_debates_that_were_held(tmp_path: Path) -> None:
    config = configuration({"quick": API, "slow": API})
    found = calibrate(write_run(tmp_path / "run", config, QUICK_AND_SLOW))
    scenario, said = build(parse_config(config, "test"), measured=found)
    assert scenario.calls() == [2.0, 2.0]
    assert scenario.tokens() == [(200.0, 20.0)] * 2
    assert "Rounds and tokens are those of 30 debates of run." in said


def test_another_protocol_is_rehearsed_with_what_was_measured(tmp_path: Path) -> None:
    config = configuration({"quick": API, "slow": API})
    found = calibrate(write_run(tmp_path / "run", config, QUICK_AND_SLOW))
    config["debate"]["protocol"]["rounds"] = 3
    scenario, _ = build(parse_config(config, "test"), measured=found)
    assert scenario.calls() == [4.0, 4.0]  # nobody ever agreed
    assert scenario.tokens()[0][1] == 40.0


def test_the_speed_of_a_replica_is_found_from_replies_stored_together(tmp_path: Path) -> None:
    said, now = list[tuple[str, int, int, float]](), 0.0
    for batch in range(20):
        rows = 1 + batch % 4
        now += 2.0 + 0.5 * rows
        said += [("local", 10 * batch + row, 0, round(now + 0.001 * row, 3)) for row in range(rows)]
    speed = calibrate(write_run(tmp_path / "run", configuration({"local": LOCAL}), said)).speed["local"]
    assert [speed.seconds(rows, 100 * rows, 10) for rows in (1, 4)] == pytest.approx([2.5, 4.0], rel=0.02)


def test_the_error_on_the_measured_run_itself_is_found(tmp_path: Path) -> None:
    config = configuration({"quick": API, "slow": API}, max_in_flight=6)
    run = write_run(tmp_path / "run", config, QUICK_AND_SLOW)
    # Six debates of 6 s at once are one a second: 30 debates end within 30 s, the first reply comes after one.
    assert fit_error(calibrate(run)) == pytest.approx((16.0 + 30.0 - 1.0) / 50.0 - 1.0, abs=0.02)


def test_a_run_held_by_its_limits_is_named(tmp_path: Path) -> None:
    held = API | {"limits": {"concurrency": 4}}
    found = calibrate(write_run(tmp_path / "run", configuration({"quick": held, "slow": held}), QUICK_AND_SLOW))
    assert "of 4 allowed: waiting is in the latencies" in found.remarks[0]


@pytest.mark.parametrize(
    ("facts", "said", "rounds"),
    [({"replies already in the store": 3}, "before its last attempt", 2), ({}, "could be timed", 1)],
)
def test_a_run_that_tells_nothing_is_refused(tmp_path: Path, facts: dict[str, int], said: str, rounds: int) -> None:
    replies = [reply for reply in QUICK_AND_SLOW if reply[2] < rounds]
    run = write_run(tmp_path / "run", configuration({"quick": API, "slow": API}), replies, **facts)
    with pytest.raises(ConfigError, match=said):
        calibrate(run)


def test_a_directory_without_finished_debates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished debates"):
        calibrate(tmp_path)

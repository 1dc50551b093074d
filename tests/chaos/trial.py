"""One trial: a run from its first attempt to its last, with the blows of a plan, and the books at the end.

A user does one thing about every accident: the same command again. So does a trial, until the run is complete.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.audit import read_account
from tests.chaos.books import Account, Start, repeated, spare, unbalanced
from tests.chaos.faults import BY_NAME, Cure, NotYet
from tests.chaos.grounds import Grounds
from tests.chaos.plan import Blow
from tests.chaos.scene import Scene
from tests.chaos.sight import REPORT, Sight, begun, look

ATTEMPTS = 6
ATTEMPT_S = 900.0
"""An attempt that takes longer is taken for one that hangs, and ended."""
DECENT = (-signal.SIGKILL, 2, 130)
"""How an attempt may end that was struck: killed, with an error in words, or interrupted; anything else is a defect."""
LOOK_S = 0.05


@dataclass
class Told:
    """What became of one blow."""

    fault: str
    stage: str
    share: float
    at: int = -1
    """Progress of the stage when it was struck; -1: it never was, since the stage was over before."""
    safe: int = 0
    """Step of the newest whole checkpoint then."""
    ended: int | None = None
    """Exit code of the attempt that was struck; None where it went on."""
    words: str = ""
    """The last line that it printed, where it ended."""
    torn: str = ""
    attempts: int = 0
    """Further attempts that were needed."""
    well_s: float | None = None
    """Seconds until the stage had got further than it was."""
    extra_calls: int = 0
    """Calls that were answered twice between this blow and the next."""


@dataclass
class Result:
    """What became of one trial."""

    seed: int
    blows: list[Told] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """How each attempt ended."""
    starts: list[Start] = field(default_factory=list)
    seconds: float = 0.0
    spare_calls: int = 0
    repeated_calls: int = 0
    wrong: list[str] = field(default_factory=list)
    """What does not balance, and what ended for no reason; empty where all is well."""


class Trial:
    """A run in `run` on the grounds, to which `blows` happen."""

    def __init__(
        self, grounds: Grounds, run: Path, seed: int, *, blows: Sequence[Blow] = (), quiet: Account | None = None
    ) -> None:
        self.grounds, self.run, self.quiet = grounds, run, quiet
        self.output = grounds.output_of(run)
        self.todo = list(blows)
        self.result = Result(seed)
        self.told: list[Told] = []
        self.cures: list[tuple[float, Cure]] = []
        self.between: list[Any] = []
        self.struck_at: dict[int, float] = {}
        self.struck_now = False
        self.torn_lines = 0
        self.sight: Sight = look(run)
        self.spent_before = 0

    def __call__(self) -> tuple[Result, Account | None]:
        """Run it to its end and hold the books."""
        began = time.monotonic()
        self.grounds.calm()
        result, account = self.result, None
        while len(result.codes) < ATTEMPTS:
            code = self._attempt()
            result.codes.append(code)
            if code == 0:
                break
            if not self.struck_now:
                number = len(result.codes)
                result.wrong.append(f"attempt {number} ended with {code}, and nothing had struck it: {self._last_line()}")
        result.seconds = round(time.monotonic() - began, 1)
        result.blows = self.told + [Told(blow.fault, blow.stage, blow.share) for blow in self.todo]
        result.repeated_calls = repeated(self.grounds.teacher.calls())
        self._close_blow()
        if result.codes[-1]:
            result.wrong.append(f"not complete after {ATTEMPTS} attempts, which ended with {result.codes}")
        else:
            account = self._hold_books()
        return result, account

    def _attempt(self) -> int:
        """One command, from its start to its end, with what happens meanwhile. Returns its exit code."""
        self.struck_now = False
        self.sight = look(self.run)
        driver = self.grounds.driver(self.run, self.output)
        try:
            self._accompany(driver, until=time.monotonic() + ATTEMPT_S)
        finally:  # also where the harness itself is told to end
            self._end(driver)
        self._cure(all_of_them=True)
        self._watch()
        for work in self.between:
            torn = work()
            self.told[-1].torn, self.torn_lines = torn.what, self.torn_lines + torn.lines
        self.between.clear()
        if self.struck_now and driver.returncode and self.told[-1].ended is None:
            self._note_end(driver.returncode)
        if driver.returncode and self.told:
            self.told[-1].attempts += 1
        return int(driver.returncode)

    def _note_end(self, code: int) -> None:
        """The attempt went on for a moment after it was struck: it is well again once another one gets further than that."""
        last = self.told[-1]
        last.ended, last.words = code, self._last_line()
        if code not in DECENT:
            self.result.wrong.append(f"{last.fault} in {last.stage} ended the attempt with {code}: {last.words}")
        if last.stage not in self.sight.finished:
            last.at, last.well_s = max(last.at, self.sight.progress(last.stage)), None

    def _accompany(self, driver: Any, *, until: float) -> None:
        """Look at the run and do what is due, as long as the driver lives."""
        while driver.poll() is None:
            if time.monotonic() > until:
                self.result.wrong.append(f"attempt {len(self.result.codes) + 1} hung for {ATTEMPT_S:.0f} s and was ended")
                return
            self._watch()
            if self.todo and self._is_time(self.todo[0]):
                self._strike(self.todo[0], driver)
            self._cure()
            time.sleep(LOOK_S)

    @staticmethod
    def _end(driver: Any) -> None:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()

    def _watch(self) -> None:
        """Look, and note trainings that began and blows that were got over."""
        now = look(self.run)
        self.result.starts += begun(self.sight, now)
        self.sight = now
        if not self.told or self.told[-1].well_s is not None:
            return
        last = self.told[-1]
        over = last.stage in now.finished or (last.stage == REPORT and (self.run / "report.html").is_file())
        if over or (last.stage != REPORT and now.progress(last.stage) > last.at):
            last.well_s = round(time.monotonic() - self.struck_at[len(self.told)], 1)

    def _is_time(self, blow: Blow) -> bool:
        if blow.stage == REPORT:
            return "evaluation" in self.sight.finished
        if blow.stage in self.sight.finished or blow.stage not in self.sight.made:
            return False
        if blow.share == 0.0 or self.quiet is None:
            return True
        return self.sight.progress(blow.stage) >= blow.share * self._whole(blow.stage)

    def _whole(self, stage: str) -> int:
        """Progress of a stage that is complete."""
        assert self.quiet is not None
        asked = [key for key in self.quiet.answers if key.startswith(("base ", "level4 "))]  # the others debated before
        whole = {"student": len(self.quiet.steps), "evaluation": len(asked)}
        return whole.get(stage, sum(len(graph.nodes) for graph in self.quiet.graphs))

    def _strike(self, blow: Blow, driver: Any) -> None:
        scene = Scene(self.grounds, self.run, driver, blow.stage)
        struck = time.monotonic()
        try:
            cure = BY_NAME[blow.fault].strike(scene, random.Random(blow.draw))
        except NotYet:
            return
        self._watch()  # finding what to strike takes its time, in which the run went on
        self._close_blow()
        self.todo.pop(0)
        self.struck_now = True
        self.told.append(Told(blow.fault, blow.stage, blow.share, self.sight.progress(blow.stage), self.sight.safe))
        self.struck_at[len(self.told)] = struck
        self.between += scene.between
        if cure is not None:
            self.cures.append((struck + cure.after_s, cure))

    def _close_blow(self) -> None:
        """Count the repeated calls that were the last blow's."""
        total = repeated(self.grounds.teacher.calls())
        if self.told:
            self.told[-1].extra_calls = total - self.spent_before
        self.spent_before = total

    def _cure(self, *, all_of_them: bool = False) -> None:
        for due, cure in list(self.cures):
            if all_of_them or time.monotonic() >= due:
                cure.act()
                self.cures.remove((due, cure))

    def _last_line(self) -> str:
        text = self.output.read_text(encoding="utf-8", errors="replace") if self.output.is_file() else ""
        return next((line.strip()[:400] for line in reversed(text.splitlines()) if line.strip()), "")

    def _hold_books(self) -> Account:
        result, calls = self.result, self.grounds.teacher.calls()
        served = list[str]()
        try:
            left = self.grounds.left()
            served = self.grounds.served(self.run, self.output)
            left += self.grounds.left()
        except (RuntimeError, OSError) as error:
            left = []
            result.wrong.append(f"the cluster or what it serves cannot be asked: {error}")
        account = read_account(self.run, calls=calls, starts=result.starts, served=served, left=sorted(set(left)))
        agents = self.grounds.config.debate.agents if self.grounds.config.debate else ()
        limits = {agent.engine.provider: agent.engine.limits for agent in agents if agent.engine.type == "api"}
        concurrency = sum(limit.concurrency for limit in limits.values())
        kills = sum(blow.stage == "debates" and BY_NAME[blow.fault].loses_calls for blow in self.told)
        result.spare_calls = spare(concurrency=concurrency, kills=kills, torn=self.torn_lines)
        result.wrong += unbalanced(account, self.quiet or account, spare_calls=result.spare_calls)
        result.wrong += [f"{told.fault} never struck {told.stage}: it was over before" for told in result.blows if told.at < 0]
        return account


def forget(run: Path) -> None:
    """Delete a run of a trial."""
    shutil.rmtree(run, ignore_errors=True)

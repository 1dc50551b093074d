"""A lease on a run: one attempt at a time works at it, and each has a number greater than all before it (its fencing token).

    RUN/leases/00000003.json           a directory: made exclusively, once
    RUN/leases/00000003-9f3a6c02.json  a URL: claimed, and held by whoever then finds no other claim

The holder renews its record every few seconds. An attempt whose record has stood still for `EXPIRY_S`, by the clock of the one
who watches it, has ended; so has one whose process is gone from this very machine. What an attempt writes goes under its number,
so that one that is taken for ended and is not (a machine cut off for a minute) overwrites no stage and no checkpoint of its
successor's; it finds the greater number at its next renewal, or before it declares anything finished, and stops.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from magdi_ray.errors import RunError
from magdi_ray.storage import is_url, listing, open_storage, read_text, write_atomically, write_text

RENEWAL_S = 5.0
"""Between two renewals of a lease."""
EXPIRY_S = 30.0
"""A record that stands still for so long is nobody's any more."""
CLAIMS = 5
"""So often a claim that met another one is tried again."""
SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lease, so that another one can tell whether it still lives."""

    host: str
    boot: str
    """Of the machine since it was last started, and of the process's own numbering there (containers count for themselves)."""
    process: int
    began: str
    """Process numbers are used again; with the time of its start one is told from its successor."""

    @classmethod
    def own(cls) -> Holder:
        """This process."""
        return cls(socket.gethostname(), _boot(), os.getpid(), _began(os.getpid()) or "")

    def is_gone(self) -> bool:
        """Whether it has surely ended: it was of this machine, and is not there. Of other machines nothing is known."""
        if not self.boot or (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # somebody else's process
            pass
        found = _began(self.process)
        return found is not None and found != self.began

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass(frozen=True, slots=True)
class Record:
    """What the file of a lease holds."""

    number: int
    holder: Holder
    renewals: int = 0
    released: bool = False

    def dumped(self) -> str:
        """As the text of the file."""
        return json.dumps(asdict(self), indent=1)


class Lease:
    """The lease of one attempt. Renewed by a thread of its own from `acquire` to `release`."""

    def __init__(
        self,
        place: str,
        *,
        on_lost: Callable[[], None] = lambda: None,
        waiting: Callable[[str], None] = lambda _: None,
        renewal_s: float = RENEWAL_S,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        """`place`: directory or URL of the leases. `on_lost`: called from the thread, once, when the lease is lost.

        `waiting`: told, once, whose lease is being watched.
        """
        self.place, self.renewal_s, self.expiry_s = place.rstrip("/"), renewal_s, expiry_s
        self.lost = ""
        """Why the lease is no longer held; "" while it is."""
        self._on_lost, self._waiting = on_lost, waiting
        self._record: Record | None = None
        self._file = ""
        self._alone = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def number(self) -> int:
        """Of the attempt; 0 where no lease is held."""
        return self._record.number if self._record else 0

    def acquire(self) -> int:
        """Take the lease and begin to renew it. Returns the attempt's number. Waits `expiry_s` for one that may have ended.

        Raises:
            RunError: another attempt works at the run.
        """
        for _ in range(CLAIMS):
            highest = self._wait_for_the_end_of_others()
            if self._claim(highest + 1):
                break
            time.sleep(random.uniform(0.2, 2.0))
        else:
            raise RunError(f"Several attempts to begin at {self._run} met each other, {CLAIMS} times. Start one of them again.")
        self._thread = threading.Thread(target=self._renew_always, name="magdi-lease", daemon=True)
        self._thread.start()
        return self.number

    def check(self) -> None:
        """Find out, now, whether the lease is still held: before something is declared finished.

        Raises:
            RunError: it is not.
        """
        if self._record is None:
            return
        if not self.lost:
            try:
                self._renew()  # what changes a directory of NFS makes this machine look at it anew
                self._look()
            except OSError as error:
                raise RunError(
                    f"Whether attempt {self.number} may go on at {self._run} cannot be seen: {error}. See that its "
                    "storage can be reached, and run the same command again."
                ) from error
        self.stop_if_lost()

    def stop_if_lost(self) -> None:
        """As `check`, as far as is known without asking.

        Raises:
            RunError: the lease was lost.
        """
        if self.lost:
            raise RunError(
                f"Attempt {self.number} at {self._run} ends here: {self.lost}. Nothing of either is lost; a later one goes "
                "on. Where there is none, run the same command again."
            )

    def release(self) -> None:
        """Let the next attempt begin at once."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        if self._record is not None and not self.lost:
            with suppress(Exception):  # whatever a file system of others raises; then the lease runs out by itself
                self._write(replace(self._record, released=True))
        self._record = None

    @property
    def _run(self) -> str:
        return self.place.rsplit("/", maxsplit=1)[0]

    def _wait_for_the_end_of_others(self) -> int:
        """The highest number there is, once nobody holds it."""
        watched, since, said, who = "", time.monotonic(), False, "another process"
        while True:
            now = time.monotonic()  # before looking: who is stopped in between has not seen that nothing was renewed
            names = self._names()
            highest = max(map(_number, names), default=0)
            records = {name: self._read(name) for name in names if _number(name) == highest}
            holding = [r for r in records.values() if r is not None and not r.released and not r.holder.is_gone()]
            if not holding and None not in records.values():
                return highest
            who = str(holding[0].holder) if holding else who
            state = repr(records)
            if state != watched:
                renewed, watched, since = bool(watched), state, now
                if renewed or (holding and self._is_here(holding[0])):
                    raise RunError(f"{self._run} is in use by {who}. Wait for it to end, or choose another --out directory.")
            if now - since >= self.expiry_s:
                return highest
            if not said and holding:
                said = True
                self._waiting(
                    f"attempt {highest} at {self._run} ({who}) has not ended; waiting up to {self.expiry_s:.0f} s to see whether "
                    "it still works"
                )
            time.sleep(min(1.0, self.renewal_s / 4))

    @staticmethod
    def _is_here(record: Record) -> bool:
        """Whether a holder is a living process of this machine, of which nothing has to be waited for."""
        own = Holder.own()
        return bool(own.boot) and (record.holder.host, record.holder.boot) == (own.host, own.boot)

    def _claim(self, number: int) -> bool:
        """Make the record of a number. False where another one did."""
        record = Record(number, Holder.own())
        if is_url(self.place):
            # Of two claims at least one finds the other: each is written before the others are looked for.
            name = f"{number:08d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
            write_text(f"{self.place}/{name}", record.dumped())
            if [other for other in self._names() if _number(other) >= number and other != name]:
                self._delete(name)
                return False
        else:
            name = f"{number:08d}{SUFFIX}"
            try:
                Path(self.place).mkdir(parents=True, exist_ok=True)
                with (Path(self.place) / name).open("x", encoding="utf-8") as stream:
                    stream.write(record.dumped())
            except FileExistsError:
                return False
        self._file, self._record = name, record
        return True

    def _renew_always(self) -> None:
        renewed = time.monotonic()
        while not self._ending.wait(self.renewal_s):
            try:
                self._look()
                if not self.lost:
                    self._renew()
                    renewed = time.monotonic()
            except Exception as error:  # whatever a file system of others raises
                if time.monotonic() - renewed > self.expiry_s:
                    self.lost = f"its lease could not be renewed for {self.expiry_s:.0f} s ({type(error).__name__}: {error})"
            if self.lost:
                self._on_lost()
                return

    def _renew(self) -> None:
        with self._alone:
            if self._record is not None:
                self._write(replace(self._record, renewals=self._record.renewals + 1))

    def _write(self, record: Record) -> None:
        self._record = record
        target = f"{self.place}/{self._file}"
        if is_url(self.place):
            write_text(target, record.dumped())
        elif Path(target).is_file():  # a run directory that was moved away is not made anew
            write_atomically(Path(target), record.dumped(), attempts=1)  # the next renewal is the next attempt
        else:
            raise FileNotFoundError(f"{target} is gone: was the run's directory moved or deleted?")

    def _look(self) -> None:
        """See whether a later attempt has begun."""
        highest = max(map(_number, self._names()), default=0)
        if highest > self.number:
            self.lost = f"attempt {highest} took over: this one was not heard of for {self.expiry_s:.0f} s"

    def _names(self) -> list[str]:
        return sorted(name for name in listing(self.place) if name.endswith(SUFFIX) and name[:8].isdecimal())

    def _read(self, name: str) -> Record | None:
        """A record; None where it is being written, or damaged: then it is watched like one that may be held."""
        try:
            data = json.loads(read_text(f"{self.place}/{name}") or "")
            return Record(data["number"], Holder(**data["holder"]), data["renewals"], data["released"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _delete(self, name: str) -> None:
        filesystem, path = open_storage(f"{self.place}/{name}")
        filesystem.delete_file(path)


def _number(name: str) -> int:
    return int(name[:8])


def _boot() -> str:
    """This start of this machine, and the numbering of its processes that this one sees; "" where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(process: int) -> str | None:
    """When a process of this machine was started, in the kernel's ticks; "" for one that has ended, None where nobody says."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]

"""Progress of long work: a bar on a terminal, a line now and then in a log. Knows nothing of what is being done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal."""

console = Console(stderr=True, highlight=False)
"""Where people read; standard output is kept for results."""


class Progress:
    """One piece of long work."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self.done, self.note = 0, ""
        self._spoke = time.monotonic()
        self._started = self._spoke
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if failure[0] is None:
            console.print(f"[green]✓[/] {self.title}: {self._figures()}")

    def update(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Say how far the work is; called as often as one likes."""
        self.done, self.note = done, note
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=note)
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self._spoke = time.monotonic()
            console.print(f"  {self.title}: {self._figures()}")

    def _figures(self) -> str:
        seconds = time.monotonic() - self._started
        of = f" of {self.total}" if self.total and self.done < self.total else ""
        count = f"{self.done}{of}, " if self.done else ""
        return f"{count}{seconds:.0f} s" + (f" ({self.note})" if self.note else "")


@contextmanager
def polled(progress: Progress, poll: Callable[[Progress], None], *, every: float = 0.5) -> Iterator[Progress]:
    """Keep a progress up to date from a function that looks at how far the work is, while the body does the work."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            with suppress(Exception):  # looking at the work must never be what ends it
                poll(progress)

    with progress:
        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield progress
            poll(progress)
        finally:
            stop.set()
            thread.join(timeout=10)

"""Progress of long work: a bar on a terminal, a line now and then in a log. Knows nothing of what is being done."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from magdi_ray.observe.logs import speaks_json
from magdi_ray.observe.screen import Screen

logger = logging.getLogger(__name__)

QUIET_SECONDS = 60.0
"""Between two lines where there is no terminal."""


class Terminal(Screen):
    """A terminal, or a log; where lines are collected as JSON, what people would read is a line of JSON too."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See `rich.console.Console`."""
        if not speaks_json():
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **(options | {"soft_wrap": True}))
        if text := captured.get().strip():
            logger.info("%s", text)


console = Terminal(stderr=True, highlight=False)
"""Where people read; standard output is kept for results."""


class Display:
    """The one live display of this process: a terminal can hold no second, however many pieces of work are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._bars: RichProgress | None = None

    def take(self) -> RichProgress:
        """The display, started for its first user."""
        with self._lock:
            self._users += 1
            if self._bars is None:
                times = (TimeElapsedColumn(), TimeRemainingColumn())
                shape = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
                self._bars = RichProgress(*shape, TextColumn("{task.fields[note]}"), console=console, transient=True)
                self._bars.start()
            return self._bars

    def give_back(self) -> None:
        """Stop the display after its last user."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None


_display = Display()


class Progress:
    """One piece of long work."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self.done, self.note = 0, ""
        self._spoke = time.monotonic()
        self._started = self._spoke
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if console.is_terminal and not speaks_json():
            self._bar = _display.take()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.remove_task(self._task)
            _display.give_back()
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
    """Keep a progress up to date from a function that looks at how far the work is, while the body does the work.

    It looks from a thread of its own, which knows what was said of run and stage here (see `observe.where`).
    """
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            with suppress(Exception):  # looking at the work must never be what ends it
                poll(progress)

    with progress:
        thread = threading.Thread(target=copy_context().run, args=(watch,), name="progress", daemon=True)
        thread.start()
        try:
            yield progress
            with suppress(Exception):
                poll(progress)
        finally:
            stop.set()
            thread.join(timeout=10)

"""What a fault can lay hands on: the run, its driver, and the grounds it runs on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.grounds import Grounds
from tests.chaos.tails import Torn


@dataclass
class Scene:
    """One attempt at a run, while a fault strikes."""

    grounds: Grounds
    run: Path
    driver: subprocess.Popen[str]
    stage: str
    """That the fault strikes."""
    between: list[Callable[[], Torn]] = field(default_factory=list)
    """To be done when the attempt has ended, before the next."""

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on the cluster."""
        return self.grounds.cluster.left()

"""Storage that fails or is slow, and a clock that jumps, for every process that is started with `Shim.environment`.

`shim.c` is compiled and loaded before libc. What is done to files below one directory waits, or fails with an errno of one's
choice; the wall clock as Python reads it is moved. A process needs nothing to take part, and the machine itself is left as it is.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
LAYOUT = struct.Struct("iid")
"""errno, milliseconds, seconds"""


class Shim:
    """One control of many processes."""

    def __init__(self, folder: Path, below: Path) -> None:
        """Compile into `folder`; what is done below `below` is what can be made to fail.

        Raises:
            RuntimeError: there is no C compiler.
        """
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RuntimeError("A C compiler (cc) is required for failing and slow storage and for the clock; found none.")
        folder.mkdir(parents=True, exist_ok=True)
        library, file = (folder / "shim.so").resolve(), (folder / "control").resolve()
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        file.write_bytes(bytes(LAYOUT.size))
        with file.open("r+b") as stream:
            self._control = mmap.mmap(stream.fileno(), LAYOUT.size)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CONTROL": str(file), "CHAOS_ROOT": str(below.resolve())}
        """For the processes that are to be struck."""

    def storage(self, *, error: int = 0, delay_ms: int = 0) -> None:
        """What becomes of calls to storage from now on; 0 leaves them alone."""
        self._control[:] = LAYOUT.pack(error, delay_ms, LAYOUT.unpack(self._control[:])[2])

    def clock(self, *, shift_s: float) -> None:
        """How far the wall clock is off from now on."""
        self._control[:] = LAYOUT.pack(*LAYOUT.unpack(self._control[:])[:2], shift_s)

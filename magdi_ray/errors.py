"""The few errors a user can cause, each named after the boundary that was crossed.

A message says what was required, what was found and what to do. The command line prints it without a traceback
and exits with code 2.
"""

from __future__ import annotations

import errno


class MagdiError(Exception):
    """Base of every error raised for a person to read."""


class ConfigError(MagdiError):
    """The configuration, or something it points to, cannot be used."""


class TaskError(MagdiError):
    """A question file is missing, empty or malformed."""


class EngineError(MagdiError):
    """A model could not be loaded, or could not answer."""


class GraphError(MagdiError):
    """A graph or transcript file is malformed, or written in a schema this version does not read."""


class RunError(MagdiError):
    """The run directory is in a state that forbids what was asked."""


class MachineError(MagdiError):
    """The machine refuses what is asked of it: a full disk, no right to a file, no address to listen at."""


REMEDIES = {
    errno.ENOSPC: "Free space there, or choose another --out directory.",
    errno.EDQUOT: "Free some of your quota there, or choose another --out directory.",
    errno.EROFS: "Choose a directory that can be written.",
    errno.EACCES: "Check who may read and write it.",
    errno.EPERM: "Check who may read and write it.",
    errno.EMFILE: "Raise the number of open files: ulimit -n.",
    errno.EIO: "The storage failed: look at the disk, or at the server it is mounted from, and run the same command again.",
    errno.ESTALE: "The storage went away: look whether it is still mounted, and run the same command again.",
    errno.EADDRINUSE: "Choose another port, or stop what listens there.",
}
"""What a person does about what a machine refuses."""


def of_machine(error: OSError) -> MachineError | None:
    """An error of the operating system that no code can mend, in words; None for any other, which is a fault of the program."""
    if (remedy := REMEDIES.get(error.errno or 0)) is None:
        return None
    place = f": {error.filename}" if error.filename else ""
    return MachineError(f"{error.strerror}{place}. What is finished is kept. {remedy}")

"""The few errors a user can cause, each named after the boundary that was crossed.

A message says what was required, what was found and what to do. The command line prints it without a traceback
and exits with code 2.
"""

from __future__ import annotations


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

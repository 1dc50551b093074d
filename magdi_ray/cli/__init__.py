"""The command line. `main` is the entry point of `magdi`."""

from magdi_ray.cli.commands import app, main

__all__ = ["app", "main"]

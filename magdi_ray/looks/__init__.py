"""What all pages of the package look like: colours and type, written once. The report embeds them, the playground serves them."""

from importlib.resources import files

SHEETS = ("theme.css", "type.css")
"""In the order in which a page applies them, before its own."""


def sheet(name: str) -> str:
    """The text of one of `SHEETS`."""
    return (files(__package__) / name).read_text(encoding="utf-8")

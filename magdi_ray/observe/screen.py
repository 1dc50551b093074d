"""A terminal that shows any text as text (`plain`).

rich writes its own escape sequences when a line is rendered, behind the text: whatever control character a text still holds then
is somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.segment import Segment

from magdi_ray.observe.plain import harmless


class Screen(Console):
    """See the module."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        shown = (one if one.control else Segment(harmless(one.text), one.style) for one in buffer)
        return super()._render_buffer(shown)

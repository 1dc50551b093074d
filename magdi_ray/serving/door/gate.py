"""How much of something may be in a door at once: replies that are drawn, bytes of bodies that are read. Knows no HTTP."""

from __future__ import annotations

from magdi_ray.agents.base import BusyError


class Gate:
    """Lets a request in as a whole or not at all; one that is alone is let in however much it brings, or it never would be."""

    def __init__(self, capacity: int | None) -> None:
        """None: everything is let in."""
        self.capacity = capacity
        self.taken = 0

    def enter(self, amount: int, *, held: int = 0, what: str = "replies") -> None:
        """Let in an amount, beside the `held` that the same request has here already.

        Raises:
            BusyError: there is no room for it beside what others have here; nothing was let in.
        """
        if self.capacity is not None and self.taken > held and self.taken + amount > self.capacity:
            raise BusyError(f"{self.taken} {what} are under way, {amount} more are asked for, {self.capacity} may be at once.")
        self.taken += amount

    def leave(self, amount: int) -> None:
        """Give back what was let in."""
        self.taken -= amount

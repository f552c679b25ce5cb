"""When memberships of groups end by ``group_expiry``. Decisions only: no I/O, no clock."""

from __future__ import annotations


class LatestJoins:
    """Remembers when each channel last joined each group, oldest first.

    With an ``expiry`` of 0 nothing is remembered, and nothing ends.
    """

    def __init__(self, expiry: float) -> None:
        self._expiry = expiry
        self._joined: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._joined)

    def note(self, group: str, channel: str, now: float) -> None:
        """A channel joined, or said again that it wants to be in."""
        if self._expiry:
            member = (group, channel)
            self._joined.pop(member, None)
            self._joined[member] = now

    def forget(self, group: str, channel: str) -> None:
        """A channel left."""
        if self._joined:
            self._joined.pop((group, channel), None)

    def take_over(self, other: LatestJoins) -> None:
        """Take all that another remembers."""
        self._joined, other._joined = other._joined, {}

    def clear(self) -> None:
        """All channels left."""
        self._joined.clear()

    @property
    def next_due(self) -> float | None:
        """When the next membership ends; None if none does."""
        for joined in self._joined.values():
            return joined + self._expiry
        return None

    def due(self, now: float) -> list[tuple[str, str]]:
        """Give, and forget, the memberships (group and channel) that have ended."""
        ended = []
        for member, joined in self._joined.items():
            if joined + self._expiry > now:
                break
            ended.append(member)
        for member in ended:
            del self._joined[member]
        return ended

"""Which channels are in which groups, since when, and for whom. Decisions only: no I/O, no clock.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html#groups
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

#: When a channel last joined that is only claimed, and the claims; there are always some.
_Claimed: TypeAlias = tuple[float, tuple[object, ...]]


class Memberships:
    """The groups of this process. The clock's readings are handed in, in seconds.

    A ``group_add()`` that is cancelled before it returned must leave nothing behind, also when
    its result crosses with the cancellation on the way to another event loop. It must not undo
    what others asked for either. So each pair of a group and a channel is in one of three states,
    and whoever waits for a ``group_add()`` holds a *claim*, which is any object of its own:

    ===============  ===========  =======================  ===========
    event            absent       claimed                  established
    ===============  ===========  =======================  ===========
    ``claim()``      claimed      claimed, by one more     the same
    ``establish()``  established  established              established
    ``withdraw()``   the same     absent, with the last    the same
                                  claim; else the same
    ``leave()``      absent       absent                   absent
    ``give_up()``    the same     absent                   the same
    ===============  ===========  =======================  ===========

    Claimed and established channels are members alike. A claim ends with the state that it was
    made in: withdrawn later, it changes nothing.
    """

    def __init__(self, expiry: float = 0) -> None:
        #: Seconds from the latest join to the end of a membership; 0 means that none ends.
        self._expiry = expiry
        #: group -> channel -> when it last joined; with the claims, where it is only claimed. With
        #: an expiry, the oldest of a group is first.
        self._groups: dict[str, dict[str, float | _Claimed]] = {}
        #: How many groups a channel is in, for those in any.
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Memberships: {len(self._counts)} channels in {len(self._groups)} groups>"

    # Who is in

    @property
    def groups(self) -> Collection[str]:
        """The groups that have a member."""
        return self._groups.keys()

    @property
    def channels(self) -> Collection[str]:
        """The channels that are in a group."""
        return self._counts.keys()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Group and channel of each membership."""
        return [(group, name) for group, members in self._groups.items() for name in members]

    @property
    def claimed(self) -> list[tuple[str, str]]:
        """Group and channel of each membership that is only claimed. May be asked on any thread."""
        return [
            (group, name)
            for group, members in list(self._groups.items())
            for name, joined in list(members.items())
            if isinstance(joined, tuple)
        ]

    def members(self, group: str) -> Collection[str]:
        """The channels in a group."""
        return self._groups.get(group, {}).keys()

    def established(self, group: str) -> list[str]:
        """The channels in a group that are not only claimed."""
        members = self._groups.get(group, {})
        return [name for name, joined in members.items() if not isinstance(joined, tuple)]

    # Joining and leaving

    def claim(self, group: str, channel: str, claim: object, now: float) -> None:
        """Add a channel to a group for as long as one of its claims stands."""
        members = self._groups.get(group)
        joined = None if members is None else members.get(channel)
        if joined is None:
            self._put(group, channel, (now, (claim,)))
        elif isinstance(joined, tuple):
            self._put(group, channel, (now, (*joined[1], claim)))
        else:
            self._put(group, channel, now)

    def establish(self, group: str, channel: str, now: float) -> None:
        """Add a channel to a group, whatever becomes of those who claimed it."""
        self._put(group, channel, now)

    def keep(self, group: str, channel: str, now: float) -> None:
        """Establish what the caller claimed, unless it was taken out of the group meanwhile."""
        members = self._groups.get(group)
        if members is not None and channel in members:
            if self._expiry:
                del members[channel]  # as in _put()
            members[channel] = now

    def withdraw(self, group: str, channel: str, claim: object) -> bool:
        """End a claim; True if that took the channel out of the group."""
        members = self._groups.get(group, {})
        joined = members.get(channel)
        if not isinstance(joined, tuple):
            return False
        since, claims = joined
        left = tuple(other for other in claims if other != claim)
        members[channel] = since, left
        return not left and self.leave(group, channel)

    def leave(self, group: str, channel: str) -> bool:
        """Take a channel out of a group; False if it was not in it."""
        members = self._groups.get(group)
        if members is None or channel not in members:
            return False
        del members[channel]
        if not members:
            del self._groups[group]
        count = self._counts.pop(channel) - 1
        if count:
            self._counts[channel] = count
        return True

    def give_up(self) -> None:
        """Take out all that is only claimed."""
        for group, channel in self.claimed:
            self.leave(group, channel)

    def clear(self) -> list[tuple[str, str]]:
        """Empty all groups; give the memberships that ended."""
        pairs = self.pairs
        self._groups.clear()
        self._counts.clear()
        return pairs

    def take_over(self, other: Memberships) -> None:
        """Take all memberships of another, and leave it none."""
        self._groups, other._groups = other._groups, {}
        self._counts, other._counts = other._counts, {}

    def _put(self, group: str, channel: str, joined: float | _Claimed) -> None:
        """Note when a channel joined, and who claims that."""
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = {}
        if channel not in members:
            self._counts[channel] = self._counts.get(channel, 0) + 1
        elif self._expiry:
            del members[channel]  # it goes to the end, so that the oldest stays first
        members[channel] = joined

    # group_expiry

    @property
    def next_due(self) -> float | None:
        """When the next membership ends; None if none does."""
        if not self._expiry or not self._groups:
            return None
        oldest = (next(iter(members.values())) for members in self._groups.values())
        return min(_since(joined) for joined in oldest) + self._expiry

    def due(self, now: float) -> list[tuple[str, str]]:
        """Group and channel of each membership whose time is over. They are to leave."""
        ended = []
        if self._expiry:
            for group, members in self._groups.items():
                for channel, joined in members.items():
                    if _since(joined) + self._expiry > now:
                        break
                    ended.append((group, channel))
        return ended


def _since(joined: float | _Claimed) -> float:
    """When a channel last joined."""
    return joined[0] if isinstance(joined, tuple) else joined

"""Which channels are in which groups, since when, and for whom. Decisions only: no I/O, no clock.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html#groups
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection


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
        #: group -> channel -> when it last joined. With an expiry, the oldest of a group is first.
        self._groups: dict[str, dict[str, float]] = {}
        #: How many groups a channel is in, for those in any.
        self._counts: Counter[str] = Counter()
        #: The claims on each pair that is claimed; never empty.
        self._claims: dict[tuple[str, str], set[object]] = {}

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

    def members(self, group: str) -> Collection[str]:
        """The channels in a group."""
        return self._groups.get(group, {}).keys()

    def established(self, group: str) -> list[str]:
        """The channels in a group that are not only claimed."""
        return [name for name in self.members(group) if (group, name) not in self._claims]

    # Joining and leaving

    def claim(self, group: str, channel: str, claim: object, now: float) -> None:
        """Add a channel to a group for as long as one of its claims stands."""
        pair = (group, channel)
        if self._put(group, channel, now):
            self._claims[pair] = {claim}
        elif pair in self._claims:
            self._claims[pair].add(claim)

    def establish(self, group: str, channel: str, now: float) -> None:
        """Add a channel to a group, whatever becomes of those who claimed it."""
        self._put(group, channel, now)
        if self._claims:
            self._claims.pop((group, channel), None)

    def keep(self, group: str, channel: str, now: float) -> None:
        """Establish what the caller claimed, unless it was taken out of the group meanwhile."""
        members = self._groups.get(group)
        if members is not None and channel in members:
            self.establish(group, channel, now)

    def withdraw(self, group: str, channel: str, claim: object) -> bool:
        """End a claim; True if that took the channel out of the group."""
        claims = self._claims.get((group, channel))
        if claims is None:
            return False
        claims.discard(claim)
        return not claims and self.leave(group, channel)

    def leave(self, group: str, channel: str) -> bool:
        """Take a channel out of a group; False if it was not in it."""
        members = self._groups.get(group, {})
        if channel not in members:
            return False
        self._claims.pop((group, channel), None)
        del members[channel]
        self._counts[channel] -= 1
        if not self._counts[channel]:
            del self._counts[channel]
        if not members:
            del self._groups[group]
        return True

    def give_up(self) -> None:
        """Take out all that is only claimed."""
        for group, channel in list(self._claims):
            self.leave(group, channel)

    def clear(self) -> list[tuple[str, str]]:
        """Empty all groups; give the memberships that ended."""
        pairs = self.pairs
        self._groups.clear()
        self._counts.clear()
        self._claims.clear()
        return pairs

    def take_over(self, other: Memberships) -> None:
        """Take all memberships of another, and leave it none."""
        self._groups, other._groups = other._groups, {}
        self._counts, other._counts = other._counts, Counter()
        self._claims, other._claims = other._claims, {}

    def _put(self, group: str, channel: str, now: float) -> bool:
        """Note when a channel joined; whether it was not in the group before."""
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = {}
        new = channel not in members
        if new:
            self._counts[channel] += 1
        elif self._expiry:
            del members[channel]  # it goes to the end, so that the oldest stays first
        members[channel] = now
        return new

    # group_expiry

    @property
    def next_due(self) -> float | None:
        """When the next membership ends; None if none does."""
        if not self._expiry or not self._groups:
            return None
        return min(next(iter(members.values())) for members in self._groups.values()) + self._expiry

    def due(self, now: float) -> list[tuple[str, str]]:
        """Group and channel of each membership whose time is over. They are to leave."""
        ended = []
        if self._expiry:
            for group, members in self._groups.items():
                for channel, joined in members.items():
                    if joined + self._expiry > now:
                        break
                    ended.append((group, channel))
        return ended

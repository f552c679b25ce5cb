"""Which requests of other processes were taken already. Decisions only: no I/O, no clock."""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    """What is to be done with a request."""

    #: It is new: carry it out, and tell :meth:`ServedRequests.end`.
    NEW = "new"
    #: The same one is being carried out.
    UNDER_WAY = "under way"
    #: The same one was carried out.
    DONE = "done"
    #: It may be new, but there is no room to remember it: refuse it.
    FULL = "full"


class ServedRequests:
    """The ids of requests that change something, for as long as a repeat may be accepted.

    Encrypted requests can be recorded and sent again by who cannot read them, until they are too
    old to be decrypted. An id that was forgotten before would let one through. So where too many
    are remembered, new ones are refused, and none is forgotten.

    The clock is handed in: seconds since 1970, by which also the age of a ciphertext is told.
    """

    def __init__(self, lifetime: float, most: int = 65_536) -> None:
        #: Seconds for which a repeat may be accepted.
        self._lifetime = lifetime
        self._most = most
        #: id -> until when it is remembered; oldest first.
        self._until: dict[str, float] = {}
        self._under_way: set[str] = set()

    def __repr__(self) -> str:
        return f"<ServedRequests: {len(self._until)} remembered>"

    def begin(self, request_id: str, now: float) -> Verdict:
        """Tell what is to be done with a request, and remember it if it is new."""
        until = self._until
        while until and until[oldest := next(iter(until))] < now:
            del until[oldest]
        if request_id in until:
            return Verdict.UNDER_WAY if request_id in self._under_way else Verdict.DONE
        if len(until) >= self._most:
            return Verdict.FULL
        until[request_id] = now + self._lifetime
        self._under_way.add(request_id)
        return Verdict.NEW

    def end(self, request_id: str, *, done: bool) -> None:
        """Note that a request was carried out; or that it was not, and may be when it is repeated.

        Nothing happens for one that has ended, or that another took over.
        """
        if request_id in self._under_way:
            self._under_way.discard(request_id)
            if not done:
                self._until.pop(request_id, None)

    def take_over(self, other: ServedRequests) -> None:
        """Take what another remembers, but for what it has under way: that is not done."""
        taken, other._until = other._until, {}
        under_way, other._under_way = other._under_way, set()
        for request_id in under_way:
            taken.pop(request_id, None)
        self._until = taken

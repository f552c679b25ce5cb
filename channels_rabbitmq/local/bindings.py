"""Which routing keys are bound, are to be, or are kept for a while. Decisions only: no I/O."""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from typing import Final

#: What nobody needs is kept up to so many, before the rest is looked through.
_CROWD = 64


class BindingState(enum.Enum):
    """Where the binding of one routing key stands. There is no object for one that is absent."""

    #: It is to be made, and waits in line.
    WAITING = "waiting"
    #: RabbitMQ was asked for it, and has not answered.
    BINDING = "binding"
    #: It is there, and wanted.
    BOUND = "bound"
    #: It is there, and nobody wants it. It can be had back at once.
    LINGERING = "lingering"
    #: RabbitMQ was asked to remove it, and has not answered.
    UNBINDING = "unbinding"
    #: It is not there any more; the table has forgotten it.
    GONE = "gone"


#: For what is asked at each join: Python 3.11 takes long to look up a member of an enum.
BOUND: Final = BindingState.BOUND


class Binding:
    """One routing key's."""

    __slots__ = ("_crowd", "key", "state", "waiters", "wanted")

    def __init__(self, key: str) -> None:
        self.key = key
        self.state = BindingState.WAITING
        #: Whether the key is to be bound, whatever it is just now.
        self.wanted = True
        #: Those who wait until it is bound, or not wanted any more; some may have given up.
        self.waiters: list[asyncio.Future[None]] = []
        #: With so many, those who gave up are looked for.
        self._crowd = _CROWD

    def add_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Have it told once it is bound, or not wanted any more."""
        if len(self.waiters) >= self._crowd:
            # RabbitMQ may answer nothing for hours, during an alarm.
            self.waiters = [each for each in self.waiters if not each.done()]
            self._crowd = _CROWD + 2 * len(self.waiters)
        self.waiters.append(waiter)


class BindingTable:
    """The bindings of one queue. The clock's readings are handed in, in seconds.

    Those that nobody wants any more linger for so many seconds, and at most so many of them.

    ===============  ===========  ==========  =======  =========  ==========
    event            waiting      binding     bound    lingering  unbinding
    ===============  ===========  ==========  =======  =========  ==========
    ``join()``       the same     wanted      the same bound      wanted
    ``leave()``      gone         not wanted  lingers  the same   not wanted
    taken to bind    binding
    ``bound()``                   bound, or
                                  lingering
    taken to unbind                                    unbinding
    ``unbound()``                                                 gone, or
                                                                  waiting
    ===============  ===========  ==========  =======  =========  ==========

    So of one key either a bind or an unbind is under way, and never both: they cannot overtake
    each other, whichever AMQP channels they travel on.
    """

    def __init__(self, linger: float, most_lingering: int) -> None:
        self._linger = linger
        self._most_lingering = most_lingering
        self._bindings: dict[str, Binding] = {}
        #: Those that wait, first come first; with some that have gone meanwhile.
        self._line: deque[Binding] = deque()
        #: How many wait.
        self.waiting = 0
        #: How many RabbitMQ has not confirmed yet, of those that are wanted or were asked for.
        self.unconfirmed = 0
        #: Those that linger, with when each is to go; oldest first. (In a dict, what was deleted
        #: at the front is walked over each time that the first is looked for.)
        self._lingering: OrderedDict[str, float] = OrderedDict()
        #: Those of them that are to go now.
        self._leaving: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._bindings)

    def __repr__(self) -> str:
        return (
            f"<BindingTable: {len(self._bindings)} bindings, {self.unconfirmed} unconfirmed, "
            f"{self.lingering} lingering>"
        )

    @property
    def lingering(self) -> int:
        """How many bindings stay that nobody wants."""
        return len(self._lingering) + len(self._leaving)

    @property
    def keys(self) -> Collection[str]:
        """The routing keys of all that are not absent."""
        return self._bindings.keys()

    @property
    def next_due(self) -> float | None:
        """When the next lingering one is to go; None if none is."""
        for due in self._lingering.values():
            return due
        return None

    @property
    def leaving(self) -> int:
        """How many of those that linger are to go now."""
        return len(self._leaving)

    @property
    def crowded(self) -> bool:
        """Whether so many linger that some must go, even while others wait to be bound."""
        return bool(self._leaving) and self.lingering > self._most_lingering

    def get(self, key: str) -> Binding | None:
        """The binding of a routing key."""
        return self._bindings.get(key)

    def is_bound(self, key: str) -> bool:
        """Whether it is there, and wanted."""
        binding = self._bindings.get(key)
        return binding is not None and binding.state is BOUND

    def is_wanted(self, key: str) -> bool:
        """Whether it is to be there."""
        binding = self._bindings.get(key)
        return binding is not None and binding.wanted

    # What the process wants

    def join(self, key: str) -> Binding:
        """Want a binding."""
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = Binding(key)
            self._wait(binding)
            self.unconfirmed += 1
            return binding
        if not binding.wanted:
            binding.wanted = True
            if binding.state is BindingState.LINGERING:
                binding.state = BindingState.BOUND
                if self._lingering.pop(key, None) is None:
                    del self._leaving[key]
            elif binding.state is BindingState.UNBINDING:
                self.unconfirmed += 1
        return binding

    def leave(self, key: str, now: float) -> None:
        """Want a binding no more."""
        binding = self._bindings.get(key)
        if binding is None or not binding.wanted:
            return
        binding.wanted = False
        if binding.state is BindingState.WAITING:
            self.waiting -= 1
            self.unconfirmed -= 1
            self._forget(binding)
            if len(self._line) > _CROWD + 2 * self.waiting:
                waiting = (each for each in self._line if each.state is BindingState.WAITING)
                self._line = deque(waiting)
        elif binding.state is BindingState.BOUND:
            self._let_linger(binding, now)
        elif binding.state is BindingState.UNBINDING:
            self.unconfirmed -= 1

    def leave_now(self, key: str) -> None:
        """Do not let a binding linger: a message came that nobody wanted."""
        if self._lingering.pop(key, None) is not None:
            self._leaving[key] = None

    def expire(self, now: float) -> None:
        """Have those go that have lingered for long."""
        for key in list(self._due(now)):
            del self._lingering[key]
            self._leaving[key] = None

    def _due(self, now: float) -> Iterator[str]:
        for key, due in self._lingering.items():
            if due > now:
                return
            yield key

    # What RabbitMQ is asked for

    def take_to_bind(self, most: int) -> list[Binding]:
        """Take the first in line: RabbitMQ is asked to bind them."""
        taken: list[Binding] = []
        while self._line and len(taken) < most:
            binding = self._line.popleft()
            if binding.state is BindingState.WAITING:
                binding.state = BindingState.BINDING
                taken.append(binding)
        self.waiting -= len(taken)
        return taken

    def take_to_unbind(self, most: int) -> list[Binding]:
        """Take some that are to go: RabbitMQ is asked to unbind them."""
        taken = []
        for key in list(itertools.islice(self._leaving, most)):
            del self._leaving[key]
            binding = self._bindings[key]
            binding.state = BindingState.UNBINDING
            taken.append(binding)
        return taken

    def bound(self, bindings: Iterable[Binding], now: float) -> None:
        """RabbitMQ has made them."""
        for binding in bindings:
            self.unconfirmed -= 1
            if binding.wanted:
                binding.state = BindingState.BOUND
            else:
                self._let_linger(binding, now)
            self._tell(binding)

    def unbound(self, bindings: Iterable[Binding]) -> None:
        """RabbitMQ has removed them."""
        for binding in reversed(list(bindings)):
            if binding.wanted:
                self._wait(binding, first=True)  # who wants it has waited for a while
            else:
                self._forget(binding)

    def fail(self, error: Exception) -> None:
        """Fail those who wait: RabbitMQ is asked for nothing any more."""
        for binding in self._bindings.values():
            if binding.waiters:
                for waiter in binding.waiters:
                    if not waiter.done():
                        waiter.set_exception(error)
                binding.waiters.clear()

    # Inside

    def _wait(self, binding: Binding, *, first: bool = False) -> None:
        binding.state = BindingState.WAITING
        if first:
            self._line.appendleft(binding)
        else:
            self._line.append(binding)
        self.waiting += 1

    def _forget(self, binding: Binding) -> None:
        binding.state = BindingState.GONE
        del self._bindings[binding.key]
        self._tell(binding)

    def _let_linger(self, binding: Binding, now: float) -> None:
        binding.state = BindingState.LINGERING
        self._lingering[binding.key] = now + self._linger
        if len(self._lingering) > self._most_lingering:
            oldest, _ = self._lingering.popitem(last=False)
            self._leaving[oldest] = None

    def _tell(self, binding: Binding) -> None:
        if not binding.waiters:
            return
        for waiter in binding.waiters:
            if not waiter.done():
                waiter.set_result(None)
        binding.waiters.clear()

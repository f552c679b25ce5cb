"""Waiting for the messages of one channel or of many, the process's own and normal ones alike.

These run on the loop of the :class:`~.loop_layer.LoopLayer` that they are given. A waiter is a
future in the mailbox of the channel; whoever puts a message there wakes the oldest. It is woken
once and then has to look, because another reader may have been faster. So a message is never on
the way to somebody: it is in the mailbox until it is taken, and cancelling loses none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import LoopEnded
from ..local.mailbox import Mailbox
from ..wire.messages import Message

if TYPE_CHECKING:
    from .loop_layer import LoopLayer

#: How long ``receive_many(block=False)`` waits for RabbitMQ to deliver from a normal channel, in
#: seconds.
_FETCH_TIME = 0.1


async def receive(loop_layer: LoopLayer, channel: str) -> Message:
    """Wait for the oldest message of a channel, through outages."""
    mailboxes = loop_layer.mailboxes
    box = mailboxes.find(channel)
    if box is None:
        if "!" not in channel:
            _, message = await _receive_any(loop_layer, (channel,))
            return message
        loop_layer.earlier.note_use(channel)
        box = mailboxes.box(channel)
    while not box.queue:
        if loop_layer.ended:
            raise LoopEnded(started=False)
        waiter: asyncio.Future[None] = loop_layer.loop.create_future()
        box.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            box.give_up(waiter)
            raise
        if not box.queue:  # another reader was faster, and the mailbox may be gone
            box = mailboxes.box(channel)
    if not box.queue[0].costly:
        return mailboxes.take(box)
    taken = await _take_in_turn(loop_layer, box)
    return await receive(loop_layer, box.name) if taken is None else taken


async def _take_in_turn(loop_layer: LoopLayer, box: Mailbox) -> Message | None:
    """Take a message whose copies are costly, in a turn of the loop without another such.

    None if there is none any more: another reader was faster, or it expired.
    """
    try:
        async with loop_layer.copying:
            await asyncio.sleep(0)
            return loop_layer.mailboxes.take(box) if box.queue else None
    except asyncio.CancelledError:
        box.wake()  # the next in line gets it
        raise


async def receive_many(
    loop_layer: LoopLayer, channels: Sequence[str], block: bool
) -> tuple[str, Message] | None:
    """Give a channel that has a message, and the message; None if none has and not ``block``."""
    if block:
        return await _receive_any(loop_layer, channels)
    received = await _take_any(loop_layer, channels)
    normal = [name for name in channels if "!" not in name]
    if received is None and normal:
        await _wait_for_any(loop_layer, normal, _FETCH_TIME)
        received = await _take_any(loop_layer, channels)
    return received


def take_back(loop_layer: LoopLayer, channel: str, message: Message) -> None:
    """Hold a message again that :func:`receive` took for a call that was cancelled meanwhile."""
    if "!" in channel:
        loop_layer.mailboxes.put_back(channel, message, loop_layer.loop.time())
        loop_layer.housekeeping.message_held()
    else:
        loop_layer.normal.take_back(channel, message, loop_layer.encode(channel, message))


def take_back_any(
    loop_layer: LoopLayer,
    channels: Sequence[str],
    block: bool,
    received: tuple[str, Message] | None,
) -> None:
    """Hold a message again that :func:`receive_many` took for a call that was cancelled."""
    if received is not None:
        take_back(loop_layer, *received)


async def _receive_any(loop_layer: LoopLayer, channels: Sequence[str]) -> tuple[str, Message]:
    while True:
        received = await _take_any(loop_layer, channels)
        if received is not None:
            return received
        await _wait_for_any(loop_layer, channels, None)


async def _take_any(loop_layer: LoopLayer, channels: Sequence[str]) -> tuple[str, Message] | None:
    """Take a message of one channel; None if none has any."""
    while (name := _choose(loop_layer, channels)) is not None:
        if "!" not in name:
            return name, loop_layer.normal.take(name)
        box = _box(loop_layer, name)
        if not box.queue[0].costly:
            return name, loop_layer.mailboxes.take(box)
        taken = await _take_in_turn(loop_layer, box)
        if taken is not None:
            return name, taken
    return None


def _choose(loop_layer: LoopLayer, channels: Sequence[str]) -> str | None:
    """Choose a channel that has a message by chance, so that a busy one does not starve others."""
    ready = [name for name in channels if _is_ready(loop_layer, name)]
    if not ready:
        return None
    name = ready.pop(random.randrange(len(ready)))
    # A message that woke us and that we leave is for the next in line.
    for other in ready:
        _box(loop_layer, other).wake()
    return name


async def _wait_for_any(
    loop_layer: LoopLayer, channels: Sequence[str], timeout: float | None
) -> None:
    """Wait until one of the channels may have a message, or for so many seconds."""
    if loop_layer.ended:
        raise LoopEnded(started=False)
    loop = loop_layer.loop
    waiter: asyncio.Future[None] = loop.create_future()
    timer = None if timeout is None else loop.call_later(timeout, _wake, waiter)
    for name in channels:
        _box(loop_layer, name).waiters.append(waiter)
        if "!" in name:
            loop_layer.earlier.note_use(name)
        loop_layer.normal.update(name)  # RabbitMQ delivers from a queue that somebody waits for
    try:
        await waiter
    except asyncio.CancelledError:
        for name in channels:
            _box(loop_layer, name).give_up(waiter)
        raise
    finally:
        for name in channels:
            box = _box(loop_layer, name)
            if waiter in box.waiters:
                box.waiters.remove(waiter)
            loop_layer.normal.update(name)
        if timer is not None:
            timer.cancel()


def _is_ready(loop_layer: LoopLayer, channel: str) -> bool:
    if "!" in channel:
        return bool(_box(loop_layer, channel).queue)
    return loop_layer.normal.ready(channel)


def _box(loop_layer: LoopLayer, channel: str) -> Mailbox:
    local = loop_layer.local
    return (local.mailboxes if "!" in channel else local.normal).box(channel)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

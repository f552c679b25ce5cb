"""``python -m benchmarks.micro``: the time of one message in the parts that need no broker.

It takes pyperf's options; ``-o FILE`` keeps the times for ``python -m pyperf compare_to``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header

from channels_rabbitmq.amqp import frames
from channels_rabbitmq.local.mailbox import Delivery
from channels_rabbitmq.local.mailboxes import Mailboxes
from channels_rabbitmq.wire import messages

MESSAGE = {"type": "chat.message", "text": "x" * 100}
BODY = messages.encode(messages.CHANNEL_KEY, "channels_abc!def", MESSAGE, 1 << 20)
CHANNELS = [f"channels_abc!{number}" for number in range(100)]
DELIVERY = b"".join(
    pamqp.frame.marshal(frame, 1)
    for frame in (
        pamqp.commands.Basic.Deliver("tag", 1, False, "", "channels_abc"),
        pamqp.header.ContentHeader(0, len(BODY), pamqp.commands.Basic.Properties()),
        pamqp.body.ContentBody(BODY),
    )
)


class Sink:
    """Takes what a decoder and mailboxes hand on."""

    def handle_delivery(self, channel: int, tag: int, redelivered: bool, body: bytes) -> None:
        """Drop a message."""

    def ack(self, delivery_tag: int) -> None:
        """Drop an acknowledgement."""


sink = Sink()
decoder = frames.Decoder(sink)  # type: ignore[arg-type]
mailboxes = Mailboxes(1000, 60)


def put_and_take(channels: Sequence[str]) -> None:
    """Put one message into the mailboxes of some channels, and take it from each."""
    mailboxes.put(Delivery(sink, 1, 0.0, BODY, dict(MESSAGE)), channels)
    for channel in channels:
        mailboxes.take(mailboxes.box(channel))


BENCHMARKS: Sequence[tuple[str, Callable[..., object], Sequence[object]]] = (
    ("encode a publish", frames.encode_publish, (1, b"", b"channels_abc", BODY, 131072)),
    ("decode a delivery", decoder.feed, (DELIVERY,)),
    ("encode a message", messages.encode, (messages.CHANNEL_KEY, "a!b", MESSAGE, 1 << 20)),
    ("decode a message", messages.decode, (BODY,)),
    ("put and take, 1 channel", put_and_take, (CHANNELS[:1],)),
    ("put and take, 100 channels", put_and_take, (CHANNELS,)),
)

if __name__ == "__main__":
    import pyperf  # type: ignore[import-not-found,import-untyped,unused-ignore]

    runner = pyperf.Runner(program_args=("-m", "benchmarks.micro"))
    for name, function, arguments in BENCHMARKS:
        runner.bench_func(name, function, *arguments)

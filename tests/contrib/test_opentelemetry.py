"""Spans of sending and receiving, linked from process to process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from channels.exceptions import ChannelFull
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from channels_rabbitmq.contrib.opentelemetry import TracedChannelLayer
from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.connections import loop_in_thread
from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer
from tests.helpers.readers import cancelled_as_it_comes

NESTED = {"type": "chat", "lines": [{"text": "a"}, {"text": "b"}]}
FLAT = {"type": "chat", "text": "a"}


class Traced:
    """Makes traced layers, and has the spans that ended."""

    def __init__(self, url: str, exporter: InMemorySpanExporter) -> None:
        self._url = url
        self._exporter = exporter
        self.layers: list[TracedChannelLayer] = []

    def layer(self, **config: object) -> TracedChannelLayer:
        made = TracedChannelLayer(self._url, **config)  # type: ignore[arg-type]
        self.layers.append(made)
        return made

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where the spans of this process go."""
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    return made


@pytest.fixture
async def traced(amqp_url: str, exporter: InMemorySpanExporter) -> Iterator[Traced]:
    """Traced layers on this test's virtual host."""
    exporter.clear()
    made = Traced(amqp_url, exporter)
    yield made
    for layer in made.layers:
        await layer.close()


def links_to(span: ReadableSpan) -> list[int]:
    """The ids of the spans that a span links to."""
    return [link.context.span_id for link in span.links]


def id_of(span: ReadableSpan) -> int:
    """The id of a span."""
    assert span.context is not None
    return span.context.span_id


@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric_encryption_keys": ["secret"]}, {"serializer_format": "json"}],
    ids=["msgpack", "encrypted", "json"],
)
async def test_linked(traced: Traced, options: dict[str, object]) -> None:
    """A message's receive span links to its send span; nothing is added to the message."""
    sender, receiver = traced.layer(**options), traced.layer(**options)
    channel = await receiver.new_channel()
    await receiver.current_connection
    for message in (FLAT, NESTED):
        await sender.send(channel, message)
        assert await receiver.receive(channel) == message
    sends, receives = traced.spans("send"), traced.spans("receive")
    assert [links_to(span) for span in receives] == [[id_of(span)] for span in sends]
    assert {span.kind for span in sends} == {SpanKind.PRODUCER}
    assert {span.kind for span in receives} == {SpanKind.CONSUMER}
    assert dict(sends[0].attributes or {}) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "send",
        "messaging.destination.name": channel,
    }
    assert "lines" not in repr([span.to_json() for span in (*sends, *receives)])


async def test_groups(traced: Traced) -> None:
    """Every member's span links to the one of the group_send(), however the copies are made."""
    sender, receiver = traced.layer(), traced.layer()
    channels = [await receiver.new_channel() for _ in range(3)]
    for channel in channels:
        await receiver.group_add("room", channel)
    for message in (FLAT, NESTED):
        await sender.group_send("room", message)
        for channel in channels:
            assert await receiver.receive(channel) == message
    sends, receives = traced.spans("group_send"), traced.spans("receive")
    assert [links_to(span) for span in receives] == [
        *[[id_of(sends[0])]] * 3,
        *[[id_of(sends[1])]] * 3,
    ]


async def test_normal_channels_and_many(traced: Traced) -> None:
    """Normal channels and receive_many() are traced as well, once for each message."""
    sender, receiver = traced.layer(), traced.layer()
    await sender.send("jobs", NESTED)
    assert await receiver.receive("jobs") == NESTED
    channel = await receiver.new_channel()
    await sender.send(channel, FLAT)
    assert await receiver.receive_many_blocking([channel]) == (channel, FLAT)
    assert await receiver.receive_many([channel]) == (None, None)
    receives = traced.spans("receive")
    assert [links_to(span) for span in receives] == [[id_of(s)] for s in traced.spans("send")]


async def test_parent(traced: Traced) -> None:
    """A send is a part of what sends it; so is a receive of what receives."""
    layer = traced.layer()
    channel = await layer.new_channel()
    with trace.get_tracer("test").start_as_current_span("request") as request:
        await layer.send(channel, FLAT)
        await layer.receive(channel)
    parents = [span.parent for name in ("send", "receive") for span in traced.spans(name)]
    assert [parent and parent.span_id for parent in parents] == [
        request.get_span_context().span_id
    ] * 2


async def test_beside_others(traced: Traced, make_layer: MakeLayer) -> None:
    """A layer without tracing and a traced one understand each other."""
    plain, layer = make_layer(), traced.layer()
    channels = [await plain.new_channel(), await layer.new_channel()]
    for each, channel in zip((plain, layer), channels, strict=True):
        await each.group_add("room", channel)
    await layer.group_send("room", NESTED)
    assert await plain.receive(channels[0]) == NESTED
    assert await layer.receive(channels[1]) == NESTED
    await plain.group_send("room", NESTED)
    assert await plain.receive(channels[0]) == NESTED
    assert await layer.receive(channels[1]) == NESTED
    assert [len(span.links) for span in traced.spans("receive")] == [1, 0]


async def test_across_processes(traced: Traced, amqp_url: str) -> None:
    """The link leads to a span of another process."""
    code = """
from channels_rabbitmq.contrib.opentelemetry import TracedChannelLayer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())

async def main():
    traced = TracedChannelLayer(**CONFIG)
    channel = await hear()
    with trace.get_tracer("test").start_as_current_span("request") as request:
        await traced.send(channel, {"text": "from afar"})
    tell(request.get_span_context().trace_id)
    await traced.close()
"""
    layer = traced.layer()
    channel = await layer.new_channel()
    await layer.current_connection
    with running(code, host=amqp_url) as process:
        process.tell(channel)
        trace_id = await process.hear()
        assert await layer.receive(channel) == {"text": "from afar"}
        await process.end_well()
    (span,) = traced.spans("receive")
    assert [link.context.trace_id for link in span.links] == [trace_id]


async def test_errors(traced: Traced, make_layer: MakeLayer) -> None:
    """A message that is refused is an error of its span, and with the hook an event there."""
    full = make_layer(local_capacity=1, remote_capacity=1)
    layer = traced.layer(on_event="channels_rabbitmq.contrib.opentelemetry.add_event_to_span")
    channel = await full.new_channel()
    await full.group_add("room", channel)
    refused = False
    while not refused:
        try:
            await layer.send(channel, {"text": "a payload"})
        except ChannelFull:
            refused = True
    span = traced.spans("send")[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["channels_rabbitmq.refused", "exception"]
    assert dict(span.events[0].attributes or {}) == {
        "channels_rabbitmq.name": channel,
        "channels_rabbitmq.count": 1,
    }
    assert "a payload" not in span.to_json()


async def test_cancelled(traced: Traced) -> None:
    """A message whose reader on another loop was cancelled is traced when it is received."""
    layer = traced.layer()
    channel = await layer.new_channel()
    await layer.current_connection
    with loop_in_thread() as other:
        for number in range(20):
            message = {"n": number}
            assert await cancelled_as_it_comes(layer, channel, message, other) == message
    assert all(len(span.links) == 1 for span in traced.spans("receive"))


async def test_strangers_context(traced: Traced, make_layer: MakeLayer) -> None:
    """What a stranger writes in place of a context does no harm, and is not the user's to see."""
    layer, plain = traced.layer(), make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    key = "__channels_rabbitmq_context__"
    for value in ("no JSON", "[1]", '{"traceparent": 5}', '{"traceparent": "00-x"}', 5, None):
        await plain.send(channel, {key: value, "n": 1})
        assert await layer.receive(channel) == {"n": 1}
    connection = await plain.current_connection
    body = (
        b"\x82\xb0__asgi_channel__"
        + b"\xd9"
        + bytes([len(channel)])
        + channel.encode()
        + b"\xa1n\x02"
    )
    await connection.publish(body, routing_key=layer.queue_name, headers={"traceparent": "rubbish"})
    await connection.publish(
        body, routing_key=layer.queue_name, headers={"traceparent": 5, "a": []}
    )
    for _ in range(2):
        assert await layer.receive(channel) == {"n": 2}
    assert not any(span.links for span in traced.spans("receive"))


async def test_large_messages(traced: Traced) -> None:
    """Messages of several frames carry their context, too."""
    layer = traced.layer()
    channel = await layer.new_channel()
    message = {"data": bytes(500_000)}
    await layer.send(channel, message)
    assert await layer.receive(channel) == message
    assert len(traced.spans("receive")[0].links) == 1


def test_it_is_a_layer() -> None:
    """It is a RabbitmqChannelLayer, with the same options."""
    layer = TracedChannelLayer("amqp://127.0.0.1:1", expiry=5)
    assert isinstance(layer, RabbitmqChannelLayer)
    assert layer.options.expiry == 5

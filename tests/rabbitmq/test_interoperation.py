"""What AMQP promises beside plain jobs, with aiormq at the other end of a durable queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiormq
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage

from tests.helpers.rabbit import MakeLayer

QUEUE = "thumbnails"


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel of aiormq's, with publisher confirms, on this test's virtual host."""
    connection = await aiormq.connect(amqp_url)
    try:
        yield await connection.channel(publisher_confirms=True)
    finally:
        await connection.close()


async def consume(channel: AbstractChannel) -> asyncio.Queue[DeliveredMessage]:
    """Start a worker of aiormq's that takes one job at a time."""
    jobs: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    await channel.basic_qos(prefetch_count=1)
    await channel.basic_consume(QUEUE, jobs.put)
    return jobs


async def acknowledge(channel: AbstractChannel, job: DeliveredMessage) -> None:
    """Say that a job is done."""
    tag = job.delivery.delivery_tag
    assert tag is not None
    await channel.basic_ack(tag)


async def test_aiormq_works_off_what_the_layer_published(
    make_layer: MakeLayer, channel: AbstractChannel
) -> None:
    """A worker by aiormq gets each job, with its properties, in order and once."""
    connection = await make_layer().current_connection
    await connection.queue_declare(QUEUE, durable=True)
    jobs = await consume(channel)

    for number in range(3):
        await connection.publish(
            json.dumps({"path": f"{number}.jpg"}).encode(),
            routing_key=QUEUE,
            mandatory=True,
            delivery_mode=2,
            content_type="application/json",
            correlation_id=str(number),
            headers={"attempt": number},
        )

    for number in range(3):
        job = await asyncio.wait_for(jobs.get(), 10)
        properties = job.header.properties
        assert json.loads(job.body) == {"path": f"{number}.jpg"}
        assert properties.delivery_mode == 2
        assert properties.content_type == "application/json"
        assert properties.correlation_id == str(number)
        assert properties.headers == {"attempt": number}
        assert not job.delivery.redelivered
        assert jobs.empty()  # one at a time
        await acknowledge(channel, job)


async def test_job_that_was_not_done_goes_to_another_worker(
    make_layer: MakeLayer, channel: AbstractChannel
) -> None:
    """A job that one side leaves without an ack is the other's, and marked as delivered before."""
    connection = await make_layer().current_connection
    await connection.queue_declare(QUEUE, durable=True)
    await connection.publish(b"job", routing_key=QUEUE, delivery_mode=2)
    async with connection.acking_consumer(QUEUE) as consumer:
        assert (await consumer.next_delivery())[0] == b"job"

    jobs = await consume(channel)
    job = await asyncio.wait_for(jobs.get(), 10)
    assert job.body == b"job"
    assert job.delivery.redelivered
    await channel.close()

    async with connection.acking_consumer(QUEUE) as consumer:
        body, tag = await asyncio.wait_for(consumer.next_delivery(), 10)
        consumer.ack(tag)
    assert body == b"job"


async def test_answer_to_a_job(make_layer: MakeLayer, channel: AbstractChannel) -> None:
    """A remote call: aiormq answers to ``reply_to``, and the layer's side gets the answer."""
    connection = await make_layer().current_connection
    await connection.queue_declare(QUEUE, durable=True)
    await connection.queue_declare("answers", exclusive=True)
    jobs = await consume(channel)

    async with connection.acking_consumer("answers") as answers:
        await connection.publish(b"2 + 3", routing_key=QUEUE, reply_to="answers")
        job = await asyncio.wait_for(jobs.get(), 10)
        reply_to = job.header.properties.reply_to
        assert isinstance(reply_to, str)
        await channel.basic_publish(b"5", routing_key=reply_to)
        assert (await asyncio.wait_for(answers.next_delivery(), 10))[0] == b"5"
        await acknowledge(channel, job)

"""The shop: does what each line of standard input says, and answers in JSON."""

import json
import os
import sys

import django
from django.apps import apps
from django.db import transaction
from django.utils import timezone

from channels_rabbitmq.broadcaster import RabbitmqBackend, register

assert "django_broadcaster" not in sys.modules
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()
# The model can only be imported once Django is set up.
OutboxEvent = apps.get_model("django_broadcaster", "OutboxEvent")
backends_module = sys.modules["django_broadcaster.backends"]
publisher = sys.modules["django_broadcaster.publishers"].publisher


def order(number, undone=False, **options):
    """Place an order, with an event in the same transaction; give the event's id."""
    try:
        with transaction.atomic():
            event = publisher.publish_event(
                event_type="order.placed", source="/shop", data={"number": number}, **options
            )
            if undone:
                raise LookupError
    except LookupError:
        return None
    return str(event.id)


def state():
    """Status, retries and error of each event, by id."""
    return {
        str(event.id): [event.status, event.retry_count, event.last_error]
        for event in OutboxEvent.objects.all()
    }


def clear():
    """Forget all events."""
    OutboxEvent.objects.all().delete()


def due():
    """Make what waits for another attempt due now."""
    waiting = OutboxEvent.objects.filter(status="retry")
    return waiting.update(scheduled_at=timezone.now())


def backends():
    """The publishers by name, in order; registering again changes nothing."""
    before = list(publisher._backends.values())
    register()
    assert before == list(publisher._backends.values())
    assert all(isinstance(backend, backends_module.PublisherBackend) for backend in before)
    return {name: type(backend).__name__ for name, backend in publisher._backends.items()}


def by_hand(number):
    """Publish the real OutboxEvent by a backend of one's own, and in a forked child as well."""
    event = OutboxEvent.objects.create(
        event_type="order.placed", source="/shop", data={"number": number}
    )
    backend = RabbitmqBackend({"url": os.environ["AMQP_URL"], "stream": "orders"})
    assert backend.health_check()
    assert backend.publish(event) is True
    child = os.fork()
    if child == 0:
        done = False
        try:
            done = backend.health_check() and backend.publish(event)
        finally:
            os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.publish(event) is True
    return str(event.id)


FUNCTIONS = {
    function.__name__: function for function in (order, state, clear, due, backends, by_hand)
}
for line in sys.stdin:
    name, arguments = json.loads(line)
    print(json.dumps(FUNCTIONS[name](**arguments)), flush=True)

"""A Django Channels channel layer on RabbitMQ: see :mod:`channels_rabbitmq.core`."""

"""Channel layers of the project's own."""

from __future__ import annotations

import ast

from channels_rabbitmq.core import RabbitmqChannelLayer


class Renamed(RabbitmqChannelLayer):
    pass


class FromName(RabbitmqChannelLayer):
    def __init__(self, name: str) -> None:
        super().__init__(host=f"amqp://guest:Zw9@{name}.example.com")


class Serializer:
    def serialize(self, message: dict) -> bytes:
        return repr(message).encode()

    def deserialize(self, body: bytes) -> dict:
        return ast.literal_eval(body.decode())

"""What the layer has on RabbitMQ, kept across reconnections."""

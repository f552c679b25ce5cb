"""An AMQP 0-9-1 client engine on asyncio; it knows neither Django, Channels nor this package.

Bytes become frames in ``frames``; ``protocol`` is one connection and ``channel`` one AMQP channel
on it; ``connect`` opens a connection to an ``endpoint``. ``calls`` and ``consumer`` are what most
users of a channel want. ``state``, ``errors``, ``futures``, ``acknowledgements`` and ``text`` serve
these. All of it runs on the event loop that a :class:`.protocol.Protocol` was made for.
"""

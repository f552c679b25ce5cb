"""AMQP 0-9-1 on asyncio: the engine beneath :class:`carehare.Connection`.

Imports run one way: ``frames`` <- ``confirms``, ``acks`` <- ``channel`` <- ``protocol``
<- ``consumer`` <- ``connection``. Only ``connection`` and ``consumer`` know carehare's interface.
"""

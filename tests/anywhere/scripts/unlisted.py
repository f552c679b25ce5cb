"""asgiref does not list its transient loops: each counts as lasting, and everything works."""

from __future__ import annotations

from asgiref.sync import AsyncToSync, async_to_sync


class Unlisted(dict):  # type: ignore[type-arg]
    """Keeps what asgiref needs, and shows nothing."""

    def __contains__(self, key: object) -> bool:
        return False

    def get(self, key: object, default: object = None) -> object:
        return default


AsyncToSync.loop_thread_executors = Unlisted()

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets  # noqa: E402

channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("room", channel)
for number in range(10):
    async_to_sync(layer.group_send)("room", {"n": number})
    assert async_to_sync(layer.receive)(channel) == {"n": number}
assert owner_threads() == 0
assert sockets() == 0

"""What the connections of a parent and of its forked child are called; both stay until told."""

from __future__ import annotations

import json
import os
import sys

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer


def tell_name() -> None:
    """Connect, and tell this process's id and its connection's name."""
    async_to_sync(layer.group_send)("nobody", {"type": "a"})
    print(json.dumps([os.getpid(), layer.connection_name]), flush=True)


tell_name()
end_of_parent, told = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(told)
    tell_name()
    os.read(end_of_parent, 1)  # to the end of the pipe
    os._exit(0)
sys.stdin.readline()
os.close(told)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

"""A process with a channel layer, of whichever version is installed, that obeys its standard input.

Each line is a Python literal, ``[method, argument, ...]``; so is each answer.
"""

from __future__ import annotations

import ast
import asyncio
import sys

from channels_rabbitmq.core import RabbitmqChannelLayer


async def main(url: str) -> None:
    """Do what each line says until there are no more."""
    layer = RabbitmqChannelLayer(url)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, *arguments = ast.literal_eval(line)
        if method == "connect":
            await layer.carehare_connection
            answer = None
        else:
            answer = await asyncio.wait_for(getattr(layer, method)(*arguments), 20)
        print(repr(answer), flush=True)
    await layer.close()


asyncio.run(main(sys.argv[1]))

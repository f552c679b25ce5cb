"""``python -m benchmarks.worker SPEC``: run one workload in the interpreter of one peer.

SPEC is a :class:`Spec` as JSON. One JSON line comes back: the figures, or ``error``. Beside the
peer's packages this needs the standard library only; the limits need pamqp.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping

from . import multiprocess, workloads
from .checks import pass_fence
from .served import SERVED
from .spec import Figures, Layer, Spec, run

WORKLOADS: Mapping[str, Callable[..., Awaitable[Figures]]] = {
    function.__name__: function
    for function in (
        workloads.send,
        workloads.latency,
        workloads.group,
        workloads.second_loop,
        workloads.own_groups,
        workloads.room,
        workloads.waiting,
        workloads.soak,
        workloads.cut,
        multiprocess.processes,
        multiprocess.plain,
        multiprocess.disconnect,
        multiprocess.replaced,
    )
}


def measure(spec: Spec) -> Figures:
    """Run the workload, or measure the limit of it."""
    if spec.workload in SERVED:
        return SERVED[spec.workload](spec, **spec.params)
    if not spec.layer:
        from .limits import LIMITS

        return LIMITS[spec.workload](spec, **spec.params)
    found: Figures = {}

    async def work(layer: Layer) -> None:
        nonlocal found
        await pass_fence(layer)  # by then it is connected
        found = await WORKLOADS[spec.workload](layer, spec, **spec.params)

    run(spec, work)
    return found


def main(argument: str) -> None:
    """Print what was found, and end without waiting for the layer's leftovers."""
    answer: Mapping[str, float | str]
    try:
        answer = measure(Spec.loads(argument))
    except Exception as err:
        answer = {"error": f"{type(err).__name__}: {err}" if str(err) else repr(err)}
    print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])

"""The engine stands alone: it needs pamqp, and carehare if that is installed, and nothing else."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

from channels_rabbitmq import amqp

_CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(" ".join(sorted(sys.modules)))
"""


def test_engine_imports_no_framework() -> None:
    """Importing every module of ``amqp`` loads neither Django nor Channels, nor our own layers."""
    engine = ["channels_rabbitmq.amqp"]
    engine += [module.name for module in pkgutil.iter_modules(amqp.__path__, f"{engine[0]}.")]
    assert len(engine) > 8

    done = subprocess.run(
        [sys.executable, "-c", _CODE, *engine], check=True, capture_output=True, text=True
    )

    loaded = set(done.stdout.split())
    assert not loaded & {"asgiref", "channels", "django", "msgpack"}
    ours = {name for name in loaded if name.partition(".")[0] == "channels_rabbitmq"}
    assert ours == {"channels_rabbitmq", *engine}

"""Fuzz every target, guided by coverage, for a bounded time: ``python -m tests.fuzz [SECONDS]``.

Each runs in a process of its own, as libFuzzer ends its process. An input that fails is kept in
``.logs/fuzz``; ``python -m tests.fuzz TARGET FILE`` repeats it. Skipped where atheris has no wheel.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

#: Seconds for all targets together.
SECONDS = 60

ARTIFACTS = Path(".logs/fuzz")


def main() -> int:
    """Fuzz all targets, or repeat one input; give the exit status."""
    match sys.argv[1:]:
        case [target, file]:
            from .targets import TARGETS

            TARGETS[target][0](Path(file).read_bytes())
            return 0
        case ["--one", target, *flags]:
            fuzz(target, flags)
            return 0
        case rest:
            return fuzz_all(int(rest[0]) if rest else SECONDS)


def fuzz_all(seconds: int) -> int:
    """Fuzz every target in turn; give 1 if any failed."""
    try:
        importlib.import_module("atheris")
    except ImportError:
        print(
            f"Skipped: there is no atheris for Python {sys.version_info[0]}.{sys.version_info[1]}"
        )
        return 0
    from .targets import TARGETS

    failed = []
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for target, (_, seeds) in TARGETS.items():
        with tempfile.TemporaryDirectory() as corpus:
            for number, seed in enumerate(seeds):
                Path(corpus, f"seed-{number}").write_bytes(seed)
            flags = [
                corpus,
                f"-max_total_time={max(1, seconds // len(TARGETS))}",
                "-max_len=4000",
                "-timeout=5",
                "-rss_limit_mb=1024",
                "-print_final_stats=1",
                "-verbosity=0",
                f"-artifact_prefix={ARTIFACTS}/{target}-",
            ]
            print(f"==> {target}", flush=True)
            command = [sys.executable, "-m", "tests.fuzz", "--one", target, *flags]
            if subprocess.run(command, check=False).returncode:
                failed.append(target)
    if failed:
        print(f"Failed: {', '.join(failed)}. The inputs are in {ARTIFACTS}.")
    return int(bool(failed))


def fuzz(target: str, flags: list[str]) -> None:
    """Fuzz one target until its time is over, or it fails; this ends the process."""
    logging.disable()
    # Each handshake tells the version, which is read from a file each time.
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["channels_rabbitmq", "pamqp"]):
        targets = importlib.import_module("tests.fuzz.targets")
    atheris.Setup([sys.argv[0], *flags], targets.TARGETS[target][0])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())

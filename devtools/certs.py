"""Throw-away TLS certificates, made by ``ssl/prepare-certs.sh``."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "ssl" / "prepare-certs.sh"


def make_certs(directory: Path) -> Path:
    """Write the authority's, server's and client's files into *directory* and return it.

    Raises ``RuntimeError``, with what the script said, when openssl is missing or fails.
    """
    done = subprocess.run(
        ["/bin/sh", str(SCRIPT), str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{SCRIPT.name} failed")
    return directory

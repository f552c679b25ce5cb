"""Adds up what pytest reported: ``python -m devtools.summary STATUS DIRECTORY``.

STATUS is the exit status of tox; in DIRECTORY are the ``--junitxml`` files of its environments. It
shows one line for each file, and last of all ``N passed, N failed, N skipped``. Where tox failed,
but no test did (lint, types, coverage, or an environment that was not made), that counts as one
failure. The exit status is 0 only if tox's was, and tests ran.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree


def main(arguments: Sequence[str]) -> int:
    """Print the summary and return the exit status."""
    status, directory = arguments
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for file in sorted(Path(directory).glob("*.xml")):
        suite = next(ElementTree.parse(file).iter("testsuite")).attrib
        failed = int(suite["failures"]) + int(suite["errors"])
        skipped = int(suite["skipped"])
        counts = (int(suite["tests"]) - failed - skipped, failed, skipped)
        total = {word: total[word] + count for word, count in zip(total, counts, strict=True)}
        line = ", ".join(f"{count} {word}" for word, count in zip(total, counts, strict=True))
        print(f"    {file.stem:20} {float(suite['time']):4.0f} s  {line}")
    if status != "0" and not total["failed"]:
        total["failed"] = 1
    print("\n" + ", ".join(f"{count} {word}" for word, count in total.items()))
    return 0 if total["passed"] and not total["failed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

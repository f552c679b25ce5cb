"""Leaves out what needs selenium where that is not installed; ``tox run -e browser`` has it."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("selenium") else ["test_chat.py"]

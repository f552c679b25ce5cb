"""The fuzzing targets themselves, on what hypothesis makes of their first inputs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .targets import HANDSHAKE, SESSION, TARGETS


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Leave what is logged out: thousands of lines."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_first_inputs(name: str) -> None:
    """What fuzzing begins with passes, whole and cut off anywhere."""
    target, seeds = TARGETS[name]
    for seed in seeds:
        for end in range(0, len(seed) + 1, 1 + len(seed) // 40):
            target(seed[:end])


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(deadline=None)
def test_changed_inputs(name: str, data: st.DataObject) -> None:
    """So does what others might make of it: some bytes changed, put in, or left out."""
    target, seeds = TARGETS[name]
    changed = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        size = data.draw(st.integers(0, 3))
        changed[at : at + size] = data.draw(st.binary(max_size=5))
    target(bytes(changed))


@given(
    st.integers(0, 255),
    st.lists(st.sampled_from(HANDSHAKE + SESSION), max_size=12),
    st.binary(max_size=5),
)
@settings(deadline=None)
def test_sequences(first: int, parts: list[bytes], last: bytes) -> None:
    """Sound frames in any order, and at any time, are handled or refused; so is what follows."""
    data = bytes((first,)) + b"".join(parts) + last
    for name in ("decoder", "protocol"):
        TARGETS[name][0](data)

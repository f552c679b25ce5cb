"""``config.hints``: what those are told who write an option of another layer or library."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.config.hints import HINTS
from channels_rabbitmq.config.options import OPTIONS, Options


@pytest.mark.parametrize("name", sorted(HINTS))
def test_options_of_other_layers(name: str) -> None:
    """Each option of another layer that we know of is answered with what to use here."""
    with pytest.raises(ImproperlyConfigured) as raised:
        Options.from_config({name: "Zw9"})
    says = str(raised.value)
    assert f"Option '{name}' is not known to channels_rabbitmq: {HINTS[name]}." in says
    assert "Zw9" not in says


def test_hints_are_for_what_is_missing() -> None:
    """No hint speaks about an option that the layer has."""
    assert not set(HINTS) & set(OPTIONS)

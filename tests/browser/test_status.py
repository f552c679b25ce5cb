"""The status page: the layer's numbers, live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from channels_rabbitmq.statistics import Statistics

if TYPE_CHECKING:
    from tests.browser.window import Window

pytestmark = pytest.mark.timeout(240)


def numbers(window: Window) -> dict[str, str]:
    """What the page shows, by what it is called there."""
    return dict(zip(window.all("#numbers th"), window.all("#numbers td"), strict=True))


def test_the_numbers_are_the_layers_and_live(ada: Window, windows: list[Window]) -> None:
    """Every field of ``statistics()`` is there, and grows as lines are said on that process."""
    page = windows[1]
    page.driver.get(f"{ada.server.address}status/")
    page.until(lambda: page.field("verdict").text.startswith("Connected to RabbitMQ"))
    before = numbers(page)
    for field in Statistics.__dataclass_fields__:
        shown = "Close" if field == "dropped" else field.capitalize().replace("_", " ")
        assert shown in before
    assert before["Connected"] == "yes"
    for number in range(5):
        ada.say(f"line {number}")
    at_least = int(before["Published"].replace(",", "")) + 5
    page.until(lambda: int(numbers(page)["Published"].replace(",", "")) >= at_least)
    assert len(page.all("[data-rate] .figure")) == 4
    page.until(lambda: all(each[0].isdigit() for each in page.all("[data-rate] .figure")))
    assert page.field("server-text").text == f"Server :{ada.server.port} · process {ada.server.pid}"

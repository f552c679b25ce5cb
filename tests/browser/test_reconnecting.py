"""A websocket that is cut, and a server process that dies: what people see, and what they get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.window import Hop

if TYPE_CHECKING:
    from tests.browser.window import Window

pytestmark = pytest.mark.timeout(240)


def test_missed_lines_come_when_the_network_is_back(
    ada: Window, windows: list[Window], room: str
) -> None:
    """A page says that it is cut off, keeps what is typed, and is then given what it missed."""
    grace = windows[1]
    with Hop(grace.server) as hop:
        grace.enter(room, "Grace", address=hop.address)
        ada.say("Before.")
        grace.until(lambda: grace.lines == [("Ada", "Before.")])
        hop.cut()
        grace.until(lambda: grace.field("notice").text.startswith("Connection lost."))
        assert "Trying again" in grace.field("notice").text
        assert not grace.field("send").is_enabled()
        grace.field("text").send_keys("still here", Keys.ENTER)
        assert grace.field("text").get_attribute("value") == "still here"
        ada.until(lambda: list(ada.people) == ["Ada (you)"])
        for number in range(3):
            ada.say(f"meanwhile {number}")
        ada.until(lambda: len(ada.lines) == 4 and not ada.all(".pending"))
        hop.mend()
        grace.until(lambda: grace.state == "connected")
        missed = [("Ada", f"meanwhile {number}") for number in range(3)]
        grace.until(lambda: grace.lines == [("Ada", "Before."), *missed])
        assert grace.remarks[-1] == "Connected again. You missed 3 lines."
        assert grace.field("notice").text == ""
        grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})
        grace.field("text").send_keys(Keys.ENTER)
        ada.until(lambda: ada.lines[-1:] == [("Grace", "still here")])
        assert list(ada.people) == ["Ada (you)", "Grace"]
        assert len(grace.lines) == 5


def test_a_server_process_that_dies_is_noticed_by_all(ada: Window, grace: Window) -> None:
    """Its people vanish from the others' list, without a goodbye, and come back with the server."""
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})
    former = grace.server.pid
    grace.server.kill()
    try:
        grace.until(lambda: "Connection lost" in grace.field("notice").text)
        ada.until(lambda: list(ada.people) == ["Ada (you)"])
        assert ada.remarks[-1] == "Grace is out of reach."
        ada.say("Grace?")
        ada.until(lambda: not ada.all(".pending"))
    finally:
        grace.server.start()
    grace.until(lambda: grace.state == "connected")
    assert grace.server.pid != former
    grace.until(lambda: f"process {grace.server.pid}" in grace.field("server-text").text)
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})
    ada.until(lambda: ada.remarks[-1] == "Grace is here again.")
    grace.until(lambda: grace.lines == [("Ada", "Grace?")])
    ada.say("Welcome back.")
    grace.until(lambda: grace.lines[-1:] == [("Ada", "Welcome back.")])

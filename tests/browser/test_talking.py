"""Lines and rooms: a window on each of two server processes, whose people talk to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

if TYPE_CHECKING:
    from tests.browser.window import Window

# Browsers take their time on small machines, the first start above all.
pytestmark = pytest.mark.timeout(240)


def test_what_one_types_the_other_sees(ada: Window, grace: Window) -> None:
    """Lines that are typed in a window on one server appear in the other's, in order, once."""
    ada.say("Good morning!")
    grace.until(lambda: grace.lines == [("Ada", "Good morning!")])
    grace.say("And to you. Ça va ? 你好")
    conversation = [("Ada", "Good morning!"), ("Grace", "And to you. Ça va ? 你好")]
    ada.until(lambda: ada.lines == [("You", conversation[0][1]), conversation[1]])
    for number in range(10):
        ada.say(f"line {number}")
    conversation += [("Ada", f"line {number}") for number in range(10)]
    grace.until(lambda: len(grace.lines) >= len(conversation))
    assert grace.lines == [conversation[0], ("You", conversation[1][1]), *conversation[2:]]


def test_a_line_is_marked_when_it_has_come_back(ada: Window) -> None:
    """One's own line is pending until the room has it, and then tells how long it took."""
    ada.say("Does this arrive?")
    ada.until(lambda: "there and back in" in ada.field("log").text)
    assert not ada.driver.find_elements(By.CSS_SELECTOR, ".pending, .failed")
    assert ada.field("text").get_attribute("value") == ""


def test_who_comes_later_is_shown_what_was_said(
    ada: Window, windows: list[Window], room: str
) -> None:
    """A newcomer, and a window that is loaded again, get the last minutes' lines once."""
    ada.say("First!")
    ada.until(lambda: "there and back in" in ada.field("log").text)
    later = windows[1]
    later.enter(room, "Grace")
    later.until(lambda: later.lines == [("Ada", "First!")])
    ada.driver.refresh()
    ada.until(lambda: ada.lines == [("You", "First!")])
    ada.say("Second!")
    later.until(lambda: later.lines == [("Ada", "First!"), ("Ada", "Second!")])


def test_rooms_are_apart(ada: Window, windows: list[Window], room: str) -> None:
    """A line does not reach another room, neither at once nor from the stream."""
    other = windows[1]
    other.enter(f"{room}-2", "Grace")
    ada.say("only here")
    ada.until(lambda: "there and back in" in ada.field("log").text)
    other.say("only there")
    other.until(lambda: "there and back in" in other.field("log").text)
    assert [text for _, text in other.lines] == ["only there"]
    other.driver.refresh()
    other.until(lambda: [text for _, text in other.lines] == ["only there"])
    other.until(lambda: list(other.people) == ["Grace (you)"])


def test_each_window_names_its_server_process(ada: Window, grace: Window) -> None:
    """A page shows the port and the process id of the server it is connected to."""
    for window in (ada, grace):
        shown = window.field("server-text").text
        assert shown == f"Server :{window.server.port} · process {window.server.pid}"


def test_the_lobby_leads_to_a_room(windows: list[Window], room: str) -> None:
    """A room is chosen with the keyboard alone; a name that cannot be one is refused in words."""
    window = windows[0]
    window.driver.get(window.server.address)
    window.press("!!", Keys.ENTER)
    window.until(lambda: "needs a letter" in window.driver.find_element(By.ID, "refused").text)
    field = window.field("room")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(f"  {room.upper()} ", Keys.ENTER)
    window.until(lambda: window.driver.current_url.endswith(f"/room/{room}/"))
    window.until(lambda: window.state == "connected")
    assert window.focused.get_attribute("id") == "text"

"""The chat without a mouse, and without eyes: keyboard, names of controls, contrast, landmarks."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.window import DESK, PHONE

if TYPE_CHECKING:
    from examples.chat.servers import Worker
    from tests.browser.window import Window

pytestmark = pytest.mark.timeout(240)

#: Every colour that a name can have, in steps of 30 degrees, on copies of what is on the page.
IN_ALL_COLOURS = """
for (const item of document.querySelectorAll("#lines > .line, #people > .person")) {
  for (let hue = 0; hue < 360; hue += 30) {
    const copy = item.cloneNode(true);
    copy.style.setProperty("--hue", hue);
    copy.querySelectorAll("button").forEach((button) => button.remove());
    item.after(copy);
  }
}
document.getAnimations().forEach((animation) => animation.finish());
"""
AXE = files("selenium_axe_python") / "axe-core" / "axe.min.js"
#: How many rules were kept, and those that were not, or that axe-core stumbled over.
RUN_AXE = """
const done = arguments[arguments.length - 1];
axe.run().then(({violations, incomplete, passes}) => {
  const bad = [...violations, ...incomplete.filter((rule) => rule.error)];
  done([passes.length, bad.map(({id, help, nodes, message}) =>
    `${id}: ${help}: ${message ?? nodes.map((node) => node.html).join("; ")}`)]);
}, (error) => done([0, [String(error)]]));
"""


def violations(window: Window) -> list[str]:
    """What axe-core finds: WCAG 2.1 A and AA, and what it calls best practice."""
    window.driver.execute_script(AXE.read_text("utf-8"))
    answer: Any = window.driver.execute_async_script(RUN_AXE)
    passed, found = answer
    assert passed > 15
    return [str(each) for each in found]


def test_everything_by_keyboard(ada: Window, grace: Window, worker: Worker, room: str) -> None:
    """A line, a note, back to everybody, and a job, without a mouse."""
    grace.until(lambda: "Ada" in grace.people)
    assert grace.focused.accessible_name == f"Message to {room}"
    grace.press("Hello, all.", Keys.ENTER)
    ada.until(lambda: ada.lines == [("Grace", "Hello, all.")])
    grace.tab_to("Write a private note to Ada")
    grace.press(Keys.ENTER)
    assert grace.focused.accessible_name == "Private note to Ada"
    grace.press("Hello, Ada.", Keys.ENTER)
    ada.until(lambda: ada.all(".private .text") == ["Hello, Ada."])
    grace.press(Keys.ESCAPE)
    assert grace.focused.accessible_name == f"Message to {room}"
    grace.tab_to("Ask")
    grace.press(Keys.ENTER)
    ada.until(lambda: ada.all(".job.finished .percent") == ["100 %"])
    grace.driver.refresh()
    grace.until(lambda: grace.state == "connected")
    grace.driver.execute_script("document.activeElement.blur()")
    grace.tab_to("Skip to the message field")
    assert grace.focused.rect["y"] >= 0
    grace.press(Keys.ENTER)
    assert grace.focused.get_attribute("id") == "text"


def test_the_panel_on_a_phone(grace: Window, ada: Window) -> None:
    """On a small screen people are behind a button, which says so, and Escape comes back to it."""
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})
    with grace.as_on(PHONE):
        grace.until(lambda: not grace.field("panel").is_displayed())
        grace.tab_to("People 2")
        assert grace.focused.get_attribute("aria-expanded") == "false"
        grace.press(Keys.ENTER)
        assert grace.focused.get_attribute("aria-expanded") == "true"
        assert grace.field("panel").is_displayed()
        grace.tab_to("Your name")
        grace.press(Keys.ESCAPE)
        assert not grace.field("panel").is_displayed()
        assert grace.focused.get_attribute("id") == "panel-toggle"
        width = grace.driver.execute_script("return document.documentElement.scrollWidth;")
        assert width <= PHONE[0], "the page is wider than the screen"


def test_what_changes_is_announced(ada: Window) -> None:
    """Lines and the state of the connection are in live regions; the countdown is not."""
    roles = {
        identifier: ada.field(identifier).get_attribute("role")
        for identifier in ("log", "notice-text", "countdown")
    }
    assert roles == {"log": "log", "notice-text": "status", "countdown": None}


def test_barriers_are_found(ada: Window) -> None:
    """The check itself: text that is too pale, and a control without a name, are barriers."""
    ada.driver.execute_script(
        "document.querySelector('#lines').innerHTML = '<li>pale</li><li><button></button></li>';"
        "document.querySelector('#lines li').style.color = '#ccc';"
    )
    found = {each.partition(":")[0] for each in violations(ada)}
    assert found == {"button-name", "color-contrast"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_room_has_no_barrier(
    ada: Window, grace: Window, worker: Worker, size: tuple[int, int], dark: bool
) -> None:
    """Landmarks, names, contrast and all that axe-core knows, with all that a room can have."""
    grace.say("A line.")
    ada.until(lambda: len(ada.lines) == 1 and "Grace" in ada.people)
    ada.driver.find_element(By.CSS_SELECTOR, "#job-form button").click()
    ada.driver.find_element(By.CSS_SELECTOR, "#people button").click()
    ada.say("A note.")
    ada.until(lambda: bool(ada.all(".job.finished")) and not ada.all(".pending"))
    with ada.as_on(size, dark=dark):
        ada.driver.execute_script(IN_ALL_COLOURS)
        assert violations(ada) == []
        if size == PHONE:
            ada.field("panel-toggle").click()
            assert violations(ada) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", ["", "?room=!!", "status/"])
def test_other_pages_have_no_barrier(windows: list[Window], page: str, dark: bool) -> None:
    """The same for the lobby, with and without a refusal, and the status page."""
    window = windows[0]
    window.driver.get(f"{window.server.address}{page}")
    if page == "status/":
        window.until(lambda: bool(window.all("#numbers td")))
    with window.as_on(DESK, dark=dark):
        assert violations(window) == []

"""Takes the pictures of docs/showcase.rst from the chat: ``python -m devtools.screenshots``.

Needs what the tests in a browser need (``tox -e browser``), and a minute.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from devtools.broker import Broker
from devtools.browser import find_browser, open_browser, resize
from devtools.process import free_port
from examples.chat.servers import Server, chat_servers, chat_worker

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "showcase"
DESK = (1100, 720)
PHONE = (390, 720)
TALK = (
    (0, "Good morning! Which server process are you on?"),
    (1, "The other one. We have nothing in common but RabbitMQ."),
    (1, "Shall we give the worker something to do?"),
)
AWAY = ("Are you still there?", "We went on without you.")


class Visitor:
    """Somebody in a room, with a browser."""

    def __init__(self, chrome: Chrome, server: Server, name: str) -> None:
        self.chrome = chrome
        self.server = server
        resize(chrome, *DESK)
        # Known before the page is there, so that nobody is seen to change their name.
        chrome.get(f"{server.address}static/chat/icon.svg")
        chrome.execute_script("localStorage.setItem('name', arguments[0]);", name)
        chrome.get(f"{server.address}room/tea-break/")
        self.until(lambda: self.has("[data-state=connected] .person"))

    def has(self, selector: str) -> bool:
        """Whether a CSS selector finds anything."""
        return bool(self.chrome.find_elements(By.CSS_SELECTOR, selector))

    def percent(self) -> int:
        """How far the job is."""
        return int(self.chrome.find_element(By.CSS_SELECTOR, ".percent").text[:-1])

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds."""
        self.chrome.find_element(By.CSS_SELECTOR, selector).click()

    def say(self, text: str) -> None:
        """Write a line, and wait until it is back."""
        self.chrome.find_element(By.ID, "text").send_keys(text, Keys.ENTER)
        self.until(lambda: not self.has(".pending"))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on the page."""
        WebDriverWait(self.chrome, 30, poll_frequency=0.05).until(lambda _: condition())

    def picture(
        self, name: str, size: tuple[int, int] = DESK, *, dark: bool = False, panel: bool = False
    ) -> None:
        """Write a picture of the page on a screen of that size."""
        resize(self.chrome, *size, dark=dark)
        if panel:
            self.click("#panel-toggle")
        self.chrome.execute_script("document.activeElement.blur();")
        time.sleep(0.4)  # what moves has come to rest
        (PICTURES / f"{name}.png").write_bytes(self.chrome.get_screenshot_as_png())
        if panel:
            self.click("#panel-toggle")
        resize(self.chrome, *DESK)


def take(ada: Visitor, grace: Visitor) -> None:
    """Let the two play, and take the pictures."""
    for speaker, text in TALK:
        (ada, grace)[speaker].say(text)
    ada.click("#people button")
    ada.say("Between us: yes, a big one.")
    ada.click("#to-all")
    Select(grace.chrome.find_element(By.ID, "below")).select_by_value("20000000")
    grace.click("#job-form button[type=submit]")
    ada.until(lambda: ada.has(".job") and ada.percent() >= 40)
    ada.picture("room")
    ada.until(lambda: ada.has(".job.finished"))
    grace.server.end()
    grace.until(lambda: grace.has("[data-state=waiting]"))
    grace.picture("cut", PHONE)
    for text in AWAY:
        ada.say(text)
    grace.server.start()
    grace.until(lambda: grace.has(".again"))
    grace.say("I am back, and have read it.")
    grace.picture("back", PHONE)
    grace.picture("people", PHONE, panel=True)
    grace.picture("dark", dark=True)
    grace.chrome.get(f"{ada.server.address}status/")
    for number in range(25):
        for repeat in range(1 + 5 * number % 7):
            ada.say(f"{number} {repeat}")
        time.sleep(0.6)
    grace.picture("status")


def main() -> int:
    """Start everything, and write the pictures. Returns the exit status."""
    browser = find_browser()
    if browser is None:
        sys.exit("There is no chromium with chromedriver here.")
    PICTURES.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(Broker.start()).url
        stack.enter_context(chat_worker(url)).wait_until_ready()
        servers = stack.enter_context(chat_servers(url, (free_port(), free_port())))
        ada, grace = (
            Visitor(stack.enter_context(open_browser(*browser)), server, name)
            for server, name in zip(servers, ("Ada", "Grace"), strict=True)
        )
        take(ada, grace)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a person sees and does in a browser window, and the network that it goes through."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from devtools.browser import open_browser, resize
from examples.chat.servers import Server
from tests.helpers.proxy import Proxy

WAIT = 30  # seconds for a page to come to a state
DESK = (1200, 800)
PHONE = (390, 760)


class Window:
    """One browser window, and what a person sees and does in it."""

    def __init__(self, driver: Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server

    def enter(self, room: str, name: str, *, address: str | None = None) -> None:
        """Open a room, and take a name in it."""
        self.driver.get(f"{address or self.server.address}room/{room}/")
        self.until(lambda: self.state == "connected")
        self.field("name").send_keys(Keys.CONTROL, "a")
        self.field("name").send_keys(name, Keys.ENTER)
        self.until(lambda: f"{name} (you)" in self.people)

    def say(self, text: str) -> None:
        self.field("text").send_keys(text, Keys.ENTER)

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, label: str) -> None:
        """Press the tab key until the focus is on what has that accessible name."""
        passed = []
        for _ in range(30):
            self.press(Keys.TAB)
            passed.append(self.focused.accessible_name)
            if passed[-1] == label:
                return
        pytest.fail(f"the tab key does not lead to {label!r}, but to {passed}")

    def field(self, identifier: str) -> WebElement:
        return self.driver.find_element(By.ID, identifier)

    def all(self, selector: str) -> list[str]:
        """The texts of all elements that a CSS selector finds."""
        texts: list[str] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent);",
            selector,
        )
        return texts

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    @property
    def state(self) -> str | None:
        return self.driver.find_element(By.TAG_NAME, "body").get_attribute("data-state")

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Who said what, from the first to the last."""
        return self._pairs("#lines .line", ".who", ".text")

    @property
    def remarks(self) -> list[str]:
        """What is said about the conversation."""
        return self.all("#lines .remark")

    @property
    def people(self) -> dict[str, str]:
        """The port of the server process of everybody who is here, by name."""
        return dict(self._pairs("#people .person", ".who", ".port"))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on the page; fail with what the page shows."""
        # While the browser goes to another page, elements come and go.
        passing = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(self.driver, WAIT, poll_frequency=0.1, ignored_exceptions=passing)
        try:
            wait.until(lambda _: condition())
        except TimeoutException:
            shown = self.driver.find_element(By.TAG_NAME, "body").text
            pytest.fail(f"after {WAIT} s the page shows:\n{shown}")

    def complaints(self) -> list[Any]:
        """What the browser has logged since it was asked last."""
        entries: list[Any] = self.driver.get_log("browser")
        return entries

    @contextlib.contextmanager
    def as_on(self, size: tuple[int, int], *, dark: bool = False) -> Iterator[None]:
        """See the page as on a screen of another size, or in the dark."""
        resize(self.driver, *size, dark=dark)
        try:
            yield
        finally:
            resize(self.driver, *DESK)

    def _pairs(self, items: str, first: str, second: str) -> list[tuple[str, str]]:
        # In one go: between two questions to the browser the page can change.
        found: list[list[str]] = self.driver.execute_script(
            "const [items, ...parts] = arguments;"
            "return [...document.querySelectorAll(items)].map((item) =>"
            "  parts.map((part) => item.querySelector(part).textContent));",
            items,
            first,
            second,
        )
        return [(one, two) for one, two in found]


@contextlib.contextmanager
def open_windows(browser: tuple[str, str], servers: Sequence[Server]) -> Iterator[list[Window]]:
    """A window of a browser of its own on each server."""
    with contextlib.ExitStack() as stack:
        opened = [Window(stack.enter_context(open_browser(*browser)), each) for each in servers]
        for window in opened:
            resize(window.driver, *DESK)
        yield opened


class Hop:
    """The network between a window and its server, which can be cut. It runs in a thread."""

    def __init__(self, server: Server) -> None:
        self._proxy = Proxy(server.address)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def address(self) -> str:
        """Where the chat begins, by this way."""
        return self._proxy.url.replace("@", "")

    def cut(self) -> None:
        """End all that goes through, and let nothing through any more."""
        self._run(self._cut())

    def mend(self) -> None:
        self._run(self._proxy.accept())

    async def _cut(self) -> None:
        await self._proxy.refuse()
        self._proxy.cut()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    def __enter__(self) -> Hop:
        self._thread.start()
        self._run(self._proxy.accept())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

"""The chat of examples/chat in a real browser: one window on each of two server processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from devtools.broker import Broker
from devtools.process import free_port
from examples.chat.servers import Server, chat_servers

# Browsers take their time on small machines, the first start above all.
pytestmark = pytest.mark.timeout(240)

WAIT = 30  # seconds for a page to come to a state
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # also as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,800",
)


class Window:
    """One browser window, and what a person sees and does in it."""

    def __init__(self, driver: Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server

    def enter(self, room: str, name: str) -> None:
        """Open a room, and take a name in it."""
        self.driver.get(f"{self.server.address}room/{room}/")
        self.until(lambda: self.state == "connected")
        self.field("name").send_keys(Keys.CONTROL, "a")
        self.field("name").send_keys(name, Keys.ENTER)
        self.until(lambda: f"{name} (you)" in self.people)

    def say(self, text: str) -> None:
        self.field("text").send_keys(text, Keys.ENTER)

    def field(self, identifier: str) -> WebElement:
        return self.driver.find_element(By.ID, identifier)

    @property
    def state(self) -> str | None:
        return self.driver.find_element(By.TAG_NAME, "body").get_attribute("data-state")

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Who said what, from the first to the last."""
        return self._pairs("#log .line", ".who", ".text")

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


@pytest.fixture(scope="session")  # so that it is asked before a broker is started
def browser() -> tuple[str, str]:
    """The paths of the browser and of its driver; without them the tests are skipped."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program and driver:
        return program, driver
    missing = "no chromium with chromedriver on this machine"
    if os.environ.get("CHANNELS_RABBITMQ_BROWSER") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def servers(browser: tuple[str, str], broker: Broker) -> Iterator[list[Server]]:
    """Two servers of the chat, and a RabbitMQ behind them."""
    # Ports that no outgoing connection is given, so that a stopped server finds its own free.
    with chat_servers(broker.url, ports=(free_port(), free_port())) as running:
        yield running


@pytest.fixture(scope="module")
def windows(
    browser: tuple[str, str], servers: list[Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Window]]:
    """A window of a browser of its own on each server."""
    program, driver = browser
    with contextlib.ExitStack() as stack:
        opened = []
        for server in servers:
            options = ChromeOptions()
            options.binary_location = program
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            for flag in FLAGS:
                options.add_argument(flag)
            options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
            chrome = Chrome(options=options, service=Service(driver))
            stack.callback(chrome.quit)
            opened.append(Window(chrome, server))
        yield opened


@pytest.fixture
def room() -> str:
    """The name of a room that no other test is in."""
    return f"room-{secrets.token_hex(4)}"


@pytest.fixture
def ada(windows: list[Window], room: str) -> Window:
    """A window on the first server, in the room."""
    windows[0].enter(room, "Ada")
    return windows[0]


@pytest.fixture
def grace(windows: list[Window], room: str) -> Window:
    """A window on the second server, in the same room."""
    windows[1].enter(room, "Grace")
    return windows[1]


def test_what_one_types_the_other_sees(ada: Window, grace: Window) -> None:
    """Lines that are typed in a window on one server appear in the other's, in order, once."""
    ada.say("Good morning!")
    grace.until(lambda: grace.lines == [("Ada", "Good morning!")])
    grace.say("And to you. Ça va ? 你好")
    conversation = [("Ada", "Good morning!"), ("Grace", "And to you. Ça va ? 你好")]
    ada.until(lambda: ada.lines == [("You", conversation[0][1]), conversation[1]])
    for number in range(20):
        ada.say(f"line {number}")
    conversation += [("Ada", f"line {number}") for number in range(20)]
    grace.until(lambda: len(grace.lines) >= len(conversation))
    assert grace.lines == [conversation[0], ("You", conversation[1][1]), *conversation[2:]]


def test_a_line_is_marked_when_it_has_come_back(ada: Window) -> None:
    """One's own line is pending until the room has it, and then tells how long it took."""
    ada.say("Does this arrive?")
    ada.until(lambda: "there and back in" in ada.field("log").text)
    assert not ada.driver.find_elements(By.CSS_SELECTOR, ".pending, .failed")
    assert ada.field("text").get_attribute("value") == ""


def test_each_window_names_its_server_process(ada: Window, grace: Window) -> None:
    """A page shows the port and the process id of the server it is connected to."""
    for window in (ada, grace):
        shown = window.field("server-text").text
        assert shown == f"Server :{window.server.port} · process {window.server.pid}"


def test_who_is_in_the_conversation(ada: Window, grace: Window, room: str) -> None:
    """Both list both with their servers' ports; a new name and a departure show at once."""
    ports = [f":{window.server.port}" for window in (ada, grace)]
    ada.until(lambda: ada.people == {"Ada (you)": ports[0], "Grace": ports[1]})
    grace.until(lambda: grace.people == {"Grace (you)": ports[1], "Ada": ports[0]})
    grace.field("name").send_keys(Keys.CONTROL, "a")
    grace.field("name").send_keys("Rear Admiral Hopper", Keys.ENTER)
    ada.until(lambda: "Rear Admiral Hopper" in ada.people)
    grace.driver.get(grace.server.address)
    ada.until(lambda: list(ada.people) == ["Ada (you)"])
    grace.driver.back()
    ada.until(lambda: set(ada.people) == {"Ada (you)", "Rear Admiral Hopper"})
    grace.until(lambda: set(grace.people) == {"Rear Admiral Hopper (you)", "Ada"})


def test_third_person_on_a_server_meets_both(
    ada: Window, grace: Window, windows: list[Window], room: str
) -> None:
    """Two people on one process and one on the other all see each other."""
    ada.driver.switch_to.new_window("tab")
    try:
        windows[0].enter(room, "Hedy")
        windows[0].until(lambda: set(windows[0].people) == {"Hedy (you)", "Ada", "Grace"})
        grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada", "Hedy"})
    finally:
        ada.driver.close()
        ada.driver.switch_to.window(ada.driver.window_handles[0])
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})


def test_rooms_are_apart(ada: Window, windows: list[Window], room: str) -> None:
    """A line does not reach another room."""
    other = windows[1]
    other.enter(f"{room}-2", "Grace")
    ada.say("only here")
    ada.until(lambda: "there and back in" in ada.field("log").text)
    other.say("only there")
    other.until(lambda: "there and back in" in other.field("log").text)
    assert [text for _, text in other.lines] == ["only there"]


def test_markup_stays_text(ada: Window, grace: Window) -> None:
    """What people type is shown as it is, never as HTML."""
    markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b> &amp;"
    ada.say(markup)
    grace.until(lambda: grace.lines == [("Ada", markup)])
    assert "owned" not in grace.driver.title
    assert not grace.driver.find_elements(By.CSS_SELECTOR, "#log img, #log b")


def test_the_lobby_leads_to_a_room(windows: list[Window], room: str) -> None:
    """A room is chosen with the keyboard alone; a name that cannot be one is refused in words."""
    window = windows[0]
    window.driver.get(window.server.address)
    window.driver.switch_to.active_element.send_keys("!!", Keys.ENTER)
    window.until(lambda: "needs a letter" in window.driver.find_element(By.ID, "refused").text)
    field = window.field("room")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(f"  {room.upper()} ", Keys.ENTER)
    window.until(lambda: window.driver.current_url.endswith(f"/room/{room}/"))
    window.until(lambda: window.state == "connected")
    assert window.driver.switch_to.active_element.get_attribute("id") == "text"


def test_every_control_has_a_name(ada: Window) -> None:
    """Whoever cannot see the page is told what each control is."""
    controls = ada.driver.find_elements(By.CSS_SELECTOR, "input, button:not([hidden]), a, ol")
    names = [control.accessible_name for control in controls]
    assert len(names) >= 6
    assert all(names), names


def test_the_page_needs_nobody_else(ada: Window) -> None:
    """Everything is loaded from the chat's own server, and the browser has no complaint."""
    ada.driver.get_log("browser")  # what came before is not of this page
    ada.driver.refresh()
    ada.until(lambda: ada.state == "connected")
    loaded: list[str] = ada.driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name);"
    )
    assert {Path(address).name for address in loaded} >= {"chat.css", "room.js", "icon.svg"}
    assert all(address.startswith(ada.server.address) for address in loaded), loaded
    assert ada.driver.get_log("browser") == []


def test_connects_again_when_the_server_comes_back(ada: Window, grace: Window) -> None:
    """A page says that its connection is lost, keeps what was typed, and comes back by itself."""
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})
    former = grace.server.pid
    grace.server.end()
    try:
        grace.until(lambda: "Connection lost" in grace.field("notice").text)
        assert not grace.field("send").is_enabled()
        grace.field("text").send_keys("still here", Keys.ENTER)
        assert grace.field("text").get_attribute("value") == "still here"
        ada.say("Grace?")  # which nobody delivers later
    finally:
        grace.server.start()
    grace.until(lambda: grace.state == "connected")
    assert grace.server.pid != former
    grace.until(lambda: f"process {grace.server.pid}" in grace.field("server-text").text)
    assert grace.field("notice").text == ""
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})
    grace.field("text").send_keys(Keys.ENTER)
    ada.until(lambda: ada.lines[-1:] == [("Grace", "still here")])
    assert list(ada.people) == ["Ada (you)", "Grace"]
    ada.say("Welcome back.")
    grace.until(lambda: grace.lines[-1:] == [("Ada", "Welcome back.")])

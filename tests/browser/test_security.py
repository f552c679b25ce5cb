"""What hostile people type stays text, and what is not our page's doing ends the connection."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

if TYPE_CHECKING:
    from examples.chat.servers import Server
    from tests.browser.window import Window

pytestmark = pytest.mark.timeout(240)

MARKUP = (
    '<img src=x onerror="document.title=1">',
    "</p><script>document.title = 1</script>",
    "<svg/onload=document.title=1>",
    "\"'><b onclick=alert(1)>&amp;&lt;",
    "javascript:alert(1)//{{constructor}}${7*7}",
)


def stranger(server: Server, room: str) -> ClientConnection:
    """A websocket that no page of ours is behind."""
    return connect(
        f"ws://127.0.0.1:{server.port}/ws/room/{room}/",
        additional_headers={"Origin": server.address.rstrip("/")},
        proxy=None,
        max_queue=None,  # what is never read does not hold up the end
    )


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_stays_text(ada: Window, room: str, markup: str) -> None:
    """In a name, in a line and in a note, what looks like HTML is shown as it is."""
    ada.complaints()
    title = ada.driver.title
    with stranger(ada.server, room) as websocket:
        welcome = json.loads(websocket.recv())
        websocket.send(json.dumps({"type": "here", "name": markup}))
        name = markup[:32].strip()
        ada.until(lambda: name in ada.people)
        websocket.send(json.dumps({"type": "say", "key": markup, "text": markup}))
        ada.until(lambda: ada.lines == [(name, markup)])
        websocket.send(json.dumps({"type": "job", "below": 1_000_000}))
        ada.until(lambda: len(ada.all(".job b")) == 1)
        ada.driver.find_element(By.CSS_SELECTOR, f'[data-id="{welcome["id"]}"]').click()
        assert ada.field("addressee-name").text == name
        assert ada.field("text").accessible_name == f"Private note to {name}"
        ada.say(markup)
        ada.until(lambda: len(ada.lines) == 2 and not ada.all(".pending"))
        assert ada.all(".job b") == [name]
        assert ada.all(".private .to") == [f"only to {name}"]
    ada.until(lambda: ada.remarks[-1] == f"{name} has left.")
    assert ada.driver.title == title
    assert not ada.driver.find_elements(
        By.CSS_SELECTOR, ":is(main, aside) :is(img, script, svg, b:empty, [onerror], [onload])"
    )
    assert ada.complaints() == []


def test_a_name_is_one_visible_line(ada: Window, room: str) -> None:
    """Invisible characters, among them those that turn the direction of writing, are taken out."""
    with stranger(ada.server, room) as websocket:
        websocket.recv()
        websocket.send(json.dumps({"type": "here", "name": "\u202eecarG\n\u2066 \u200bI.\x00"}))
        ada.until(lambda: "ecarG I." in ada.people)


def test_markup_that_got_in_would_not_run(ada: Window) -> None:
    """The content security policy keeps the browser from running what is not in our files."""
    ada.driver.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">');"
        "const script = document.createElement('script');"
        "script.textContent = 'document.title = 2';"
        "document.body.append(script);"
    )
    complaints: list[str] = []

    def refused_both() -> bool:
        complaints.extend(entry["message"] for entry in ada.complaints())
        return sum("Content Security Policy" in each for each in complaints) >= 2

    ada.until(refused_both)
    assert ada.driver.title not in {"1", "2"}


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        b"\x00\xff",
        '{"type": "say", "key": "1", "text": "before I said who I am"}',
        '{"type": "here", "name": " \\u202e "}',
        '{"type": "here", "name": 7}',
        '{"type": "note", "key": "1", "to": "../../etc", "text": "x"}',
        '{"type": "job", "below": 1000000000}',
        '{"type": "chat.line", "text": "x"}',
    ],
)
def test_nonsense_ends_the_connection(
    servers: list[Server], room: str, message: str | bytes
) -> None:
    """What the page never sends closes the websocket, and is not answered."""
    with stranger(servers[0], room) as websocket:
        assert json.loads(websocket.recv())["type"] == "welcome"
        websocket.send(message)
        kinds = set()
        with contextlib.suppress(ConnectionClosed):
            while True:
                kinds.add(json.loads(websocket.recv(timeout=30))["type"])
        assert websocket.close_code == 4400
        assert kinds <= {"present"}  # the roll call may come before


@pytest.mark.parametrize("since", ["-1e300", "-1", "0", "1e300", "NaN", "Infinity", "true", "null"])
def test_any_time_is_answered(servers: list[Server], room: str, since: str) -> None:
    """Whatever number a page says it was cut at, it is given what there is since then."""
    with stranger(servers[0], room) as websocket:
        websocket.recv()
        websocket.send(f'{{"type": "catch_up", "since": {since}}}')
        while (answer := json.loads(websocket.recv(timeout=30)))["type"] == "present":
            pass
        assert answer == {"type": "missed", "events": [], "complete": True}


def test_other_sites_pages_cannot_connect(servers: list[Server], room: str) -> None:
    """A websocket that another site's page opens in somebody's browser is refused."""
    with pytest.raises(Exception, match="403"):
        connect(
            f"ws://127.0.0.1:{servers[0].port}/ws/room/{room}/",
            additional_headers={"Origin": "https://elsewhere.example"},
            proxy=None,
        )


def test_the_page_needs_nobody_else(ada: Window) -> None:
    """Everything is loaded from the chat's own server, and the browser has no complaint."""
    ada.complaints()  # what came before is not of this page
    ada.driver.refresh()
    ada.until(lambda: ada.state == "connected")
    loaded: list[str] = ada.driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name);"
    )
    names = {address.rpartition("/")[2] for address in loaded}
    assert names >= {"base.css", "room.css", "room.js", "connection.js", "icon.svg"}
    assert all(address.startswith(ada.server.address) for address in loaded), loaded
    assert ada.complaints() == []

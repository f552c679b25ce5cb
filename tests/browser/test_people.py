"""Who is here, notes to one of them, and jobs that all of them see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

if TYPE_CHECKING:
    from examples.chat.servers import Worker
    from tests.browser.window import Window

pytestmark = pytest.mark.timeout(240)


def test_who_is_in_the_room(ada: Window, grace: Window, room: str) -> None:
    """Both list both with their servers' ports; a new name and a departure show at once."""
    ports = [f":{window.server.port}" for window in (ada, grace)]
    ada.until(lambda: ada.people == {"Ada (you)": ports[0], "Grace": ports[1]})
    grace.until(lambda: grace.people == {"Grace (you)": ports[1], "Ada": ports[0]})
    grace.field("name").send_keys(Keys.CONTROL, "a")
    grace.field("name").send_keys("Rear Admiral Hopper", Keys.ENTER)
    ada.until(lambda: "Rear Admiral Hopper" in ada.people)
    assert "Grace is now Rear Admiral Hopper." in ada.remarks
    grace.driver.get(grace.server.address)
    ada.until(lambda: list(ada.people) == ["Ada (you)"])
    assert ada.remarks[-1] == "Rear Admiral Hopper has left."
    grace.driver.back()
    ada.until(lambda: set(ada.people) == {"Ada (you)", "Rear Admiral Hopper"})
    grace.until(lambda: set(grace.people) == {"Rear Admiral Hopper (you)", "Ada"})


def test_a_note_is_for_one_person(
    ada: Window, grace: Window, windows: list[Window], room: str
) -> None:
    """A private note reaches whom it is for, and shows as such; a third person gets nothing."""
    ada.driver.switch_to.new_window("tab")
    try:
        windows[0].enter(room, "Hedy")
        windows[0].until(lambda: set(windows[0].people) == {"Hedy (you)", "Ada", "Grace"})
        grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada", "Hedy"})
        grace.driver.find_element(
            By.CSS_SELECTOR, '[aria-label="Write a private note to Ada"]'
        ).click()
        assert grace.field("addressee").text.split()[:3] == ["Only", "to", "Ada"]
        grace.say("Between you and me.")
        grace.field("to-all").click()
        grace.say("For everybody.")
        hedy = windows[0]
        hedy.until(lambda: hedy.lines == [("Grace", "For everybody.")])
    finally:
        ada.driver.close()
        ada.driver.switch_to.window(ada.driver.window_handles[0])
    ada.until(lambda: len(ada.lines) == 2)
    assert ada.lines == [("Grace", "Between you and me."), ("Grace", "For everybody.")]
    assert ada.all(".private .text") == ["Between you and me."]
    assert ada.all(".private .to") == ["only to you"]
    grace.until(lambda: not grace.all(".pending"))
    assert grace.all(".private .to") == ["only to Ada"]
    grace.until(lambda: set(grace.people) == {"Grace (you)", "Ada"})


def test_a_note_to_somebody_who_has_gone(ada: Window, grace: Window) -> None:
    """Whoever writes to somebody who has left is told that nobody reads it."""
    ada.until(lambda: "Grace" in ada.people)
    ada.driver.find_element(By.CSS_SELECTOR, "#people button").click()
    grace.driver.get(grace.server.address)
    ada.until(lambda: list(ada.people) == ["Ada (you)"])
    ada.say("Are you still there?")
    ada.until(lambda: ada.all(".failed .via") == ["Nobody is within reach to read it."])


def test_a_job_is_seen_by_the_whole_room(ada: Window, grace: Window, worker: Worker) -> None:
    """A worker does a job that one orders, and both pages show how far it is, and the result."""
    seen: set[float | None] = set()
    Select(ada.field("below")).select_by_value("5000000")
    ada.driver.find_element(By.CSS_SELECTOR, "#job-form button").click()

    def finished() -> bool:
        seen.add(grace.driver.execute_script("return document.querySelector('progress')?.value;"))
        return 5_000_000 in seen

    grace.until(finished)
    ada.until(lambda: bool(ada.all(".job.finished")))
    for window in (ada, grace):
        (title,) = window.all(".job .title")
        assert title == "Ada asked a worker to count the primes below 5,000,000"
        (stage,) = window.all(".job .stage")
        assert stage.startswith(f"348,513 of them. Worker process {worker.pid} took")
        assert window.all(".job .percent") == ["100 %"]


def test_without_a_worker_a_job_waits(ada: Window, worker: Worker) -> None:
    """A job that nobody takes is said to wait; the worker that comes later does it."""
    worker.end()
    try:
        ada.driver.find_element(By.CSS_SELECTOR, "#job-form button").click()
        ada.until(lambda: ada.all(".job .stage") == ["Waiting for a free worker…"])
    finally:
        worker.start()
    ada.until(lambda: ada.all(".job.finished .percent") == ["100 %"])
    assert ada.all(".job .stage")[0].startswith("78,498 of them.")

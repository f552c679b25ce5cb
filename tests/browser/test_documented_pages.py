"""The pages of ``docs/start.rst`` and ``docs/events.rst``, as a browser has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from devtools.broker import Broker
from devtools.browser import open_browser
from devtools.process import HOST, accepts, free_port
from tests.helpers.pages import snippet, snippets
from tests.helpers.site import make_site, serving
from tests.helpers.waiting import until

#: Where the page of the second document is; that one leaves it to the reader.
_READER = """
urlpatterns.append(path("reader/", TemplateView.as_view(template_name="reader.html")))
"""


def _lines(window: Chrome) -> list[str]:
    return [item.text for item in window.find_elements(By.TAG_NAME, "li")]


@pytest.mark.timeout(180)
async def test_a_line_reaches_both_pages(
    browser: tuple[str, str], broker: Broker, tmp_path: Path
) -> None:
    """What is typed into the chat's page is shown there, and on a page of another server."""
    page = "docs/events.rst"
    site = make_site(tmp_path, broker.url)
    urls = f"{snippet(page, 'events-urls')}\n{_READER}"
    for file, text in (
        ("chat/views.py", snippet(page, "events-view")),
        ("mysite/urls.py", urls),
        ("chat/templates/reader.html", dict(snippets(page, "html"))["events-page"]),
    ):
        (site / file).write_text(text)
    ports = [free_port(), free_port()]
    first, second = (f"daphne -b {HOST} -p {port} mysite.asgi:application" for port in ports)
    with serving(site, first), serving(site, second), open_browser(*browser) as window:
        await until(lambda: all(map(accepts, ports)), timeout=40)
        window.get(f"http://{HOST}:{ports[1]}/reader/")
        reader = window.current_window_handle
        window.switch_to.new_window("tab")
        window.get(f"http://{HOST}:{ports[0]}/")
        said = 0

        def say_until_shown() -> bool:
            nonlocal said
            said += 1
            window.find_element(By.TAG_NAME, "input").send_keys(f"Hello {said}", Keys.ENTER)
            return bool(_lines(window))

        # The page has no word for "connected": what is typed before that is lost.
        await until(say_until_shown, timeout=30, step=0.5)
        window.switch_to.window(reader)
        await until(lambda: bool(_lines(window)), timeout=30)
        assert _lines(window)[0].startswith("Hello ")

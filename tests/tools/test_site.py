"""The documentation as Sphinx built it: ``tox -e docs`` builds it, and then runs these."""

from __future__ import annotations

import importlib
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.pages import ROOT

pytest.importorskip("sphinx", reason="`tox -e docs` builds the site and runs these")

SITE = ROOT / "build" / "site"
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.rst"))


class _Page(HTMLParser):
    """The links and anchors of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        for attribute in ("href", "src"):
            if link := found.get(attribute):
                self.links.append(link)


@pytest.fixture(scope="module")
def site() -> dict[str, _Page]:
    """Each HTML file of the site."""
    if not SITE.exists():
        pytest.skip("there is no build/site: `tox -e docs` makes it")
    return {path.name: _Page(path) for path in SITE.glob("*.html")}


def test_every_page_is_there(site: dict[str, _Page]) -> None:
    """Each page of the documentation is one of the site."""
    assert {f"{name}.html" for name in PAGES} <= set(site)


def test_links_lead_somewhere(site: dict[str, _Page]) -> None:
    """Every link within the site leads to a file, and to an anchor that is on that page."""
    broken = []
    seen = 0
    for name, page in site.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            seen += 1
            file = unquote(target.path) or name
            anchors = site[file].ids if file in site else {target.fragment}
            if not (SITE / file).exists() or unquote(target.fragment) not in {"", *anchors}:
                broken.append(f"{name}: {link}")
    assert seen > 1000
    assert not broken


def test_every_public_name_has_a_reference(site: dict[str, _Page]) -> None:
    """The API reference has an anchor for each name that a module on it exports."""
    text = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. (?:auto)?module:: (.+)", text, re.MULTILINE)
    assert {"core", "connection", "errors"} <= {name.rpartition(".")[2] for name in names}
    missing = {
        f"{name}.{public}"
        for name in names
        for public in importlib.import_module(name).__all__
        if f"{name}.{public}" not in site["api.html"].ids
    }
    # What Django reads of a module with URLs; and constants, which pages explain.
    assert {name.rpartition(".")[2] for name in missing} <= {
        "METRICS",
        "LayerMetric",
        "TIMEOUT",
        "app_name",
        "urlpatterns",
    }

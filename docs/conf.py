"""The documentation as a site: ``tox -e docs``, or ``sphinx-build -W -n docs build/site``.

The pages read well without Sphinx too, on the repository's pages and in an editor: they link to
each other's files. What Sphinx alone knows is in ``index.rst`` (the order of the pages) and
``api.rst`` (the docstrings).
"""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
import django.conf
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

_DOCS = Path(__file__).resolve().parent
_setup = configparser.ConfigParser()
_setup.read(_DOCS.parent / "setup.cfg", encoding="utf-8")

# Importing Channels, for the docstrings, asks for settings.
django.conf.settings.configure()
django.setup()

project = _setup["metadata"]["name"]
author = copyright = _setup["metadata"]["author"]
version = release = _setup["metadata"]["version"]

extensions = ["sphinx.ext.autodoc"]
# A literal block without a language is a drawing, an address or a log line.
highlight_language = "text"
nitpicky = True
# Of other projects: their documentation is not asked, so that the site is built without a network.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(_?asyncio|carehare|channels|collections|datetime|django|pamqp|prometheus_client|ssl|typing)\..*",
    ),
    ("py:.*", r"(Arguments|FieldTable|FieldValue|TracebackType|[A-Z]\w*Error)"),
    # What signatures name of our private modules.
    ("py:.*", r"channels_rabbitmq\.(amqp|config|layer)\..*|Portal"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"{project} {release}"
html_theme_options: dict[str, Any] = {
    "source_repository": _setup["metadata"]["url"],
    "source_branch": "main",
    "source_directory": "docs/",
}


def link_pages(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Turn links to files into links to the pages made of them, or to the files in the repository.

    ``options.rst#host`` becomes ``options.html#host``, and ``../SECURITY.md`` an address.
    """
    for link in doctree.findall(nodes.reference):
        target = urlsplit(link.get("refuri", ""))
        if target.scheme or not target.path:
            continue
        path = (_DOCS / page).parent.joinpath(target.path).resolve()
        name = path.relative_to(_DOCS.parent).as_posix()
        docname = name.removeprefix("docs/").removesuffix(".rst")
        fragment = f"#{target.fragment}" if target.fragment else ""
        if name.startswith("docs/") and docname in app.env.found_docs:
            link["refuri"] = app.builder.get_relative_uri(page, docname) + fragment
        elif path.exists():
            link["refuri"] = f"{_setup['metadata']['url']}/blob/main/{name}{fragment}"
        else:
            logger.warning("there is no file %s", target.geturl(), location=link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Have Sphinx call what is above."""
    app.connect("doctree-resolved", link_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

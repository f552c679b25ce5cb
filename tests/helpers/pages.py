"""Reads the documentation, for tests that hold it against the code."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import docutils.core
from docutils import nodes
from docutils.parsers.rst import Directive, directives

ROOT = Path(__file__).resolve().parents[2]
README = "README.rst"
#: Where the examples expect RabbitMQ.
DOCUMENTED_URL = "amqp://guest:guest@127.0.0.1"


class _OnlySphinx(Directive):
    """What makes no sense outside of the site: the order of its pages, and docstrings."""

    optional_arguments = 1
    option_spec = dict.fromkeys(
        (
            "caption",
            "hidden",
            "imported-members",
            "inherited-members",
            "members",
            "show-inheritance",
        ),
        directives.unchanged,
    )
    has_content = True

    def run(self) -> list[nodes.Node]:
        return []


for _name in ("autoclass", "autofunction", "automodule", "module", "toctree"):
    directives.register_directive(_name, _OnlySphinx)


@functools.cache
def read(page: str) -> nodes.document:
    """Parse a page as PyPI does the README, but fail on the least warning."""
    return docutils.core.publish_doctree(
        (ROOT / page).read_text(encoding="utf-8"),
        source_path=str(ROOT / page),
        settings_overrides={
            "halt_level": 2,
            "report_level": 2,
            "syntax_highlight": "none",
            "raw_enabled": False,
            "doctitle_xform": False,
            # PyPI includes no files.
            "file_insertion_enabled": page != README,
        },
    )


def table(page: str, name: str) -> list[list[nodes.entry]]:
    """The rows of the table with that name, without its head."""
    for found in read(page).findall(nodes.table):
        if name in found["names"]:
            return [
                [cell for cell in row.children if isinstance(cell, nodes.entry)]
                for body in found.findall(nodes.tbody)
                for row in body.findall(nodes.row)
            ]
    raise AssertionError(f"{page} has no table {name!r}")


def literals(node: nodes.Node) -> list[str]:
    """The texts of all inline literals."""
    return [literal.astext() for literal in node.findall(nodes.literal)]


def snippets(page: str, language: str = "python") -> Iterator[tuple[str, str]]:
    """Name and text of each block of code in a page."""
    for block in read(page).findall(nodes.literal_block):
        if language in block["classes"]:
            yield next(iter(block["names"]), "without a name"), block.astext()


def snippet(page: str, name: str) -> str:
    """The text of the block of code with that name."""
    return dict(snippets(page))[name]


def run(code: str) -> dict[str, object]:
    """Run a snippet; give what it defines."""
    namespace: dict[str, object] = {}
    exec(compile(code, "a snippet", "exec"), namespace)
    return namespace


def run_at(code: str, url: str) -> dict[str, object]:
    """Run a snippet against another RabbitMQ than the one that it names; give what it defines."""
    if DOCUMENTED_URL not in code:
        raise AssertionError(f"the example does not name {DOCUMENTED_URL}")
    return run(code.replace(DOCUMENTED_URL, url))

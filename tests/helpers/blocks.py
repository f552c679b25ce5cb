"""The blocks of code in the documentation, and what runs each of them.

A block of Python is run as it stands, by ``tests/rabbitmq/test_code_blocks.py``, unless another
test names it. Comments beside a block, which readers do not see, say the rest:

``.. then:``
    after the block: Python that goes on in its namespace, calls what it defines, and asserts.
``.. run by: FILE``
    before the block: the test that runs it.
``.. not run: REASON``
    before the block: why nothing does.
"""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from docutils import nodes

from tests.helpers.pages import ROOT, read

PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.rst", "docs/*.rst", "examples/**/*.rst")
    for path in ROOT.glob(pattern)
)
_MARK = re.compile(r"(then|run by|not run):\s*(.*)", re.DOTALL)
_COMMAND = re.compile(r"(\$ |pip|python3? -m|make|sh|docker|kubectl|rabbitmqctl|export) ")


@dataclass(frozen=True)
class Block:
    """A block of code, and what stands beside it."""

    page: str
    name: str
    #: As in ``code-block``; empty for a literal block.
    language: str
    code: str
    #: Python that goes on where the block ends.
    then: str
    #: A file of tests, below the root.
    run_by: str
    #: Why it cannot run.
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}: {self.name or self.code[:30]}"

    @property
    def defines_only(self) -> bool:
        """Whether running it calls nothing: it has functions or classes, and no other statement."""
        kinds = {type(node) for node in ast.parse(self.code).body}
        quiet = {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}
        return bool(kinds & quiet) and kinds <= quiet | {ast.Import, ast.ImportFrom}

    @property
    def looks_like_code(self) -> bool:
        """Whether a literal block is Python, or a command: it should say so."""
        if any(_COMMAND.match(line) for line in self.code.splitlines()):
            return True
        try:
            body = ast.parse(self.code).body
        except SyntaxError:
            return False
        return not all(isinstance(node, ast.Expr) for node in body)


def _mark(node: nodes.Node | None) -> tuple[str, str]:
    if not isinstance(node, nodes.comment):
        return "", ""
    found = _MARK.fullmatch(node.astext())
    return (found[1], textwrap.dedent(found[2])) if found else ("", "")


def _blocks(page: str) -> Iterator[Block]:
    for node in read(page).findall(nodes.literal_block):
        siblings = list(node.parent.children)
        place = siblings.index(node)
        before = _mark(siblings[place - 1]) if place else ("", "")
        after = _mark(siblings[place + 1]) if place + 1 < len(siblings) else ("", "")
        language = next((name for name in node["classes"] if name != "code"), "")
        yield Block(
            page,
            next(iter(node["names"]), ""),
            language,
            node.astext(),
            after[1] if after[0] == "then" else "",
            before[1] if before[0] == "run by" else "",
            before[1] if before[0] == "not run" else "",
        )


@functools.cache
def blocks() -> list[Block]:
    """All blocks of all pages."""
    return [block for page in PAGES for block in _blocks(page)]


def code_blocks() -> list[Block]:
    """The blocks that have a language."""
    return [block for block in blocks() if block.language]


def runs_here() -> list[Block]:
    """The blocks that ``tests/rabbitmq/test_code_blocks.py`` runs."""
    return [
        block
        for block in code_blocks()
        if block.language == "python"
        and not (block.run_by or block.not_run)
        and (block.then or not named_in_a_test(block))
    ]


@functools.cache
def _sources() -> str:
    """The tests that may name a block."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))


def named_in_a_test(block: Block) -> bool:
    """Whether a test names the block, or takes all blocks of its page."""
    every = f'snippets("{block.page}")' in _sources() and block.language == "python"
    return every or (bool(block.name) and f'"{block.name}"' in _sources())

"""The documentation says what the code does, and what it links to is there."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from docutils import nodes

from channels_rabbitmq import errors
from channels_rabbitmq.amqp import protocol
from channels_rabbitmq.broker import recovery
from channels_rabbitmq.config import url
from channels_rabbitmq.config.options import DEFAULT_HOST, OPTIONS, Options
from channels_rabbitmq.contrib import checks
from channels_rabbitmq.contrib.outbox_options import OUTBOX_OPTIONS, OutboxOptions
from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.events import EventKind
from channels_rabbitmq.local.counts import CAUSES
from channels_rabbitmq.statistics import Statistics
from channels_rabbitmq.wire.messages import GROUP_KEY
from channels_rabbitmq.wire.serializers import make_codec
from tests.helpers.blocks import PAGES, blocks, code_blocks, named_in_a_test, runs_here
from tests.helpers.pages import README, ROOT, literals, read, run, snippet, snippets, table

PACKAGE = ROOT / "channels_rabbitmq"
#: Where the package index, which shows the README without its files, finds those.
REPOSITORY = "https://github.com/CJWorkbench/channels_rabbitmq/blob/main/"
#: Literals that name a file or a directory of this repository.
_PATH = re.compile(r"(docs|examples|ssl|devtools|tests|benchmarks|typings)/[\w./-]*")


def make_layer(settings: object) -> RabbitmqChannelLayer:
    """The layer that a CHANNEL_LAYERS asks for."""
    assert isinstance(settings, dict)
    default = settings["default"]
    layer = import_string(default["BACKEND"])(**default.get("CONFIG", {}))
    assert isinstance(layer, RabbitmqChannelLayer)
    return layer


# The pages themselves


@pytest.mark.parametrize("page", PAGES)
def test_page_is_valid(page: str) -> None:
    """A page is reStructuredText without any warning."""
    assert read(page).astext()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every file that a page links to is there, and has the section that is named."""
    broken = []
    for reference in read(page).findall(nodes.reference):
        uri = reference.get("refuri", "")
        directory = ROOT if uri.startswith(REPOSITORY) else (ROOT / page).parent
        target = urlsplit(uri.removeprefix(REPOSITORY))
        if target.scheme or not (target.path or target.fragment):
            continue
        path = directory / target.path if target.path else ROOT / page
        if not path.exists():
            broken.append(target.geturl())
        elif target.fragment:
            linked = read(str(path.resolve().relative_to(ROOT)))
            if target.fragment not in linked.ids:
                broken.append(target.geturl())
    assert not broken


def test_links_work_on_the_package_index() -> None:
    """The README's links are absolute, or lead to another section of it."""
    for reference in read(README).findall(nodes.reference):
        assert reference.get("refid") or urlsplit(reference["refuri"]).scheme == "https"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Every file of this repository that a page names is there."""
    if page.startswith("examples/"):
        pytest.skip("names its own files")
    named = {text for text in literals(read(page)) if _PATH.fullmatch(text)}
    assert not {text for text in named if not (ROOT / text).exists()}


@pytest.mark.parametrize("page", PAGES)
def test_snippets_compile(page: str) -> None:
    """Every Python example is valid Python."""
    for name, code in snippets(page):
        compile(code, f"{page}: {name}", "exec")


def test_index_has_every_page() -> None:
    """The index links to every page of the documentation."""
    linked = {node.get("refuri") for node in read("docs/index.rst").findall(nodes.reference)}
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")}
    assert pages - {"index.rst"} <= linked


# Blocks of code


def test_something_runs_each() -> None:
    """A block is run here, by a test that names it, or not for a reason that is given."""
    idle = []
    here = runs_here()
    for block in code_blocks():
        assert not (block.run_by and block.not_run)
        if block.run_by:
            assert (ROOT / block.run_by).exists()
        elif block in here:
            if block.defines_only and not block.then:
                idle.append(f"{block}: nothing calls what it defines: add `.. then:`")
        elif not block.not_run and not named_in_a_test(block):
            idle.append(f"{block}: no test runs it: say why, `.. not run: REASON`")
    assert not idle


def test_names_are_unique() -> None:
    """Each block of code has a name of its own."""
    names = [block.name for block in code_blocks()]
    assert "" not in names
    assert len(names) == len(set(names))


def test_literal_blocks_are_no_code() -> None:
    """Python and commands are in code blocks, so that the above holds for them."""
    literal = [block for block in blocks() if not block.language]
    assert literal
    assert not [str(block) for block in literal if block.looks_like_code]


def test_commands_are_valid() -> None:
    """What is for a shell is a shell's language."""
    commands = [block for block in code_blocks() if block.language == "shell"]
    assert commands
    for block in commands:
        done = subprocess.run(
            ["sh", "-n"], input=block.code, text=True, capture_output=True, check=False, timeout=20
        )
        assert (done.returncode, done.stderr) == (0, ""), block


# Options


@pytest.mark.parametrize("page", [README, "docs/options.rst"])
def test_every_option_is_documented(page: str) -> None:
    """The tables have all options and no others, with their true defaults."""
    rows = table(page, "options-table")
    names = [row[0].astext() for row in rows]
    assert sorted(names) == sorted(OPTIONS)

    options = Options.from_config({})
    for row in rows:
        name, default = row[0].astext(), row[1].astext()
        if name == "host":
            assert ast.literal_eval(default) == DEFAULT_HOST
            assert Options.from_config({"host": DEFAULT_HOST}) == options
        elif name == "local_expiry":
            assert default == "as expiry"
            assert Options.from_config({"expiry": 7}).local_expiry == 7
        elif name == "ssl_context":
            assert default == "None"
            assert options.endpoints[0].tls is None
        elif name == "connection_name":
            assert default == "project, program, host and process id"
            assert Options.from_config({name: None}) == options
        elif name in ("channel_capacity", "symmetric_encryption_keys"):
            assert default == "None"
            assert Options.from_config({name: None}) == options
        else:
            assert ast.literal_eval(default) == getattr(options, name)


def test_every_option_of_the_outbox_is_documented() -> None:
    """The outbox's table has all options and no others, with their true defaults."""
    rows = {
        row[0].astext(): row[1].astext() for row in table("docs/outbox.rst", "outbox-options-table")
    }
    assert list(rows) == list(OUTBOX_OPTIONS)
    defaults = {name: option.default for name, option in OUTBOX_OPTIONS.items()}
    assert rows.pop("routing_key") == '"{type}"'
    assert OutboxOptions.from_dict({}).routing_key.fill({"type": "a"}) == "a"
    assert {name: ast.literal_eval(text) for name, text in rows.items()} == {
        name: defaults[name] for name in rows
    }


def test_every_option_has_a_section() -> None:
    """Each option is explained under a heading of its own."""
    headings = {title.astext() for title in read("docs/options.rst").findall(nodes.title)}
    assert set(OPTIONS) <= headings


def test_ranges() -> None:
    """The ranges that are documented are those that are enforced."""
    checked = 0
    for row in table("docs/options.rst", "options-table"):
        name, allowed = row[0].astext(), row[2].astext()
        found = re.fullmatch(r"(each )?([\d.]+) to ([\d.]+)( characters)?", allowed)
        if found is None:
            continue
        checked += 1
        each, least, most, characters = found.groups()
        number = float if "." in most else int
        step = 0.001 if "." in most else 1
        edges = [number(least), number(most)]
        beyond = [edges[0] - step, edges[1] + step]

        def config(
            value: float, name: str = name, each: str = each, text: str = characters
        ) -> dict[str, object]:
            if text:
                return {name: "x" * int(value)}
            return {name: {"x": value}} if each else {name: value}

        for value in edges:
            Options.from_config(config(value))
        for value in beyond:
            with pytest.raises(ImproperlyConfigured, match=name):
                Options.from_config(config(value))
    assert checked >= 9

    most = max(length for length in range(200) if _prefix_is_allowed("x" * length))
    assert f"at most {most} characters" in read("docs/options.rst").astext()


def _prefix_is_allowed(prefix: str) -> bool:
    try:
        Options.from_config({"prefix": prefix})
    except ImproperlyConfigured:
        return False
    return True


def test_every_parameter_of_the_url_is_documented() -> None:
    """The table of the URL's parameters has all of them, with their true defaults."""
    rows = {
        name: row[1].astext()
        for row in table("docs/options.rst", "parameters-table")
        for name in literals(row[0])
    }
    assert sorted(rows) == sorted(url.PARAMETERS)
    assert int(rows["heartbeat"]) == url.DEFAULT_HEARTBEAT
    assert int(rows["connection_timeout"]) == url.DEFAULT_CONNECT_TIMEOUT * 1000
    assert (rows["auth_mechanism"].upper(),) == url.DEFAULT_AUTH_MECHANISMS
    assert int(rows["channel_max"]) == protocol.CHANNEL_MAX
    assert int(rows["frame_max"]) == protocol.FRAME_MAX


def test_every_method_is_documented() -> None:
    """The README names every public method of the layer, and no other."""
    public = {
        name
        for name, value in vars(RabbitmqChannelLayer).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }
    public |= {"current_connection", "carehare_connection"}
    cells = [cell for row in table(README, "methods-table") for cell in row]
    named = {text.partition("(")[0] for cell in cells for text in literals(cell)}
    assert public <= named
    heads = {
        text.partition("(")[0]
        for row in table(README, "methods-table")
        for text in literals(row[0])
    }
    assert heads <= public


def test_every_number_is_documented() -> None:
    """The page on monitoring has every field of the statistics, every cause, and no other."""
    rows = table("docs/monitoring.rst", "statistics-table")
    fields = [field.name for field in dataclasses.fields(Statistics)]
    assert sorted(name for row in rows for name in literals(row[0])) == sorted(fields)
    causes = [row[0].astext() for row in table("docs/monitoring.rst", "causes-table")]
    assert causes == list(CAUSES)
    kinds = [row[0].astext() for row in table("docs/monitoring.rst", "events-table")]
    assert kinds == [kind.value for kind in EventKind]


# Snippets


@pytest.mark.parametrize("name", ["readme-settings", "readme-settings-host"])
def test_settings_make_a_layer(name: str) -> None:
    """The settings in the README make a layer."""
    layer = make_layer(run(snippet(README, name))["CHANNEL_LAYERS"])
    endpoint = layer.options.endpoints[0]
    assert (endpoint.port, endpoint.tls) == (5672, None)


def test_readme_shows_the_chat_of_the_start() -> None:
    """The consumer in the README is that of the page to start with, which is served by a test."""
    whole = snippet("docs/start.rst", "start-consumer")
    assert snippet(README, "readme-consumer") == whole.partition("\n")[2]


def test_first_settings_have_five_lines() -> None:
    """The first settings in the README are the shortest that work."""
    assert len(snippet(README, "readme-settings").splitlines()) == 5


def test_tls_settings_make_a_layer(certs: Path) -> None:
    """The README's settings for TLS make a layer that speaks TLS, with the client's certificate."""
    code = snippet(README, "readme-tls").replace("/etc/rabbitmq/", f"{certs}/")
    endpoint = make_layer(run(code)["CHANNEL_LAYERS"]).options.endpoints[0]
    assert endpoint.port == 5671
    assert endpoint.tls is not None
    assert endpoint.tls.get_ca_certs()


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("docs/options.rst", "options-config"),
        ("docs/options.rst", "options-channel-capacity"),
        ("docs/options.rst", "options-hooks"),
        ("docs/tls.rst", "tls-url"),
        ("docs/tls.rst", "tls-url-files"),
        ("docs/tls.rst", "tls-context"),
    ],
)
def test_config_in_the_pages(page: str, name: str, certs: Path) -> None:
    """Every CONFIG that a page shows is a valid one."""
    code = snippet(page, name).replace("/etc/rabbitmq/", f"{certs}/")
    config = run(code)["CONFIG"]
    assert isinstance(config, dict)
    assert Options.from_config(config)


def test_serializer_in_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class that the page shows serializes messages, and makes a new one each time."""
    made = run(snippet("docs/options.rst", "options-serializer"))["PickleSerializer"]
    monkeypatch.setattr(errors, "PickleSerializer", made, raising=False)
    codec = make_codec(
        Options.from_config({"serializer_format": f"{errors.__name__}.PickleSerializer"})
    )
    body = codec.encode(GROUP_KEY, "room", {"type": "a", "set": {1, 2}}, 1000)
    assert codec.decode(body) == (GROUP_KEY, "room", {"type": "a", "set": {1, 2}})


# Errors and log lines


#: The methods of a logger whose lines are documented.
_LOGGED = ("info", "warning", "error", "exception")


def _logged() -> Iterator[tuple[str, str]]:
    """Level and text of each line that the package may log, with … for what varies."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func)
            method = called.rpartition(".")[2]
            if called.startswith("self._log.") and method in (
                "info",
                "warning",
                "error",
                "exception",
            ):
                level = {"exception": "ERROR"}.get(method, method.upper())
            elif method == "warn" or method.startswith("_warn"):
                level = "WARNING"
            else:
                continue
            text = node.args[0]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                # "%s%s" leaves one "…", and so does a value at the end of a sentence.
                yield level, re.sub(r"…+", "…", re.sub(r"%(?:\.\d)?[sdgrf]", "…", text.value))


def test_every_log_line_names_its_connection() -> None:
    """Nothing is logged but by the logger that puts the connection's name before each line."""
    unnamed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("logger", "logging")
        and node.attr in ("debug", "info", "warning", "error", "exception", "critical", "log")
    ]
    assert not unnamed


def test_every_log_line_is_documented() -> None:
    """The page of errors has every line that is logged, with its level, and no other."""
    documented = set()
    for found in read("docs/errors.rst").findall(nodes.table):
        for row in next(iter(found.findall(nodes.tbody))).findall(nodes.row):
            level, _, text = " ".join(row.children[0].astext().split()).partition(" ")
            documented.add((level, text))
    assert documented == set(_logged())


def test_symptoms_are_log_lines() -> None:
    """What is to be found in the log, by the page on troubleshooting, is logged so."""
    logged = {text for _, text in _logged()}
    quoted = [
        text
        for name in ("symptoms-messages", "symptoms-slow")
        for row in table("docs/troubleshooting.rst", name)
        for text in literals(row[0])
        if "…" in text and ":…" not in text
    ]
    assert len(quoted) > 6
    assert not [text for text in quoted if not any(line.startswith(text) for line in logged)]


def test_every_error_is_documented() -> None:
    """The page of errors has every exception of the family tree."""
    tree = (errors.__doc__ or "").partition("::")[2]
    names = set(re.findall(r"^ +((?:[a-z_]+\.)*[A-Z]\w+)", tree, re.MULTILINE))
    assert len(names) > 10
    page = " ".join(
        block.astext() for block in read("docs/errors.rst").findall(nodes.literal_block)
    )
    missing = {name for name in names if not re.search(rf"\b{re.escape(name)}\b", page)}
    assert not missing


# The architecture


def test_every_module_is_on_the_map() -> None:
    """The page on architecture names every module in the folders of the package, and no other."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {
        f"{path.parent.name}/{path.name}"
        for folder in folders
        for path in (PACKAGE / folder).glob("*.py")
        if path.name != "__init__.py"
    }
    rows = table("docs/architecture.rst", "modules-table")
    named = {text for row in rows for text in literals(row[0])}
    unnamed = modules - named
    # Small helpers of one folder, which its other modules explain.
    assert unnamed <= {path for path in modules if path.startswith(("amqp/", "config/", "wire/"))}
    assert named <= modules


def test_every_promise_is_proven() -> None:
    """The page on architecture names, for every promise, the file of tests that proves it."""
    rows = table("docs/architecture.rst", "promises-table")
    named = [text for row in rows for text in literals(row[1])]
    assert len(named) == len(rows)
    assert all((ROOT / "tests" / "rabbitmq" / name).exists() for name in named)


def test_lifecycle_is_documented() -> None:
    """The table of states is that of the code."""
    documented = {
        row[0].astext(): set(literals(row[1]))
        for row in table("docs/architecture.rst", "lifecycle-table")
    }
    assert documented == {
        state.value: {after.value for after in following}
        for state, following in recovery.RECOVERY_MOVES.items()
    }


def _requirements(text: str) -> set[str]:
    return {re.split(r"[\s\[<>=!]", line)[0] for line in text.split("\n") if line}


def test_dependencies_are_explained() -> None:
    """The page on architecture says of each dependency, and no other package, what it is for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {name: _requirements(text) for name, text in setup["options.extras_require"].items()}
    needed = _requirements(setup["options"]["install_requires"])
    optional = set(extras) - {"test"}
    needed |= {package for name in optional for package in extras[name]}
    for name, packages in (("dependencies", needed), ("test-dependencies", extras["test"])):
        rows = table("docs/architecture.rst", f"{name}-table")
        assert {text for row in rows for text in literals(row[0])} == packages


def test_version() -> None:
    """The newest version in the list of changes is that of the package."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    titles = [title.astext() for title in read("CHANGELOG.rst").findall(nodes.title)]
    assert titles[1].partition(" ")[0] == setup["metadata"]["version"]


def test_modules_can_be_named() -> None:
    """Everything in the pages that looks like a name in the package is one."""
    for page in PAGES:
        for name in set(re.findall(r"channels_rabbitmq(?:\.\w+)+", read(page).astext())):
            _resolve(name)


def _resolve(name: str) -> object:
    module, _, rest = name.rpartition(".")
    if rest in checks.HINTS:
        return rest
    try:
        return importlib.import_module(name)
    except ImportError:
        return getattr(importlib.import_module(module), rest)

"""What the package says it works with is what is tested, in every file that lists it."""

from __future__ import annotations

import configparser
import re
import tomllib

from tests.helpers.pages import ROOT


def setup_cfg() -> configparser.ConfigParser:
    """The package's metadata."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def classified(kind: str) -> set[str]:
    """The versions in the classifiers ``kind :: N.N``."""
    return set(re.findall(rf"^{kind} :: (\d+\.\d+)$", setup_cfg()["metadata"]["classifiers"], re.M))


def environments() -> str:
    """tox's list of environments."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", encoding="utf-8")
    return parser["tox"]["env_list"]


def test_pythons() -> None:
    """Classifiers, tox and the workflow have the same Pythons, and tools aim at the oldest."""
    pythons = classified("Programming Language :: Python")
    assert {f"3.{minor}" for minor in re.findall(r"^py3(\d+)-", environments(), re.M)} == pythons
    workflow = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    matrix = re.search(r"^ +python: (\[.*\])$", workflow, re.M)
    assert matrix
    assert set(re.findall(r'"([\d.]+)"', matrix[1])) == pythons

    oldest = min(pythons, key=lambda version: int(version.partition(".")[2]))
    assert setup_cfg()["options"]["python_requires"] == f">={oldest}"
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_djangos() -> None:
    """Classifiers and tox have the same Django versions."""
    factors = re.findall(r"-dj\{?([\d,]+)", environments())
    tested = {f"{number[0]}.{number[1:]}" for text in factors for number in text.split(",")}
    assert tested == classified("Framework :: Django")


def test_packages() -> None:
    """Every folder of modules is named in setup.cfg, so that the wheel has it."""
    package = ROOT / "channels_rabbitmq"
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in package.rglob("__init__.py")
    }
    named = set(setup_cfg()["options"]["packages"].split())
    assert named == folders | {"carehare-stubs"}

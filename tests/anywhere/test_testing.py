"""The tests that the documentation shows, under each runner that users have."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from devtools.broker import Broker
from tests.helpers import processes
from tests.helpers.pages import DOCUMENTED_URL, ROOT, snippet
from tests.helpers.processes import Ended
from tests.helpers.rabbit import queue_names
from tests.helpers.scripts import FORKING
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

PAGE = "docs/testing.rst"
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_chat.py"]
DJANGO = ["-m", "django", "test"]
#: What pytest-asyncio asks for.
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
SETUP = "import django\ndjango.setup()\n"


@pytest.fixture
def site(tmp_path: Path, amqp_url: str) -> Path:
    """A project made of what the page shows."""
    source = ROOT / "tests" / "projects" / "testing"
    chat = tmp_path / "chat"
    chat.mkdir()
    shutil.copy(source / "base_settings.py", tmp_path)
    shutil.copy(source / "live.py", chat / "live.py")
    settings = snippet(PAGE, "testing-settings").replace(DOCUMENTED_URL, amqp_url)
    (tmp_path / "settings.py").write_text(f"from base_settings import *\n{settings}")
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "conftest.py").write_text(snippet(PAGE, "testing-conftest"))
    (tmp_path / "test_chat.py").write_text(snippet(PAGE, "testing-pytest"))
    (chat / "__init__.py").touch()
    (chat / "consumers.py").write_text(snippet(PAGE, "testing-consumer"))
    (chat / "asgi.py").write_text(
        "from django.core.asgi import get_asgi_application\n"
        "http = get_asgi_application()\n"
        "from channels.routing import ProtocolTypeRouter\n"
        "from chat.consumers import ChatConsumer\n"
        "application = ProtocolTypeRouter({'http': http, 'websocket': ChatConsumer.as_asgi()})\n"
        "urlpatterns = []\n"
    )
    (chat / "tests.py").write_text(snippet(PAGE, "testing-django"))
    return tmp_path


async def run(site: Path, arguments: Sequence[str]) -> Ended:
    """Run tests of the project; they must pass."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
    }
    with processes.started(
        [sys.executable, *FORKING, *arguments], cwd=site, environment=environment
    ) as process:
        ended = await process.end()
    assert ended.code == 0, f"{ended.out}\n{ended.err}"
    assert "Exception ignored" not in ended.err
    assert "Task was destroyed" not in ended.err
    return ended


async def test_pytest_asyncio(site: Path) -> None:
    """With pytest-asyncio alone, where ``conftest.py`` sets Django up."""
    (site / "conftest.py").write_text(SETUP + snippet(PAGE, "testing-conftest"))
    ended = await run(site, [*PYTEST, "-p", "no:django"])
    assert "2 passed" in ended.out


async def test_pytest_django(site: Path) -> None:
    """With pytest-django, in whose way our plugin is not."""
    pytest.importorskip("pytest_django")
    ended = await run(site, PYTEST)
    assert "2 passed" in ended.out


async def test_without_the_plugin(site: Path) -> None:
    """Whoever does not ask for the plugin has no such fixture."""
    (site / "conftest.py").write_text(SETUP)
    (site / "test_chat.py").write_text("def test_nothing(tmp_path):\n    pass\n")
    ended = await run(site, [*PYTEST, "-p", "no:django", "--fixtures"])
    assert "channel_layer" not in ended.out


@pytest.mark.parametrize("options", [[], ["--parallel", "2"]], ids=["one", "parallel"])
async def test_djangos_runner(site: Path, options: list[str]) -> None:
    """With Django's own runner, where pytest is not installed."""
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['pytest'] = None\n")
    ended = await run(site, [*DJANGO, *options, "chat.tests"])
    assert "\nRan 3 tests in " in ended.err
    assert "\nOK\n" in ended.err


async def test_live_server(site: Path) -> None:
    """Members in the server's process are waited for, and get what is sent at once."""
    ended = await run(site, [*DJANGO, "chat.live"])
    assert "\nOK\n" in ended.err


async def test_side_by_side(site: Path, broker: Broker, vhost: str) -> None:
    """Runs on one RabbitMQ do not hear each other, and leave nothing behind."""
    pytest.importorskip("pytest_django")
    await asyncio.gather(*(run(site, arguments) for arguments in (PYTEST, DJANGO, PYTEST)))

    async def nothing_left() -> bool:
        return await queue_names(broker, vhost) == []

    await until(nothing_left)

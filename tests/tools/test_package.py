"""What goes to the package index: complete, well described, and installable beside other clients.

Run by ``tox run -e package``: it builds the distributions and installs them from the index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.pages import ROOT

pytest.importorskip("build")
pytest.importorskip("twine")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: A layer receives what an aio-pika connection in the same process published, and the reverse.
BESIDE_AIO_PIKA = """
import asyncio, sys
import aio_pika, msgpack
from channels_rabbitmq.core import RabbitmqChannelLayer

async def main(url):
    layer = RabbitmqChannelLayer(host=url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    async with await aio_pika.connect(url) as theirs:
        amqp_channel = await theirs.channel()
        groups = await amqp_channel.get_exchange("groups", ensure=False)
        body = msgpack.packb({"type": "from.aio.pika", "__asgi_group__": "room"})
        await groups.publish(aio_pika.Message(body), routing_key="room")
        assert await layer.receive(channel) == {"type": "from.aio.pika"}
        queue = await amqp_channel.declare_queue(exclusive=True)
        ours = await layer.current_connection
        await ours.publish(b"a job", routing_key=queue.name)
        assert (await queue.get(no_ack=True)).body == b"a job"
    await layer.close()

asyncio.run(asyncio.wait_for(main(sys.argv[1]), 30))
"""

#: With the extra ``carehare``, what carehare's users hold and catch are carehare's classes.
WITH_CAREHARE = """
import asyncio, sys
import carehare
from channels_rabbitmq import errors
from channels_rabbitmq.core import RabbitmqChannelLayer

async def main(url):
    layer = RabbitmqChannelLayer(host=url)
    assert isinstance(await layer.carehare_connection, carehare.Connection)
    await layer.close()

assert issubclass(errors.ConnectionClosed, carehare.ConnectionClosed)
asyncio.run(asyncio.wait_for(main(sys.argv[1]), 30))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command to its end and return what it printed; fail with that if it failed."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git tracks, or would: building leaves nothing behind in ours."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a checkout says which files belong to the project")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    copy = tmp_path_factory.mktemp("source")
    for name in listed.splitlines():
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def distributions(source: Path) -> Path:
    """The directory of the source distribution and of the wheel that was built from it."""
    run(sys.executable, "-m", "build", source)
    return source / "dist"


@pytest.fixture(scope="module")
def unpacked(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        archive.extractall(directory, filter="data")
    return next(directory.iterdir())


def files_of(directory: Path) -> set[str]:
    """The paths of all files below a directory, relative to it."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_index_can_show_it(distributions: Path) -> None:
    """The metadata are valid, and the description is shown as it is meant."""
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir())


def test_source_distribution_is_complete(source: Path, unpacked: Path) -> None:
    """Documentation, tests, examples and all other files of the project are in it, and no key."""
    made = {"PKG-INFO", "setup.cfg"}
    packed = {name for name in files_of(unpacked) if ".egg-info/" not in name} - made
    there = {
        name for name in files_of(source) if not name.startswith(("dist/", "build/"))
    } - made  # setuptools writes setup.cfg anew
    assert packed == {name for name in there if ".egg-info/" not in name}


def test_source_distribution_has_its_tests(unpacked: Path) -> None:
    """The tests can be collected from the unpacked source distribution."""
    run(sys.executable, "-m", "pytest", "--collect-only", "-q", cwd=unpacked)


def test_wheel_is_complete(source: Path, distributions: Path) -> None:
    """Every module of the package is in the wheel, with the types, and nothing but the package."""
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {f"channels_rabbitmq/{name}" for name in files_of(source / "channels_rabbitmq")}
    stubs = {f"carehare-stubs/{name}" for name in files_of(source / "typings" / "carehare")}
    assert packed == modules | stubs


@pytest.mark.parametrize(
    ("extra", "others", "script"),
    [
        ("", ["aio-pika>=10", "aiormq>=7"], BESIDE_AIO_PIKA),
        ("[carehare]", [], WITH_CAREHARE),
    ],
    ids=["aio-pika", "carehare"],
)
def test_installs(
    extra: str,
    others: list[str],
    script: str,
    distributions: Path,
    amqp_url: str,
    tmp_path: Path,
) -> None:
    """The wheel installs beside the current AMQP clients, or with carehare, and works."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    wheel = next(distributions.glob("*.whl"))
    run(python, "-m", "pip", "install", "-q", f"{wheel}{extra}", *others)
    run(python, "-m", "pip", "check")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-W", "error", "-c", script, amqp_url],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

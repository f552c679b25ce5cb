"""The files of ``docs/deploying.rst``: their form, and each command in them that can run here."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools.broker import Broker
from tests.helpers.pages import snippet, snippets
from tests.helpers.site import free_port, make_site, serving, visit

PAGE = "docs/deploying.rst"


def _yaml(name: str) -> Any:
    return yaml.safe_load(dict(snippets(PAGE, "yaml"))[name])


def _web() -> Any:
    """The container of the Kubernetes manifest."""
    (container,) = _yaml("deploying-kubernetes")["spec"]["template"]["spec"]["containers"]
    return container


def _seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_compose_waits_for_healthy_services() -> None:
    """What is waited for has a health check, and each service has the time to end in order."""
    services = _yaml("deploying-compose")["services"]
    for name in ("web", "worker"):
        service = services[name]
        assert service["environment"] == services["web"]["environment"]
        for needed, how in service["depends_on"].items():
            assert how == {"condition": "service_healthy"}
            assert services[needed]["healthcheck"]["test"][0] == "CMD"
    words = services["web"]["command"].split()
    graceful = int(words[words.index("--timeout-graceful-shutdown") + 1])
    assert 10 < graceful < _seconds(services["web"]["stop_grace_period"])


def test_kubernetes_gives_time_to_end() -> None:
    """The probes are ours, and the grace period is longer than what happens in it."""
    web = _web()
    for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        asked = web[f"{probe}Probe"]["httpGet"]
        assert asked == {"path": f"/health/{path}", "port": web["ports"][0]["containerPort"]}
    spec = _yaml("deploying-kubernetes")["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    (graceful,) = [word.partition("=")[2] for word in web["args"] if "graceful" in word]
    pause = web["lifecycle"]["preStop"]["exec"]["command"][1]
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(graceful) + int(pause) < grace


def test_rabbitmq_health_check(broker: Broker) -> None:
    """The health check of RabbitMQ's container passes on a node that runs."""
    check = _yaml("deploying-compose")["services"]["rabbitmq"]["healthcheck"]["test"]
    script = broker.erlang.scripts / check[1]
    if not script.exists():
        pytest.skip("this RabbitMQ's scripts are not all there")
    command = [str(script), "--node", broker.node, *check[2:]]
    done = subprocess.run(
        command, env=broker.erlang.environment(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs uvicorn")
@pytest.mark.parametrize("origin", ["compose", "kubernetes"])
async def test_web_and_its_probes(
    origin: str, amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web service starts by its command, with settings from the environment, and is healthy."""
    site = make_site(tmp_path, "amqp://nowhere")
    for file, name in (("settings.py", "deploying-settings"), ("asgi.py", "deploying-asgi")):
        path = site / "mysite" / file
        path.write_text(path.read_text() + "\n" + snippet(PAGE, name))
    port = str(free_port())
    service = _yaml("deploying-compose")["services"]["web"]
    words = service["command"].split() if origin == "compose" else _web()["args"]
    environment = {"AMQP_URL": amqp_url, "DJANGO_SECRET_KEY": "for tests only"}
    for name, value in (service["environment"] | environment).items():
        monkeypatch.setenv(name, value)

    command = [word.replace("8000", port).replace("0.0.0.0", "127.0.0.1") for word in words]
    check = [sys.executable, *service["healthcheck"]["test"][2:]]
    check[-1] = check[-1].replace("8000", port)
    with serving(site, command) as server:
        async with visit(server, port, origin="http://chat.example.com"):
            for probe in ("live", "ready"):
                check[-1] = check[-1].replace("/live", f"/{probe}")
                done = await asyncio.to_thread(
                    subprocess.run, check, capture_output=True, check=False, timeout=20
                )
                assert done.returncode == 0, (done.stderr, server.log)
    assert os.environ["ALLOWED_HOSTS"] == "chat.example.com"

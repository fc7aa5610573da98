"""docker-compose 1.29 and docker compose 2.26, unmodified: projects with networks of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.test_compose import Compose
from support import images, peers
from support.engine import CortenEngine
from support.process import wait_for

PROJECT = """\
services:
  web:
    image: {image}
    command: ["sh", "-c", "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"]
    networks:
      default: {{}}
      back: {{aliases: [pages], ipv4_address: 10.97.3.33}}
    ports: ["127.0.0.1:8123:80"]
    stop_grace_period: 0s
  worker:
    image: {image}
    command: ["sleep", "10000"]
    networks: [back]
    stop_grace_period: 0s
networks:
  back:
    driver: bridge
    internal: true
    labels: {{tier: back}}
    driver_opts: {{com.docker.network.driver.mtu: "1400"}}
    ipam: {{config: [{{subnet: 10.97.3.0/24, gateway: 10.97.3.1}}]}}
"""


@pytest.fixture(params=[pytest.param("1.29", marks=pytest.mark.slow), "2.26"])
def compose(request: pytest.FixtureRequest, engine: CortenEngine, tmp_path: Path) -> Compose:
    text = PROJECT.format(image=images.BUSYBOX_REF)
    argv = [str(peers.binary("docker-compose-2.26"))]
    environment: dict[str, str] = {}
    if request.param == "1.29":
        argv, environment = peers.compose_1()
        environment["COMPOSE_API_VERSION"] = "1.44"
        text = 'version: "2.4"\n' + text
    (tmp_path / "compose.yaml").write_text(text)
    return Compose(argv, environment, tmp_path, engine)


@pytest.fixture
def up(compose: Compose) -> Iterator[Compose]:
    """The project, taken down in the end with all its networks."""
    compose("up", "-d", "--scale", "worker=2")
    yield compose
    compose("down")
    assert project_networks(compose) == []


def project_networks(compose: Compose) -> list[str]:
    names = compose.engine.docker("network", "ls", "--format", "{{.Name}}", check=True).stdout.split()
    return [name for name in names if name.startswith("project_")]


def test_services_find_each_other_on_networks_of_the_project(up: Compose) -> None:
    wait_for(lambda: up.get() != "", "the web server")
    assert project_networks(up) == ["project_back", "project_default"]
    for name in ("web", "pages", "web.project_back"):
        assert up("exec", "-T", "worker", "wget", "-qO-", f"http://{name}/") == up.get()
    (back,) = json.loads(up.engine.docker("network", "inspect", "project_back", check=True).stdout)
    assert (back["Internal"], back["Labels"]["tier"], back["Options"]) == (
        *(True, "back", {"com.docker.network.driver.mtu": "1400"}),
    )
    assert back["IPAM"]["Config"] == [{"Subnet": "10.97.3.0/24", "Gateway": "10.97.3.1"}]
    assert len(back["Containers"]) == 3
    assert "10.97.3.33/24" in {one["IPv4Address"] for one in back["Containers"].values()}
    workers = up("exec", "-T", "web", "nslookup", "-type=a", "worker")
    assert workers.count("Address: 10.97.3.") == 2
    assert up("exec", "-T", "worker", "cat", "/sys/class/net/eth0/mtu") == "1400\n"
    up("up", "-d", "--scale", "worker=1")
    assert up("exec", "-T", "web", "nslookup", "-type=a", "worker").count("Address: 10.97.3.") == 1


@pytest.mark.slow
def test_networks_stay_while_containers_are_made_again(up: Compose) -> None:
    before = up.engine.docker("network", "ls", "-q", "--filter", "name=project_", check=True).stdout
    up("restart", "-t", "0", "web")
    wait_for(lambda: up.get() != "", "the web server")
    up("up", "-d", "--force-recreate", "--scale", "worker=2")
    wait_for(lambda: up.get() != "", "the web server")
    assert up("exec", "-T", "worker", "wget", "-qO-", "http://pages/") == up.get()
    assert up.engine.docker("network", "ls", "-q", "--filter", "name=project_", check=True).stdout == before

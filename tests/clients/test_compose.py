"""docker-compose 1.29 and docker compose 2.26, unmodified: a store, a web server and workers on the default bridge."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import images, peers
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.process import wait_for

PROJECT = """\
services:
  store:
    image: {image}
    network_mode: bridge
    command: ["sh", "-c", "mkdir -p /data/www; echo stored > /data/www/index.html; exec httpd -f -p 6379 -h /data/www"]
    volumes: ["data:/data"]
    healthcheck:
      test: ["CMD", "wget", "-qO-", "http://127.0.0.1:6379/"]
      interval: 100ms
      timeout: 5s
      retries: 100
    stop_grace_period: 0s
    labels: {{tier: back}}
  web:
    image: {image}
    network_mode: bridge
    depends_on: {{store: {{condition: service_healthy}}}}
    command: ["sh", "-c", "echo $$GREETING; exec httpd -f -p 80 -h /www"]
    environment: {{GREETING: "${{GREETING:-hello}}"}}
    ports: ["127.0.0.1:8123:80"]
    volumes: ["./www:/www:ro", "data:/shared:ro", "/own"]
    tmpfs: [/scratch]
    ulimits: {{nofile: {{soft: 100, hard: 200}}}}
    sysctls: {{net.ipv4.ip_default_ttl: 70}}
    mem_limit: 64m
    cap_add: [NET_ADMIN]
    restart: unless-stopped
    stop_grace_period: 0s
  worker:
    image: {image}
    network_mode: "service:store"
    command: ["sh", "-c", "while :; do wget -qO- http://127.0.0.1:6379/; sleep 0.2; done"]
    depends_on: [store]
    stop_grace_period: 0s
volumes:
  data: {{labels: {{a: b}}}}
"""


@dataclass(frozen=True, slots=True)
class Compose:
    """A compose, and a project that is its."""

    argv: list[str]
    environment: dict[str, str]
    folder: Path
    engine: CortenEngine

    def __call__(self, *args: str, **variables: str) -> str:
        """Stdout of a command that must succeed."""
        done = subprocess.run(
            [*self.argv, "-f", "compose.yaml", "-p", "project", *args],
            cwd=self.folder,
            env=client_environment() | self.environment | {"DOCKER_HOST": self.engine.host} | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def ids(self, service: str) -> set[str]:
        """Its containers."""
        return set(self("ps", "-q", service).split())

    def get(self) -> str:
        """What the published port answers."""
        argv = [*self.engine.netns.enter, "/bin/busybox", "wget", "-qO-", "http://127.0.0.1:8123/"]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(params=["1.29", "2.26"])
def compose(request: pytest.FixtureRequest, engine: CortenEngine, tmp_path: Path) -> Iterator[Compose]:
    """The project, taken down in the end."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("page\n")
    text = PROJECT.format(image=images.BUSYBOX_REF)
    argv = [str(peers.binary("docker-compose-2.26"))]
    environment: dict[str, str] = {}
    if request.param == "1.29":
        argv, environment = peers.compose_1()
        environment["COMPOSE_API_VERSION"] = "1.44"  # of 1.45 and later it cannot recreate, with dockerd neither
        text = 'version: "2.4"\n' + text
    (tmp_path / "compose.yaml").write_text(text)
    made = Compose(argv, environment, tmp_path, engine)
    yield made
    made("down", "-v")


@pytest.mark.slow
def test_a_project_lives_from_up_to_down(compose: Compose) -> None:
    engine = compose.engine
    compose("up", "-d")
    wait_for(lambda: compose.get() == "page\n", "the web server")
    wait_for(lambda: "hello" in compose("logs", "web"), "its first line")
    wait_for(lambda: "stored" in compose("logs", "--tail", "3", "worker"), "answers of the store")
    assert compose("exec", "-T", "web", "cat", "/shared/www/index.html") == "stored\n"
    assert compose("port", "web", "80").strip() == "127.0.0.1:8123"
    assert "httpd" in compose("top")
    state = engine.docker("inspect", "-f", "{{.State.Health.Status}}", *compose.ids("store"), check=True)
    assert state.stdout == "healthy\n"

    before = {service: compose.ids(service) for service in ("store", "web", "worker")}
    compose("up", "-d", "--scale", "worker=3")
    assert len(compose.ids("worker")) == 3
    assert {service: compose.ids(service) for service in ("store", "web")} == {
        service: before[service] for service in ("store", "web")
    }
    compose("pause", "web")
    compose("unpause", "web")
    compose("restart", "-t", "0", "web")
    compose("stop", "web")
    assert compose.get() == ""
    compose("start", "web")
    wait_for(lambda: compose.get() == "page\n", "the web server")


@pytest.mark.slow
def test_a_changed_service_is_made_again_and_keeps_its_volumes(compose: Compose) -> None:
    compose("up", "-d")
    compose("exec", "-T", "web", "sh", "-c", "echo kept > /own/file")
    before = compose.ids("web"), compose.ids("store")
    compose("up", "-d", GREETING="changed")
    assert compose.ids("store") == before[1]
    assert compose.ids("web").isdisjoint(before[0])
    assert compose("exec", "-T", "web", "cat", "/own/file") == "kept\n"
    wait_for(lambda: "changed" in compose("logs", "web"), "its first line")


def test_a_command_runs_beside_and_nothing_is_left(compose: Compose) -> None:
    compose("up", "-d", "store")
    (store,) = compose.ids("store")
    health = ("inspect", "-f", "{{.State.Health.Status}}", store)
    wait_for(lambda: compose.engine.docker(*health, check=True).stdout == "healthy\n", "the store")
    assert compose("run", "--rm", "-T", "worker", "wget", "-qO-", "http://127.0.0.1:6379/") == "stored\n"
    assert "one-off" in compose("run", "--rm", "-T", "web", "echo", "one-off")
    compose("kill", "store")
    compose("rm", "-f", "store")
    compose("down", "-v")
    assert compose.engine.docker("ps", "-aq", check=True).stdout == ""
    assert compose.engine.docker("volume", "ls", "-q", check=True).stdout == ""

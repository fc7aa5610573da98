"""docker-compose 1.29 and docker compose 2.26 with programs of Debian: nginx, redis and a worker that counts in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.test_compose import Compose
from support import peers, pullimages
from support.engine import CortenEngine
from support.leaks import no_leaks
from support.process import wait_for
from support.warmup import load, warm_up, warm_up_names

# Two networks: what stores is on the inner one alone, the web server on the project's own as well.
PROJECT = """\
services:
  redis:
    image: corten-test/redis
    networks: {inner: {aliases: [store]}}
    command: ["redis-server", "--appendonly", "yes", "--dir", "/data", "--protected-mode", "no"]
    volumes: ["data:/data"]
    healthcheck: {test: ["CMD", "redis-cli", "ping"], interval: 200ms, timeout: 10s, retries: 100}
  web:
    image: corten-test/nginx
    networks: [default, inner]
    ports: ["127.0.0.1:8123:80"]
    volumes: ["./site:/var/www/html:ro"]
    environment: {GENERATION: "${GENERATION:-first}"}
    labels: {corten.tier: front}
    logging: {driver: json-file, options: {max-size: 1m}}
    depends_on: {redis: {condition: service_healthy}}
    restart: unless-stopped
  worker:
    image: corten-test/redis
    networks: [inner]
    command: ["sh", "-c", "trap exit TERM; while :; do redis-cli -h store incr jobs; sleep 0.2 & wait; done"]
    depends_on: {redis: {condition: service_healthy}}
    mem_limit: 64m
networks:
  inner: {internal: true, labels: {corten.tier: back}}
volumes:
  data: {}
"""


@pytest.fixture(params=["1.29", "2.26"])
def compose(request: pytest.FixtureRequest, engine: CortenEngine, tmp_path: Path) -> Iterator[Compose]:
    """The project, taken down in the end; nothing of it is left."""
    for made, name in ((pullimages.redis, "corten-test/redis:latest"), (pullimages.nginx, "corten-test/nginx:latest")):
        load(engine, pullimages.archive(made(compression="none"), name))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("a page of nginx\n")
    argv, head = [str(peers.binary("docker-compose-2.26"))], ""
    environment: dict[str, str] = {}
    if request.param == "1.29":
        argv, environment = peers.compose_1()
        environment["COMPOSE_API_VERSION"] = "1.44"  # of 1.45 and later it cannot recreate, with dockerd neither
        head = 'version: "2.4"\n'
    (tmp_path / "compose.yaml").write_text(head + PROJECT)
    warm_up(engine)
    warm_up_names(engine)
    with no_leaks(engine):
        made_of = Compose(argv, environment, tmp_path, engine)
        yield made_of
        made_of("down", "-v")
        assert "project_" not in engine.docker("network", "ls", "--format", "{{.Name}}", check=True).stdout


def jobs(compose: Compose) -> int:
    """What the workers have counted, asked of redis."""
    return int(compose("exec", "-T", "redis", "redis-cli", "get", "jobs") or 0)


def counts_on(compose: Compose, beyond: int) -> None:
    """Waits until the workers have counted further."""
    wait_for(lambda: jobs(compose) > beyond, "work of the workers")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nginx_redis_and_workers_live_a_whole_life(compose: Compose) -> None:
    compose("up", "-d")
    wait_for(lambda: compose.get() == "a page of nginx\n", "nginx")
    counts_on(compose, 2)
    named(compose)
    scaled(compose)
    logged(compose)
    updated(compose)
    restarted(compose)


def named(compose: Compose) -> None:
    """Workers find redis by its service and by its alias; the inner network is one."""
    for name in ("redis", "store"):
        assert compose("exec", "-T", "worker", "redis-cli", "-h", name, "ping") == "PONG\n"
    networks = compose.engine.docker("network", "ls", "--format", "{{.Name}} {{.Internal}}", check=True).stdout
    assert {"project_default false", "project_inner true"} <= set(networks.splitlines())


def scaled(compose: Compose) -> None:
    """More workers, then fewer; nothing else is made again."""
    others = compose.ids("redis") | compose.ids("web")
    for count in (4, 2):
        compose("up", "-d", "--scale", f"worker={count}")
        assert len(compose.ids("worker")) == count
    assert compose.ids("redis") | compose.ids("web") == others
    counts_on(compose, jobs(compose))


def logged(compose: Compose) -> None:
    """Logs of all services at once, and of the last lines."""
    everything = compose("logs", "--no-color")
    assert "Ready to accept connections" in everything
    assert "worker" in everything
    assert "worker" in compose("logs", "--no-color", "--tail", "3", "worker")
    assert "nginx: master process" in compose("top", "web")


def updated(compose: Compose) -> None:
    """A service whose variable changed is made again; the store keeps what it has."""
    before, counted = (compose.ids("web"), compose.ids("redis")), jobs(compose)
    compose("up", "-d", "--scale", "worker=2", GENERATION="second")
    assert compose.ids("web").isdisjoint(before[0])
    assert compose.ids("redis") == before[1]
    assert "GENERATION=second" in compose("exec", "-T", "web", "env")
    wait_for(lambda: compose.get() == "a page of nginx\n", "nginx")
    assert jobs(compose) >= counted


def restarted(compose: Compose) -> None:
    """Stop, start and restart; redis finds its file again, nginx ends by the signal of its image."""
    counted = jobs(compose)
    compose("stop", "-t", "10", "web")
    (web,) = compose.engine.docker("ps", "-aq", "--filter", "label=corten.tier=front", check=True).stdout.split()
    assert compose.engine.docker("inspect", "-f", "{{.State.ExitCode}}", web, check=True).stdout == "0\n"
    assert compose.get() == ""
    compose("start", "web")
    wait_for(lambda: compose.get() == "a page of nginx\n", "nginx")
    compose("stop", "-t", "1", "worker")
    compose("restart", "-t", "10", "redis")
    wait_for(lambda: jobs(compose) >= counted, "redis with its file")
    counted = jobs(compose)
    compose("start", "worker")
    counts_on(compose, counted)
    compose("kill", "worker")
    compose("rm", "-f", "-s", "worker")
    assert compose.ids("worker") == set()

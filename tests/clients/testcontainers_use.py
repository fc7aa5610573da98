"""What a program that uses testcontainers does; run by the interpreter of support.pypeers.

python3 testcontainers_use.py with          a redis in a `with`: used, logged, exec'ed, copied into, gone at the end
python3 testcontainers_use.py abandon       containers and a volume that nobody removes: prints READY and waits
"""

from __future__ import annotations

import sys
import time

import docker
from testcontainers.core.container import DockerContainer  # type: ignore[import-not-found]
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID  # type: ignore[import-not-found]
from testcontainers.core.network import Network  # type: ignore[import-not-found]
from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # type: ignore[import-not-found]
from testcontainers.redis import RedisContainer  # type: ignore[import-not-found]

SERVER = ["sh", "-c", "echo over here >&2; echo page > /tmp/index.html; echo Ready; exec httpd -f -p 80 -h /tmp"]


def use(image: str) -> None:
    """Two containers that end with their blocks."""
    with RedisContainer() as redis:
        client = redis.get_client()
        assert client.set("key", "value")
        assert client.get("key") == b"value"
        code, output = redis.exec(["redis-cli", "get", "key"])
        assert (code, output.strip()) == (0, b"value")
        client.close()
    ready = LogMessageWaitStrategy("Ready")
    plain = DockerContainer(image).with_command(SERVER).with_env("A", "b").with_exposed_ports(80).waiting_for(ready)
    with plain as server:
        assert server.exec(["sh", "-c", "echo $A"]).output == b"b\n"
        server.copy_into_container(b"copied", "/tmp/copied")
        assert server.exec(["wget", "-qO-", "http://127.0.0.1/copied"]).output == b"copied"
        assert server.get_logs() == (b"Ready\n", b"over here\n")
        assert server.get_exposed_port(80) > 1024
        server.get_wrapped_container().kill()
        assert server.wait() == 137
    with Network() as network:
        server = DockerContainer(image).with_command(SERVER).with_network(network).with_network_aliases("pages")
        with server.waiting_for(ready):
            client = DockerContainer(image).with_command(["sleep", "600"]).with_network(network)
            with client as asking:
                assert asking.exec(["wget", "-qO-", "http://pages/"]).output == b"page\n"
    print("USED", SESSION_ID, flush=True)


def abandon(image: str) -> None:
    """Objects of this session, of which only the reaper knows."""
    RedisContainer().start()
    DockerContainer(image).with_command(["sleep", "600"]).with_volume_mapping("nobodys", "/data", "rw").start()
    docker.from_env().volumes.create("abandoned", labels={LABEL_SESSION_ID: SESSION_ID})
    print("READY", SESSION_ID, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    {"with": use, "abandon": abandon}[sys.argv[1]](sys.argv[2])

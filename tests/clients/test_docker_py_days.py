"""Scripts as people write them with docker-py, played on dockerd 26.1 and on Corten: what they see is the same."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import docker
import pytest
from docker.types import Healthcheck, LogConfig, Mount, Ulimit

from clients.compare import IMAGE, Side, difference
from clients.normal import RULES, Normalizer
from support import images
from support.dockerd import Dockerd
from support.engine import CortenEngine

# docker-py leaves the sockets of its streams to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Json = Any
Script = Callable[[Any, Side], Iterator[Json]]
SERVER = ["sh", "-c", "echo started; mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www"]


def tar(**files: bytes) -> bytes:
    """An archive of small files."""
    return images.layer(images.Entry(name, data) for name, data in files.items())


def members(pieces: Iterator[bytes]) -> list[list[Json]]:
    """Name, mode and content of what is in an archive."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        return [
            [one.name, oct(one.mode), (archive.extractfile(one) or io.BytesIO()).read().decode()]
            for one in archive.getmembers()
        ]


def refused(call: Callable[..., Any], *args: Any, **options: Any) -> Json:
    """The exception that a call ends with."""
    try:
        call(*args, **options)
    except docker.errors.APIError as error:
        return [type(error).__name__, error.status_code, error.explanation]
    return "no error"


def service(client: Any, side: Side) -> Iterator[Json]:
    """A server with everything that a service has, through a day of its life."""
    box = client.containers.run(
        IMAGE,
        SERVER,
        name="service",
        detach=True,
        hostname="server",
        environment={"A": "b", "EMPTY": ""},
        labels={"tier": "front"},
        ports={"80/tcp": ("127.0.0.1", None), "53/udp": None},
        volumes={"data": {"bind": "/data", "mode": "rw"}, str(side.shared): {"bind": "/host", "mode": "ro"}},
        tmpfs={"/scratch": "size=1m"},
        mem_limit="64m",
        nano_cpus=500_000_000,
        pids_limit=50,
        ulimits=[Ulimit(name="nofile", soft=100, hard=200)],
        healthcheck=Healthcheck(test=["CMD", "wget", "-qO-", "http://127.0.0.1/"], interval=10**8, retries=50),
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "1m"}),
        cap_drop=["NET_RAW"],
        extra_hosts={"there": "10.0.0.1"},
        dns=["10.0.0.2"],
        init=True,
    )
    side.until(lambda: client.containers.get("service").health == "healthy")
    box.reload()
    yield [box.name, box.status, box.health, box.labels, box.image.tags, sorted(box.ports)]
    (binding,) = box.ports["80/tcp"]
    yield side.inside("/bin/busybox", "wget", "-qO-", f"http://127.0.0.1:{binding['HostPort']}/")
    yield [one.name for one in client.containers.list(filters={"label": "tier=front", "health": "healthy"})]
    yield [box.put_archive("/data", tar(one=b"1", two=b"2")), members(box.get_archive("/data")[0])]
    yield {key: value for key, value in box.get_archive("/data/one")[1].items() if key != "mtime"}
    yield b"".join(box.exec_run(["sh", "-c", "echo a; echo b"], stream=True).output).decode()
    yield box.exec_run("env", environment=["X=y"], workdir="/data", user="1000")[1].decode().splitlines()[1:3]
    yield [row[-1] for row in box.top(ps_args="-o pid,args")["Processes"] if row[-1].startswith("httpd")]
    yield sorted(change["Path"] for change in box.diff())
    yield box.update(mem_limit="80m", memswap_limit="160m", restart_policy={"Name": "always"})
    box.rename("renamed")
    box.pause()
    yield [client.containers.get("renamed").status, refused(box.exec_run, "true")]
    box.unpause()
    box.restart(timeout=0)
    box.reload()
    yield [box.status, box.attrs["HostConfig"]["Memory"], box.attrs["HostConfig"]["RestartPolicy"]]
    side.until(lambda: box.logs().count(b"started") == 2)
    yield [box.logs(tail=1).decode(), len(box.logs(timestamps=True, stream=False).decode().split()), box.logs(since=1)]
    made = box.commit("day/made", tag="1", message="of a day", author="somebody", changes='ENV MADE="yes"')
    yield [made.tags, made.history()[0]["Comment"], made.attrs["Author"], made.attrs["Config"]["Env"]]
    box.stop(timeout=1)
    yield [box.wait()["StatusCode"] > 0, refused(box.kill), refused(client.api.resize, box.id, 10, 10)]
    box.start()
    yield [refused(box.remove), refused(client.volumes.get("data").remove)]
    box.remove(force=True, v=True)
    yield [one.name for one in client.volumes.list()]


def stores(client: Any, side: Side) -> Iterator[Json]:
    """Images and volumes."""
    image = client.images.get(IMAGE)
    yield [image.tags, image.short_id[:7], len(image.history()), image.attrs["RootFS"]["Type"]]
    yield [image.tag("day/one", "1"), image.tag("day/one", "2")]
    saved = b"".join(client.images.get("day/one:1").save(named="day/one:1"))
    client.images.remove("day/one:1")
    yield [sorted(one.tags) for one in client.images.load(saved)]
    yield sorted(tag for one in client.images.list(name="day/one") for tag in one.tags)
    made = client.api.import_image_from_data(tar(hello=b"hello"), repository="day/imported", tag="1")
    yield json.loads(made.splitlines()[-1])["status"][:7]
    yield [refused(client.images.get, "day/none"), refused(client.images.remove, "day/none")]
    yield refused(client.containers.create, "day/imported:1")
    volume = client.volumes.create("store", driver="local", labels={"a": "b"})
    yield [volume.name, volume.attrs["Driver"], volume.attrs["Labels"], volume.attrs["Options"]]
    client.volumes.create("memory", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    mounts = [
        Mount("/store", "store", type="volume", read_only=True),
        Mount("/memory", "memory", type="volume"),
        Mount("/scratch", None, type="tmpfs", tmpfs_size=65536),
        Mount("/host", str(side.shared), type="bind", read_only=True),
    ]
    yield client.containers.run(
        IMAGE, ["sh", "-c", "grep -c -E ' /(store|memory|scratch|host) ' /proc/mounts"], mounts=mounts, remove=True
    ).decode()
    yield [refused(client.volumes.create, "a/b"), refused(client.volumes.get, "nothing")]
    yield [
        sorted(one.name for one in client.volumes.list(filters={"label": "a=b"})),
        client.volumes.prune(filters={"all": ["1"]})["VolumesDeleted"] and "pruned",
    ]
    yield client.images.prune(filters={"dangling": True})["ImagesDeleted"]


def sights(client: Any, side: Side) -> Iterator[Json]:
    """What is asked of an engine and of containers that run: lists, events, stats, logs that are followed."""
    began = f"{time.time():.9f}"
    one = client.containers.run(IMAGE, ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done; exit 3"], detach=True)
    yield [b"".join(one.logs(stream=True, follow=True)).decode(), one.wait(), one.attrs["Path"]]
    two = client.containers.run(IMAGE, ["cat"], name="two", detach=True, stdin_open=True, tty=True)
    yield [one.status for one in client.containers.list()]
    yield len(client.containers.list(all=True)), len(client.containers.list(filters={"exited": 3}))
    stream = two.stats(decode=True, stream=True)
    yield [sorted(set(next(stream)) - {"corten"})[:4], next(stream)["precpu_stats"]["cpu_usage"]["total_usage"] > 0]
    two.kill("SIGKILL")
    yield two.wait(condition="not-running")
    filters = {"container": [two.id], "event": ["create", "start", "kill", "die"]}
    events = client.events(since=began, until=f"{time.time():.9f}", filters=filters, decode=True)
    yield [[event["Type"], event["Action"], event["scope"]] for event in events]
    removed = client.containers.prune()
    yield len(removed["ContainersDeleted"])
    yield [client.ping(), client.info()["OSType"], client.version()["Os"], sorted(client.df())[:3]]
    yield [network.name for network in sorted(client.networks.list(), key=lambda found: str(found.name))]


def slips(client: Any, side: Side) -> Iterator[Json]:
    """What goes wrong, and what docker-py makes of it."""
    yield refused(client.containers.run, "day/none", "true")[:2]
    yield refused(client.containers.run, IMAGE, "nonesuch", name="slip")
    yield refused(client.containers.create, IMAGE, name="slip")[:2]
    yield refused(client.containers.create, IMAGE, name="a/b")
    yield refused(client.containers.create, IMAGE, mem_limit="1k")
    yield refused(client.containers.create, IMAGE, network_mode="container:nobody")
    yield refused(client.containers.create, IMAGE, volumes={"relative/path": {"bind": "/x"}})
    yield refused(client.containers.create, IMAGE, working_dir="relative")
    yield refused(client.containers.get, "nobody")
    try:
        client.containers.run(IMAGE, ["sh", "-c", "echo gone >&2; exit 4"], remove=True)
    except docker.errors.ContainerError as error:
        yield [error.exit_status, error.stderr.decode()]
    box = client.containers.run(IMAGE, ["sleep", "60"], detach=True)
    yield [refused(box.exec_run, ["nonesuch"]), box.exec_run(["nonesuch"]).exit_code]
    yield [refused(box.kill, "NOTHING"), refused(box.get_archive, "/nothing"), refused(box.put_archive, "/no", tar())]
    yield [refused(box.update, mem_limit="1k"), refused(box.unpause), refused(box.rename, "a/b")]
    box.kill()
    yield [box.wait()["StatusCode"], refused(box.pause), refused(box.top), refused(box.stop)]


def play(script: Script, side: Side) -> list[Json]:
    """What a script sees on an engine that is empty."""
    side.clear()
    with closing(side.py()) as client:
        seen = list(script(client, side))
    side.clear()
    return seen


@pytest.fixture(scope="module")
def sides(dockerd: Dockerd, shared_engine: CortenEngine) -> tuple[Side, Side]:
    """dockerd 26.1 and Corten."""
    return tuple(Side(one.socket, one.folder, tuple(one.netns.enter)) for one in (dockerd, shared_engine))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "script",
    [pytest.param(service), pytest.param(stores), pytest.param(sights, marks=pytest.mark.slow), pytest.param(slips)],
    ids=lambda script: script.__name__,
)
def test_a_script_of_docker_py_sees_the_same(script: Script, sides: tuple[Side, Side]) -> None:
    normal = Normalizer(RULES)
    with ThreadPoolExecutor(2) as threads:
        theirs, ours = threads.map(lambda side: normal(play(script, side), side.folder), sides)
    found = [text for pair in zip(theirs, ours, strict=True) for text in difference(*pair)]
    assert not found, "\n".join(found)

"""No request to a published service fails while others start and stop, and while cortend is killed and comes back."""

from __future__ import annotations

import http.client
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from clients.api import Api
from support import images, process, summary
from support.engine import CortenEngine
from support.neighbour import HOST, neighbour
from support.steadyload import ANSWER, SteadyLoad

CLIENTS = 8
SERVICE_PORT = 18080
FIRST_PORT = 20000
OWN = "own"
_SERVE = f"mkdir /www && echo {ANSWER} >/www/index.html && exec httpd -f -p 80 -h /www"


@pytest.fixture
def engine() -> Iterator[CortenEngine]:
    """An engine with the image."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


@pytest.mark.timeout(300)
def test_no_request_fails_while_others_start_and_stop_and_cortend_is_killed(engine: CortenEngine) -> None:
    judge(engine, count=16)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_fails_beside_two_hundred_containers(engine: CortenEngine) -> None:
    judge(engine, count=200)


def judge(engine: CortenEngine, count: int) -> None:
    """`count` containers with ports come and go, on two networks.

    cortend is killed while they start, when half of them run, and again when all do; then it is stopped and started.
    """
    engine.docker("network", "create", OWN, check=True)
    with ExitStack() as stack:
        loads = serve(engine, stack)
        half = threading.Event()
        pool = stack.enter_context(ThreadPoolExecutor(1))
        starting = pool.submit(each, engine, range(count), start, at_half=half)
        assert half.wait(600)
        outage(engine, loads, engine.kill9)
        starting.result()
        for end in (engine.kill9, engine.stop):
            outage(engine, loads, end)
        each(engine, range(count), stop)
        for load in loads:
            load.go_on()
            done, failures, failed = load.seen()
            assert not failures, failed
            line = (
                f"beside {count} containers, cortend killed twice and restarted: {load.name} {done} answered, 0 failed"
            )
            summary.add("requests to a published service", line)


def serve(engine: CortenEngine, stack: ExitStack) -> list[SteadyLoad]:
    """The service that nobody touches, and those who ask it: from another host, and from its own loopback."""
    published = ("-p", f"{SERVICE_PORT}:80")
    engine.docker("run", "-d", *published, images.BUSYBOX_REF, "sh", "-c", _SERVE, check=True)
    client = stack.enter_context(neighbour(engine.netns))
    ask = ["/usr/bin/python3", "-I", "-c", f"import socket; socket.create_connection(('127.0.0.1', {SERVICE_PORT}))"]
    process.wait_for(lambda: _succeeds([*engine.netns.enter, *ask]), "the service")
    loads = [
        stack.enter_context(SteadyLoad(client, HOST[4], SERVICE_PORT)),
        stack.enter_context(SteadyLoad(engine.netns, "127.0.0.1", SERVICE_PORT)),
    ]
    for load in loads:
        load.go_on()
    return loads


def _succeeds(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode == 0


def outage(engine: CortenEngine, loads: list[SteadyLoad], end: Callable[[], object]) -> None:
    """An end of cortend, and a start; the clients are served all the while."""
    end()
    for load in loads:
        load.go_on()
    engine.start()
    for load in loads:
        load.go_on()


def start(api: Api, number: int) -> None:
    """One more container, with a port of each kind; what is left of an attempt that a kill has cut goes first."""
    name, port = f"load-{number}", str(FIRST_PORT + number)
    api.remove(name)
    bindings = {"80/tcp": [{"HostPort": port}], "53/udp": [{"HostPort": port}]}
    host = {"PortBindings": bindings, "NetworkMode": ("bridge", OWN)[number % 2]}
    body = {"Image": images.BUSYBOX_REF, "Cmd": ["sleep", "10000"], "ExposedPorts": {key: {} for key in bindings}}
    api.ok("POST", f"/containers/create?name={name}", {**body, "HostConfig": host}, timeout=120)
    api.ok("POST", f"/containers/{name}/start", timeout=120)


def stop(api: Api, number: int) -> None:
    """Stopped, and removed."""
    api.ok("POST", f"/containers/load-{number}/stop?t=0", timeout=120)
    api.remove(f"load-{number}")


def each(
    engine: CortenEngine,
    numbers: range,
    work: Callable[[Api, int], None],
    *,
    at_half: threading.Event | None = None,
) -> None:
    """`work` for every number, by CLIENTS at once; a call that a dead cortend cuts is made again when it is back."""
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        left.put(number)
    done: list[int] = []
    errors: list[BaseException] = []

    def client() -> None:
        try:
            while not errors:
                number = left.get_nowait()
                try:
                    work(Api(engine.socket), number)
                    done.append(number)
                except (OSError, http.client.HTTPException):
                    left.put(number)
                    process.wait_for(engine.answers, "cortend")
                if at_half is not None and 2 * len(done) >= len(numbers):
                    at_half.set()
        except queue.Empty:
            return
        except BaseException as error:  # outermost of this thread: raised again in the test's
            errors.append(error)
            if at_half is not None:
                at_half.set()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert sorted(done) == list(numbers)

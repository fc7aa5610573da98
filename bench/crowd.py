"""Many running containers of one engine: started, measured, stopped.  What is measured of them is `measure`'s.

Containers sleep, have no network, and end with SIGKILL, so that a stop waits for nobody.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from api import KeptConnection
from engines import IMAGE
from harness import REST_S
from resources import TICKS, processes, pss_mb, workload

from support.dockerd import DockerClient
from support.engine import CortenEngine

CLIENTS: Final = 8
METRICS: Final = "127.0.0.1:9323"
_CALL_S: Final = 120.0
_HEALTH: Final = {"Test": ["CMD", "true"], "Interval": 30 * 10**9, "Timeout": 30 * 10**9, "Retries": 3}


class Failed(Exception):
    """The engine could not go on; the text says where."""


class Crowd:
    """The containers of one engine; `has_checks`: with a health check every 30 s."""

    def __init__(self, engine: DockerClient, *, has_checks: bool = False) -> None:
        self.engine = engine
        self.ids: list[str] = []
        self._body: dict[str, Any] = {"Image": IMAGE, "Cmd": ["sleep", "10000"], "StopSignal": "SIGKILL"}
        self._body["HostConfig"] = {"NetworkMode": "none"}
        if has_checks:
            self._body["Healthcheck"] = _HEALTH

    def start(self, count: int, clients: int = CLIENTS) -> list[str]:
        """So many more from so many clients; their ids, which are not among `ids`.  Raises Failed."""
        made: list[str] = []

        def one(connection: KeptConnection, _: str) -> None:
            made.append(str(connection.call("POST", "/containers/create", self._body)["Id"]))
            connection.start(made[-1])

        self.each(one, [""] * count, clients)
        return made

    def stop(self, ids: Iterable[str], clients: int = CLIENTS) -> None:
        """Stop them.  Raises Failed."""
        self.each(lambda connection, one: connection.call("POST", f"/containers/{one}/stop?t=10"), ids, clients)

    def remove(self, ids: Iterable[str], clients: int = CLIENTS) -> None:
        """Remove them, running or not.  Raises Failed."""
        self.each(lambda connection, one: connection.remove(one), ids, clients)

    def each(self, work: Callable[[KeptConnection, str], object], ids: Iterable[str], clients: int = CLIENTS) -> None:
        """`work` for each id, shared by `clients` kept connections.  Raises Failed with what the first one said."""
        left: queue.SimpleQueue[str] = queue.SimpleQueue()
        for id in ids:
            left.put(id)
        errors: list[BaseException] = []

        def client() -> None:
            connection = KeptConnection(self.engine.socket)
            connection.timeout = _CALL_S
            try:
                while not errors:
                    work(connection, left.get_nowait())
                    connection.asked.clear()
            except queue.Empty:
                return
            except (RuntimeError, OSError, http.client.HTTPException) as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise Failed(f"{type(errors[0]).__name__}: {errors[0]}") from errors[0]


def measure(crowd: Crowd, base_mb: float, *, rounds: int, idle_s: float, extra: int) -> dict[str, float]:
    """Every measure with the containers that run now; `extra` more are started and stopped for the rates."""
    out: dict[str, float] = {}
    time.sleep(REST_S)
    out |= rest_costs(crowd, base_mb, idle_s)
    out |= looks(crowd, rounds)
    out |= lives(crowd, extra)
    return out


def rest_costs(crowd: Crowd, base_mb: float, idle_s: float) -> dict[str, float]:
    """Memory for each container, and what the engine does while nobody asks it anything."""
    own = _own(crowd)
    out = {"pss": (pss_mb(own) - base_mb) / len(crowd.ids)}
    ticks, wakes = _ticks(own), _wakeups(own)
    time.sleep(idle_s)
    after = _own(crowd)
    out["cpu"] = max(0.0, (_ticks(after) - ticks) / TICKS / idle_s * 100)
    out["wakeups"] = max(0.0, (_wakeups(after) - wakes) / idle_s)
    return out


def _own(crowd: Crowd) -> list[int]:
    """The engine's processes without the containers'."""
    found = processes(crowd.engine, frozenset(crowd.ids))
    return sorted(set(found) - workload(found))


def looks(crowd: Crowd, rounds: int) -> dict[str, float]:
    """How long it takes to see what runs."""
    engine, connection = crowd.engine, KeptConnection(crowd.engine.socket)
    first = crowd.ids[0]
    out = {
        "list": _median_ms(lambda: connection.call("GET", "/containers/json"), rounds),
        "inspect": _median_ms(lambda: connection.call("GET", f"/containers/{first}/json"), rounds),
        "stats": _median_ms(lambda: connection.call("GET", _one_shot(first)), rounds),
        "event": _median_ms(_rename_seen(engine, connection, first), rounds),
        "stats_all": _seconds(lambda: crowd.each(lambda one, each: one.call("GET", _one_shot(each)), crowd.ids)),
    }
    connection.close()
    if isinstance(engine, CortenEngine):
        out["scrape"] = _scrape_ms(engine)
    return out


def lives(crowd: Crowd, extra: int) -> dict[str, float]:
    """Containers a second: started by one client and by eight, stopped, removed; those of before go on."""
    alone: list[str] = []
    together: list[str] = []
    out = {
        "start_1": extra / _seconds(lambda: alone.extend(crowd.start(extra, 1))),
        "start_8": 2 * extra / _seconds(lambda: together.extend(crowd.start(2 * extra))),
    }
    ids = [*alone, *together]
    out["stop_8"] = len(ids) / _seconds(lambda: crowd.stop(ids))
    out["remove_8"] = len(ids) / _seconds(lambda: crowd.remove(ids))
    return out


def restart_s(engine: CortenEngine) -> float:
    """From the start of cortend until it answers, all containers adopted; before it SIGTERM."""
    engine.stop()
    engine.patience_s = _CALL_S
    return _seconds(engine.start)


def _one_shot(id: str) -> str:
    return f"/containers/{id}/stats?stream=0&one-shot=1"


def _rename_seen(engine: DockerClient, connection: KeptConnection, id: str) -> Callable[[], None]:
    """A rename, until a listener has its event."""
    turn = iter(range(10**6))

    def once() -> None:
        with _listening(engine) as lines:
            connection.call("POST", f"/containers/{id}/rename?name=renamed-{next(turn)}")
            while json.loads(next(lines))["Action"] != "rename":
                pass

    return once


@contextlib.contextmanager
def _listening(engine: DockerClient) -> Any:
    """Lines of GET /events; the listener is there before the first is asked for."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_CALL_S)
        sock.connect(str(engine.socket))
        filters = "%7B%22type%22%3A%7B%22container%22%3Atrue%7D%7D"
        sock.sendall(f"GET /v1.41/events?filters={filters} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        yield iter(answer.readline, b"")


def _scrape_ms(engine: CortenEngine) -> float:
    """GET /metrics, whose port is in the engine's network namespace."""
    script = (
        "import http.client, sys, time\n"
        f"c = http.client.HTTPConnection({METRICS!r}, timeout=120)\n"
        "for _ in range(3):\n"
        "    began = time.perf_counter()\n"
        "    c.request('GET', '/metrics'); c.getresponse().read()\n"
        "    print(time.perf_counter() - began, flush=True)\n"
        "    time.sleep(1.2)\n"
    )
    argv = [*engine.netns.enter, "/usr/bin/python3", "-I", "-c", script]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return statistics.median(map(float, done.stdout.split())) * 1000


def _median_ms(once: Callable[[], object], rounds: int) -> float:
    once()
    return statistics.median(_seconds(once) for _ in range(rounds)) * 1000


def _seconds(once: Callable[[], object]) -> float:
    began = time.perf_counter()
    once()
    return time.perf_counter() - began


def _ticks(pids: Sequence[int]) -> int:
    """With those of what they have waited for: probes of health checks (proc_pid_stat(5), utime to cstime)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total


def _wakeups(pids: Sequence[int]) -> int:
    """How often their threads have slept and gone on (proc_pid_status(5), voluntary_ctxt_switches)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
                total += int(text.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def available_mb() -> float:
    """What the machine could still give (proc_meminfo(5), MemAvailable)."""
    fields: Mapping[str, str] = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    return int(fields["MemAvailable"].split()[0]) / 1024

"""What many containers cost, in wake-ups and system calls, of which load makes no more (times: `bench/scale.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.api import Api
from corten.engine.shimwatch import PERIOD_S
from support import images
from support.engine import CortenEngine
from support.killpoints import Trace
from support.process import wait_for

COUNT = 12
LOOK_S = 2.0
OPENS = ("open", "openat", "openat2")


class Crowd:
    """Sleeping containers and their shims."""

    def __init__(self, engine: CortenEngine) -> None:
        self.engine = engine
        self.api = Api(engine.socket)
        options = ("-d", "--network", "none", images.BUSYBOX_REF, "sleep", "600")
        self.ids = [engine.docker("run", *options, check=True).stdout.strip() for _ in range(COUNT)]
        self.shims = [self._shim(one) for one in self.ids]

    def _shim(self, container_id: str) -> int:
        state = self.engine.exec_root / "tasks" / "moby" / container_id / "runtime" / container_id / "state.json"
        init = int(json.loads(state.read_text())["pid"])
        return int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])

    def wakeups(self) -> dict[int, int]:
        """How often each shim has slept and gone on (proc_pid_status(5))."""
        return {
            pid: int(Path(f"/proc/{pid}/status").read_text().rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
            for pid in self.shims
        }

    def come_to_rest(self) -> None:
        """Until no shim has done anything for a moment: each gives its pages back once it is idle."""

        def at_rest() -> bool:
            before = self.wakeups()
            time.sleep(LOOK_S / 2)
            return self.wakeups() == before

        wait_for(at_rest, "rest of all shims")


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield Crowd(engine)


def woken(before: dict[int, int], after: dict[int, int]) -> list[int]:
    return [pid for pid, count in after.items() if count != before[pid]]


def pings_since(began: float) -> int:
    """How many shims the watch over silent ones may have asked since a moment of time.monotonic."""
    return 1 + int((time.monotonic() - began) * COUNT / PERIOD_S)


def test_nobody_asks_containers_that_sleep(crowd: Crowd) -> None:
    """But for the watch over silent shims, whose pings do not become more with the containers."""
    crowd.come_to_rest()
    before, began = crowd.wakeups(), time.monotonic()
    time.sleep(LOOK_S)
    assert len(woken(before, crowd.wakeups())) <= pings_since(began)


def test_lists_and_figures_of_all_containers_wake_no_shim(crowd: Crowd) -> None:
    crowd.come_to_rest()
    before, began = crowd.wakeups(), time.monotonic()
    rows = crowd.api.ok("GET", "/containers/json")
    assert {row["Id"] for row in rows} == set(crowd.ids)
    for one in crowd.ids:
        assert crowd.api.ok("GET", f"/containers/{one}/json")["State"]["Running"]
        figures = crowd.api.ok("GET", f"/containers/{one}/stats?stream=0&one-shot=1")
        assert figures["pids_stats"]["current"] == 1
        assert figures["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert len(woken(before, crowd.wakeups())) <= pings_since(began)


def test_a_list_opens_no_file_however_many_there_are(crowd: Crowd) -> None:
    crowd.api.ok("GET", "/containers/json")  # what the first one loads
    with Trace(crowd.engine.pid, calls=OPENS) as trace:
        assert len(crowd.api.ok("GET", "/containers/json")) == COUNT
        opened = [call.text for call in trace.end()]
    assert opened == []


def test_a_start_reads_no_other_containers_records(crowd: Crowd) -> None:
    """It opens no file of theirs; what it reads of the database is not seen here."""
    api = crowd.api
    options = {"Image": images.BUSYBOX_REF, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}

    def opens() -> int:
        made = api.ok("POST", "/containers/create", options)["Id"]
        with Trace(crowd.engine.pid, calls=OPENS) as trace:
            api.ok("POST", f"/containers/{made}/start")
            count = len([call for call in trace.end() if any(one in call.text for one in crowd.ids)])
        api.ok("POST", f"/containers/{made}/wait")
        api.ok("DELETE", f"/containers/{made}?force=1")
        return count

    opens()
    assert opens() == 0

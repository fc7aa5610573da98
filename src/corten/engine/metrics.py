"""What `metrics-addr` shows: the engine under dockerd's names, every running container under cAdvisor's.

One scrape is gathered at a time, and whoever asks meanwhile, or within SHARED_S, gets the same one: a client that asks
without end costs no more than one that asks once a second.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from corten import __version__
from corten.engine import times
from corten.engine.container import Container
from corten.engine.exposition import Family, Labels, render
from corten.engine.parts import Parts
from corten.engine.record import Status
from corten.errors import CortenError

Json = dict[str, Any]
Sampler = Callable[[Container], Awaitable[Json]]

SHARED_S: Final = 1.0
_AT_ONCE: Final = 8  # what the cgroups of so many take nobody else has to wait for
_MICRO: Final = 1e-6
_NANO: Final = 1e-9
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_OPERATIONS: Final = {"Read": "reads", "Write": "writes"}
_INTERFACE: Final = {"bytes": "bytes", "packets": "packets", "errors": "errors", "dropped": "packets_dropped"}


class Metrics:
    """Gathers and keeps a scrape; `sample` gives what Engine.container_stats answers."""

    def __init__(self, parts: Parts, sample: Sampler) -> None:
        self._parts = parts
        self._sample = sample
        self._gathering: asyncio.Task[None] | None = None
        self._kept: list[Family] = []
        self._texts: dict[bool, bytes] = {}  # of what is kept, in each form that was asked for
        self._kept_at = -SHARED_S

    async def text(self, *, is_open: bool) -> bytes:
        """The scrape as text, written once for all who share it; never older than SHARED_S."""
        if self._gathering is None and time.monotonic() - self._kept_at >= SHARED_S:
            self._gathering = asyncio.create_task(self._renew())
        if self._gathering is not None:
            await asyncio.shield(self._gathering)  # a client that hangs up ends its own waiting, and nothing else
        if is_open not in self._texts:
            self._texts[is_open] = render(self._kept, is_open=is_open).encode("utf-8", "backslashreplace")
        return self._texts[is_open]

    async def _renew(self) -> None:
        try:
            self._kept, self._texts = await self._gather(), {}
            self._kept_at = time.monotonic()
        finally:
            self._gathering = None

    async def _gather(self) -> list[Family]:
        began = time.monotonic()
        table = Table()
        engine_rows(table, self._parts)
        running = [one for one in self._parts.roster if one.is_running]
        failed = await self._sample_all(table, running)
        table.add("gauge", "corten_scrape_failed_containers", failed, help="Running containers that were not sampled")
        took = time.monotonic() - began
        table.add("gauge", "corten_scrape_duration_seconds", took, help="Time that this scrape took")
        return table.families()

    async def _sample_all(self, table: Table, running: Iterable[Container]) -> int:
        """Rows of all containers; how many did not answer."""
        gate, failed = asyncio.Semaphore(_AT_ONCE), 0

        async def one(container: Container) -> None:
            nonlocal failed
            async with gate:
                try:
                    sample = await self._sample(container)
                    if "system_cpu_usage" in sample["cpu_stats"]:  # it runs
                        container_rows(table, container, sample)
                except (CortenError, KeyError, ValueError):  # one container never breaks the scrape
                    failed += container.is_running
                await asyncio.sleep(0)

        await asyncio.gather(*map(one, running))
        return failed


class Table:
    """Families in the order of their first sample."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def add(self, kind: str, name: str, value: float, labels: Labels | None = None, *, help: str) -> None:
        """One sample."""
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, kind, help)
        family.add(labels or {}, value)

    def families(self) -> list[Family]:
        """All of them."""
        return list(self._families.values())


def engine_rows(table: Table, parts: Parts) -> None:
    """dockerd's names where it counts the same; `process_` as Prometheus's libraries have them."""
    machine, roster = parts.machine, parts.roster
    paused = roster.count(lambda one: one.record.state.status is Status.PAUSED)
    running = roster.count(lambda one: one.is_running)
    states = {"paused": paused, "running": running - paused, "stopped": len(roster) - running}
    for state, count in states.items():
        text = "The count of containers in various states"
        table.add("gauge", "engine_daemon_container_states_containers", count, {"state": state}, help=text)
    about = {
        "version": __version__,
        "architecture": machine.machine,
        "kernel": machine.kernel_release,
        "daemon_id": parts.engine_id,
    }
    table.add("info", "engine_daemon_engine", 1, about, help="The engine and the system that it runs on")
    table.add("gauge", "engine_daemon_engine_cpus_cpus", machine.cpu_count, help="The number of CPUs of the host")
    table.add("gauge", "engine_daemon_engine_memory_bytes", machine.memory_bytes, help="The memory of the host")
    table.add("counter", "engine_daemon_events", parts.bus.published, help="The number of events logged")
    listeners = parts.bus.listener_count
    table.add("gauge", "engine_daemon_events_subscribers_total", listeners, help="The number of subscribers to events")
    images = len(parts.images.list())
    table.add("gauge", "corten_images", images, help="The number of images")
    _process_rows(table)


def _process_rows(table: Table) -> None:
    """Of cortend itself (proc(5), /proc/PID/stat: fields 14, 15, 22, 23, 24, counted from 1)."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    with open("/proc/stat", encoding="ascii") as file:
        boot_s = next((int(line.split()[1]) for line in file if line.startswith("btime ")), 0)
    cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
    table.add("counter", "process_cpu_seconds", cpu_s, help="CPU time of the engine's process")
    start_s = boot_s + int(fields[19]) * _TICK_S
    table.add("gauge", "process_start_time_seconds", start_s, help="Start of the engine's process, Unix time")
    table.add("gauge", "process_virtual_memory_bytes", int(fields[20]), help="Its virtual memory")
    table.add("gauge", "process_resident_memory_bytes", int(fields[21]) * _PAGE, help="Its resident memory")
    table.add("gauge", "process_open_fds", len(os.listdir("/proc/self/fd")), help="Its open file descriptors")


def container_rows(table: Table, container: Container, sample: Json) -> None:
    """One container; `sample` is Docker's (engine.stats)."""
    record = container.record
    who = {"id": container.id, "name": container.name, "image": record.image_ref}

    def add(kind: str, name: str, value: float, help: str, **more: str) -> None:
        table.add(kind, f"container_{name}", value, who | more, help=help)

    start_s = record.state.started_ns / times.SECOND_NS
    add("gauge", "start_time_seconds", start_s, "Start of the container, Unix time")
    add("gauge", "restarts", record.state.restart_count, "Restarts by its policy")
    add("gauge", "processes", sample["pids_stats"].get("current", 0), "Processes and threads")
    if "limit" in sample["pids_stats"]:
        add("gauge", "threads_max", sample["pids_stats"]["limit"], "Limit of processes and threads")
    _cpu_rows(add, sample["cpu_stats"])
    _memory_rows(add, sample["memory_stats"])
    _io_rows(add, sample)
    _own_rows(add, sample.get("corten", {}))


Add = Callable[..., None]


def _cpu_rows(add: Add, cpu: Json) -> None:
    usage, throttling = cpu["cpu_usage"], cpu["throttling_data"]
    add("counter", "cpu_usage_seconds", usage["total_usage"] * _NANO, "CPU time")
    add("counter", "cpu_user_seconds", usage["usage_in_usermode"] * _NANO, "CPU time in user mode")
    add("counter", "cpu_system_seconds", usage["usage_in_kernelmode"] * _NANO, "CPU time in the kernel")
    add("counter", "cpu_cfs_periods", throttling["periods"], "Periods in which a CPU quota was enforced")
    add("counter", "cpu_cfs_throttled_periods", throttling["throttled_periods"], "Periods in which it was used up")
    add("counter", "cpu_cfs_throttled_seconds", throttling["throttled_time"] * _NANO, "Time without CPU for that")


def _memory_rows(add: Add, memory: Json) -> None:
    used, counts = memory.get("usage", 0), memory.get("stats") or {}
    cached = counts.get("total_inactive_file", counts.get("inactive_file", 0))
    add("gauge", "memory_usage_bytes", used, "Memory, with caches")
    add("gauge", "memory_working_set_bytes", max(0, used - cached), "Memory without pages that can be dropped at once")
    add("gauge", "memory_rss", counts.get("total_rss", counts.get("anon", 0)), "Anonymous memory in bytes")
    add("gauge", "memory_cache", counts.get("total_cache", counts.get("file", 0)), "Page cache in bytes")
    add("gauge", "spec_memory_limit_bytes", memory.get("limit", 0), "Limit of memory; the host's without one")


def _io_rows(add: Add, sample: Json) -> None:
    for name, counts in (sample.get("networks") or {}).items():
        for way, prefix in (("receive", "rx"), ("transmit", "tx")):
            for key, word in _INTERFACE.items():
                text = f"{key.capitalize()} of an interface, {way}"
                add("counter", f"network_{way}_{word}", counts[f"{prefix}_{key}"], text, interface=name)
    for key, unit in (("io_service_bytes_recursive", "_bytes"), ("io_serviced_recursive", "")):
        for row in sample["blkio_stats"].get(key) or ():
            if row["op"] in _OPERATIONS:
                device, word = f"{row['major']}:{row['minor']}", _OPERATIONS[row["op"]]
                add("counter", f"fs_{word}{unit}", row["value"], f"{row['op']}s of block devices", device=device)


def _own_rows(add: Add, own: Json) -> None:
    """What the kernel tells and Docker has no field for; nothing where it does not."""
    for resource, rows in own.get("pressure", {}).items():
        for kind, word in (("some", "waiting"), ("full", "stalled")):
            if kind in rows:
                text = f"Time in which {'a process' if kind == 'some' else 'every process'} waited for {resource}"
                add("counter", f"pressure_{resource}_{word}_seconds", rows[kind]["total_us"] * _MICRO, text)
    peaks, hits = own.get("peaks", {}), own.get("events", {})
    for key, name, text in (
        ("memory_bytes", "memory_max_usage_bytes", "Most memory so far"),
        ("pids", "processes_peak", "Most processes and threads so far"),
    ):
        if key in peaks:
            add("gauge", name, peaks[key], text)
    for key, name, text in (
        ("memory_limit", "memory_failcnt", "How often the limit of memory was reached"),
        ("oom_kills", "oom_events", "Processes that were killed because memory ran out"),
        ("pids_limit", "processes_limit_hits", "Clones that the limit of processes refused"),
    ):
        if key in hits:
            add("counter", name, hits[key], text)
